"""The refusals of a server.

This module owns the kinds of refusal and their statuses. It must not decide when to refuse, and it knows no HTTP
library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class RefusalKind(Enum):
    """A refusal's status and its `error.type`, from the table "Errors"."""

    INVALID = (400, "invalid_request_error")
    UNAUTHENTICATED = (401, "authentication_error")
    FORBIDDEN = (403, "permission_error")
    NOT_FOUND = (404, "not_found_error")
    CONFLICT = (409, "invalid_request_error")
    PRECONDITION = (412, "invalid_request_error")
    PRECONDITION_NAMED = (412, "precondition_failed_error")
    LIMITED = (429, "rate_limit_error")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def error_type(self) -> str:
        """The body's `error.type`."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class RequestRefusal:
    """A request that was refused. `details` is the body's `error.details`; None leaves it out."""

    kind: RefusalKind
    message: str
    details: Mapping[str, Any] | None = None
    retry_after: int | None = None
