# The image of the operator. Builds with docker, podman or buildah, from this folder:
#
#   docker build -t worklease-operator .
#
# `make image` builds it without a registry of images, and checks what comes out.
#
# The base needs Python 3.11 or newer with venv, and glibc. It is used to build; nothing of it is inherited. The image
# is a root file system of its own, put together by tools/image/rootfs.py: Python without the parts that develop and
# test, the locked packages, the libraries they are linked to, and the certificate authorities.
# The digest names one build of the base, for all its platforms: change it and the tag together.
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON_IMAGE} AS build
# pip reads these. Where packages must not come from the network: requirements/wheels, and 1.
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
# The time that files are given, so that the same sources make the same image.
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
WORKDIR /src

# What is locked comes first: it changes less often than the sources. pip stays in an environment of its own.
COPY requirements requirements
RUN python3 -m venv /build \
    && /build/bin/pip install --quiet --require-hashes --no-deps -r requirements/build.txt \
    && python3 -m venv --without-pip /opt/worklease \
    && /build/bin/pip --python /opt/worklease/bin/python install --quiet --no-compile --require-hashes --no-deps \
        -r requirements/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /wheel . \
    && /build/bin/pip --python /opt/worklease/bin/python install --quiet --no-compile --no-deps --no-index /wheel/*.whl

COPY tools/image/rootfs.py /build/rootfs.py
RUN /opt/worklease/bin/python -I /build/rootfs.py /rootfs

FROM scratch
COPY --from=build /rootfs /
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="worklease-operator" \
    org.opencontainers.image.description="A Kubernetes operator that keeps the work leases of self-hosted agent sandboxes" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
# Bytecode is there already, and nothing is imported from the working directory, where a volume may be mounted.
ENV PATH=/opt/worklease/bin PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["python", "-m", "worklease"]
CMD ["run"]
