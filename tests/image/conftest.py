"""Fixtures: the image that `make image` has built, and its mounted root. `make test` uses neither."""

from collections.abc import Iterator

import pytest

from image.buildah import Buildah
from image.building import REFERENCE
from image.container import Container


@pytest.fixture(scope="session")
def container() -> Iterator[Container]:
    buildah = Buildah.from_environment()
    if not buildah.has(REFERENCE):
        pytest.fail(f"there is no {REFERENCE}: `make image` builds it and runs these tests", pytrace=False)
    with buildah.mounted(REFERENCE) as mounted:
        yield mounted
