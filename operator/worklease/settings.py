"""The settings: environment variables, each with its default and its bounds.

Owns the environment; no other module reads it. A wrong value stops the process at its start, with one clear line.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, ValidationError, field_validator
from pydantic_core import from_json
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "WORKLEASE_"

LAST_PORT: Final = 65535

_PROXY_VARIABLES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")

CERTIFICATES: Final = "WORKLEASE_PROXY_CERTIFICATES"
"""The variable with certificate authorities of the network's own, as PEM, that a proxy trusts besides its image's."""

MOST_CERTIFICATES: Final = 65536
"""Characters of it: some dozen certificates. A whole system's bundle has three times as many, and is in the image."""

_NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


_SERVICE_HOST: Final = "_SERVICE_HOST"
_SERVICE_LINK: Final = r"_(SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
"""The endings of the variables that Kubernetes sets for a Service in the pod's namespace, with its name before them."""


class InvalidSettings(ValueError):
    """A setting that cannot be used: which variable, and what it should be."""


def _bare(url: HttpUrl) -> HttpUrl:
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("should be an address without user, query or fragment")
    return url


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > LAST_PORT:
        raise ValueError("should be host:port, such as [::]:8080")
    return value


def _annotations(value: object) -> object:
    """Read a JSON object of annotations, as the chart writes it."""
    if not isinstance(value, str):
        return value
    try:
        read = from_json(value)
    except ValueError:
        read = None
    if not isinstance(read, dict) or not all(isinstance(each, str) for each in read.values()):
        raise ValueError('should be a JSON object of strings, such as {"karpenter.sh/do-not-disrupt":"true"}')
    return read


class Settings(BaseSettings):
    """The settings of the operator, as its environment has them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    api_url: Annotated[HttpUrl, AfterValidator(_bare)] = HttpUrl("https://api.anthropic.com")
    """The Work API's address."""
    namespaces: Annotated[tuple[Annotated[str, Field(pattern=_NAME, max_length=63)], ...], NoDecode] = ()
    """The namespaces to watch; none: all."""
    pool_namespaces: Annotated[tuple[Annotated[str, Field(pattern=_NAME, max_length=63)], ...], NoDecode] = ()
    """The namespaces in which the operator looks for volumes of sessions that nobody uses any more, to delete them:
    those of pools. It also looks in those of the resources with a workspace that it keeps."""
    credentials_secret: Annotated[str, Field(pattern=_NAME, max_length=253)] = "worklease-credentials"  # noqa: S105 (the name of a Secret)
    """The Secret for resources that do not name one."""
    sandbox_annotations: Annotated[Mapping[str, str], NoDecode, BeforeValidator(_annotations)] = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    """Annotations of each sandbox pod that the operator creates, as a JSON object; those of a template take precedence.
    By default, two that keep the autoscalers of nodes from evicting it."""
    proxy_image: Annotated[str, Field(max_length=4096)] = ""
    """The image of the proxy beside an unmodified worker, for resources with ``sandbox.worker.proxy``: the image of the
    operator. Without it such resources are refused."""
    max_heartbeat_interval: Annotated[float, Field(ge=0.1, le=3600, allow_inf_nan=False)] = 30.0
    """The longest time between two routine beats, in seconds; a beat is due after a third of the TTL if that is
    sooner."""
    requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 300
    """The most calls to the Work API in a minute, for all leases together; 0: no limit. The API's own limit is for the
    whole organization."""
    status_writes_per_second: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 20.0
    """The most status writes in a second; steady leases use at most half of them. This limits the load on the API
    server; leases do not depend on it."""
    namespace: Annotated[str, Field(pattern=_NAME, max_length=63)] | None = None
    """The operator's own namespace, for its checkpoint; by default the service account's or the kubeconfig's."""
    pod_uid: Annotated[str, Field(pattern=r"^[-0-9A-Za-z]*$", max_length=63)] = ""
    """The uid of the operator's pod: a container that is started again there goes on at once with what the one before
    it left. The chart sets it; without it, only a process on the same machine does."""
    http_address: Annotated[str, AfterValidator(_address)] = "[::]:8080"
    """The address of ``/metrics``, ``/healthz`` and ``/readyz``, as host:port; port 0 takes any free port. ``[::]`` is
    every address, IPv4 and IPv6."""
    log_format: Literal["json", "text"] | None = None
    """The form of log lines; by default ``text`` on a terminal, else ``json``."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest severity that is logged."""

    @field_validator("namespaces", "pool_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Raises:
            InvalidSettings: A value cannot be used, or there is no such setting; the message names all of them.
        """
        unknown = [*_unknown(os.environ, [field.upper() for field in cls.model_fields])]
        try:
            settings = cls()
        except ValidationError as error:
            wrong = [_problem(str(part["loc"][0]), part["msg"]) for part in error.errors()]
            raise InvalidSettings("; ".join(unknown + wrong)) from error
        if unknown:
            raise InvalidSettings("; ".join(unknown))
        return settings

    def way_to_the_api(self) -> Mapping[str, str]:
        """Return the variables by which another container reaches the Work API as the operator does.

        Certificate authorities go by value: a file of the operator's container is not in the other.
        """
        found = {name: os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)}
        try:
            authorities = Path(os.environ.get("SSL_CERT_FILE") or os.devnull).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return found
        return found | ({CERTIFICATES: authorities} if 0 < len(authorities) <= MOST_CERTIFICATES else {})

    @property
    def http_host(self) -> str:
        """The host of ``http_address``; an IPv6 address is without its brackets."""
        return self.http_address.rpartition(":")[0].strip("[]")

    @property
    def http_port(self) -> int:
        """The port of ``http_address``."""
        return int(self.http_address.rpartition(":")[2])

    @property
    def logs_json(self) -> bool:
        """Whether log lines are JSON: as the setting says, or by where they go."""
        return self.log_format == "json" or (self.log_format is None and not sys.stderr.isatty())


def _problem(field: str, message: str) -> str:
    problem = message.removeprefix("Value error, ")
    return f"{PREFIX}{field.upper()}: {problem[:1].lower()}{problem[1:]}"


def _unknown(environment: Mapping[str, str], known: list[str]) -> Iterator[str]:
    """Yield the problem of each variable that looks like a setting and is none: a typo must not pass in silence."""
    for name in sorted(environment):
        bare = name.upper().removeprefix(PREFIX)
        if bare == name.upper() or bare in known or _is_of_a_service(name, environment):
            continue
        # Compared without the prefix: with it, any two names are similar.
        nearest = get_close_matches(bare, known, n=1)
        all_names = ", ".join(f"{PREFIX}{setting}" for setting in known)
        yield f"{name}: there is no such setting; " + (
            f"did you mean {PREFIX}{nearest[0]}?" if nearest else f"the settings are {all_names}"
        )


def _is_of_a_service(name: str, environment: Mapping[str, str]) -> bool:
    """Whether Kubernetes set the variable in the pod, for a Service such as ``worklease-operator``."""
    services = (host.removesuffix(_SERVICE_HOST) for host in environment if host.endswith(_SERVICE_HOST))
    return name.endswith(_SERVICE_HOST) or any(
        re.fullmatch(re.escape(service) + _SERVICE_LINK, name) for service in services
    )
