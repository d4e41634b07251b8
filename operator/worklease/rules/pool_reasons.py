"""The reasons that a condition of a WorkPool may give, in one table.

Owns the closed list of reasons and what each of them means: whether the pool polls, whether it is ready, and how loudly
it is told. Must not decide when a reason applies: ``pool`` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from worklease.rules.reasons import Severity, Verdict


class PoolKind(StrEnum):
    """The condition types of a WorkPool."""

    POLLING = "Polling"
    READY = "Ready"


class PoolReason(StrEnum):
    """Every reason that a condition of a WorkPool may give."""

    POLLING = "Polling"
    OTHER_WORKERS_POLLING = "OtherWorkersPolling"
    AT_CAPACITY = "AtCapacity"
    SUSPENDED = "Suspended"
    KEY_MISSING = "KeyMissing"
    KEY_REFUSED = "KeyRefused"
    ENVIRONMENT_NOT_FOUND = "EnvironmentNotFound"
    THROTTLED = "Throttled"
    UNREACHABLE = "Unreachable"
    SANDBOXES_FAILING = "SandboxesFailing"
    TOKEN_MISSING = "TokenMissing"  # noqa: S105 (a reason, not a token)
    TEMPLATE_REFUSED = "TemplateRefused"
    INVALID_SPEC = "InvalidSpec"


@dataclass(frozen=True, slots=True)
class PoolReasonRow:
    """What one reason means."""

    polling: Verdict
    """The status of ``Polling``."""
    ready: Verdict
    """The status of ``Ready``: a pool that is full, or asked to take nothing, is not broken."""
    event: Severity
    """Which type of Kubernetes event a change to it makes."""


_T, _F = Verdict.TRUE, Verdict.FALSE
_QUIET, _INFO, _WARNING = Severity.QUIET, Severity.INFO, Severity.WARNING

POOL_TABLE: Final[Mapping[PoolReason, PoolReasonRow]] = {
    PoolReason.POLLING: PoolReasonRow(_T, _T, _QUIET),
    PoolReason.OTHER_WORKERS_POLLING: PoolReasonRow(_T, _T, _WARNING),
    PoolReason.AT_CAPACITY: PoolReasonRow(_F, _T, _INFO),
    PoolReason.SUSPENDED: PoolReasonRow(_F, _T, _INFO),
    PoolReason.KEY_MISSING: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.KEY_REFUSED: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.ENVIRONMENT_NOT_FOUND: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.THROTTLED: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.UNREACHABLE: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.SANDBOXES_FAILING: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.TOKEN_MISSING: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.TEMPLATE_REFUSED: PoolReasonRow(_F, _F, _WARNING),
    PoolReason.INVALID_SPEC: PoolReasonRow(_F, _F, _WARNING),
}


@dataclass(frozen=True, slots=True)
class PoolCondition:
    """A condition as it should be shown."""

    kind: PoolKind
    status: Verdict
    reason: PoolReason
    message: str


def pool_conditions(reason: PoolReason, message: str) -> tuple[PoolCondition, PoolCondition]:
    """Return both conditions of a pool that polls, or does not, for a reason."""
    row = POOL_TABLE[reason]
    return (
        PoolCondition(PoolKind.POLLING, row.polling, reason, message),
        PoolCondition(PoolKind.READY, row.ready, reason, message),
    )
