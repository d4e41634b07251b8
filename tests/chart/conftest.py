from collections.abc import Iterator

import pytest

from controlplane import ControlPlane
from support.installation import Installation


@pytest.fixture
def installation(bare_control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation in which nothing is installed yet, and of which nothing is left afterwards."""
    with Installation(bare_control_plane, tmp_path_factory.mktemp("helm")) as prepared:
        yield prepared
