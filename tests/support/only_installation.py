"""An installation without another one beside it, for tests of what has nothing to do with whose a resource is."""

from collections.abc import Mapping
from typing import Any

from worklease.rules.installations import Whose
from worklease.rules.succession import Succession


class OnlyInstallation:
    """Keeps every resource."""

    def judge(self, body: Mapping[str, Any], *, is_kept: bool, is_recorded: bool) -> Whose:
        """Return that a resource is ours."""
        del body, is_kept, is_recorded
        return Whose.OURS

    def knows(self, uid: str) -> bool:
        """Return that no resource is left alone."""
        del uid
        return False

    def succession(self, uid: str) -> Succession | None:
        """Return that nobody kept a resource before."""
        del uid
        return None

    def leave(self, bucket: int) -> None:
        """Forget nothing: nothing is known."""

    def forget(self, uid: str) -> None:
        """Forget nothing: nothing is known."""
