"""Which images the journey uses: the user can name each, because a cluster may have no registry.

Must not pull or push anything.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

OPERATOR, SANDBOX = "E2E_IMAGE", "E2E_SANDBOX_IMAGE"
DEFAULT_SANDBOX = "busybox:1.37"  # has all that the sandboxes need: a shell, trap, tail and dd


class ImagesError(Exception):
    """No image is named; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Images:
    """The operator's image, which is the simulator's too, and the sandboxes'."""

    operator: str
    sandbox: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read E2E_IMAGE, which must be set, and E2E_SANDBOX_IMAGE, which may be."""
        operator = environ.get(OPERATOR, "")
        if not operator:
            raise ImagesError(
                f"{OPERATOR} is not set: name an image that the cluster has or can pull, such as "
                f"{OPERATOR}=localhost/worklease-operator:0.1.0, which `make image` builds (kind load ...)"
            )
        return cls(operator, environ.get(SANDBOX) or DEFAULT_SANDBOX)

    @property
    def values(self) -> dict[str, str]:
        """Return the chart's values that name the operator's image."""
        rest, _, digest = self.operator.partition("@")
        # A colon before a slash is the registry's port.
        repository, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = rest, "latest"
        named = {"image.digest": digest} if digest else {"image.tag": tag}
        return {"image.repository": repository, **named, "image.pullPolicy": "IfNotPresent"}
