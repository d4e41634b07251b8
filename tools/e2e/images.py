"""Which images the journey uses: each can be named, since a cluster may have no registry.

Must not pull or push anything.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

OPERATOR, SANDBOX = "E2E_IMAGE", "E2E_SANDBOX_IMAGE"
DEFAULT_SANDBOX = "busybox:1.37"  # a shell, trap, tail and dd are all that it needs


class ImagesError(Exception):
    """No image is named; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Images:
    """The operator's image, which is the simulator's too, and the sandboxes'."""

    operator: str
    sandbox: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """E2E_IMAGE must be named; E2E_SANDBOX_IMAGE may be."""
        operator = environ.get(OPERATOR, "")
        if not operator:
            raise ImagesError(
                f"{OPERATOR} is not set: name an image that the cluster has or can pull, as in "
                f"{OPERATOR}=localhost/worklease-operator:0.1.0, which `make image` builds (kind load ...)"
            )
        return cls(operator, environ.get(SANDBOX) or DEFAULT_SANDBOX)

    @property
    def values(self) -> dict[str, str]:
        """The chart's values that name the operator's image."""
        rest, _, digest = self.operator.partition("@")
        # A colon before a slash is the registry's port.
        repository, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = rest, "latest"
        named = {"image.digest": digest} if digest else {"image.tag": tag}
        return {"image.repository": repository, **named, "image.pullPolicy": "IfNotPresent"}
