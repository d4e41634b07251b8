"""What a WorkLease of a pool says to its pool, read from the resource as the API server shows it.

Owns this reading. What only the operator's memory and its checkpoint know, an acknowledgement that is in doubt, is
added by whoever has it; whether its Secret is there too. Must not decide anything.
"""

from collections.abc import Mapping
from typing import Any, Final

from worklease.api.models import InvalidResource, StatusCondition, WorkLease
from worklease.api.names import (
    DELIVERIES_ANNOTATION,
    POOL_LABEL,
    REFUSED_ANNOTATION,
    SESSION_LABEL,
    TEMPLATE_ANNOTATION,
)
from worklease.rules.breaker import BreakerCause
from worklease.rules.pool import PoolLease, StartFailure, stage_of
from worklease.rules.reasons import Kind, Reason, Verdict

WAITING: Final = frozenset({"PredecessorEnding", "VolumeBusy"})
"""The reasons of ``SandboxReady`` with which a sandbox waits for an earlier delivery of its session."""

MOST_DIGITS: Final = 9
"""Digits of a count that is read; no session was delivered more often."""

FAILED: Final = "Failed"
"""The phase of a pod that failed (Kubernetes API)."""


_NOT_STARTED: Final = frozenset(
    {
        Reason.IMAGE_PULL_FAILED,
        Reason.CONFIG_ERROR,
        Reason.CRASH_LOOP,
        Reason.CREATION_REFUSED,
        Reason.START_DEADLINE_EXCEEDED,
    }
)
"""The reasons of ``SandboxReady`` that say that a sandbox does not start, long before its deadline."""

_OF_SESSION: Final = frozenset({Reason.SESSION_IDLE, Reason.SESSION_ENDED})
"""The reasons of ``SandboxReady`` with which a sandbox was stopped because of its session: it has not failed."""

_NO_ROOM: Final = frozenset({Reason.QUOTA_EXCEEDED, Reason.ADMISSION_UNAVAILABLE, Reason.INVALID_SPEC})
"""The reasons with which the cluster refuses a pod, before or after the claim."""


def _start_failure(held: StatusCondition | None, ready: StatusCondition | None) -> StartFailure | None:
    for said in (held, ready):
        if said is None or said.status.value == Verdict.TRUE:
            continue
        if said.reason in _NO_ROOM:
            return StartFailure(BreakerCause.NO_ROOM, f"{said.reason}: {said.message}")
        if said is ready and said.reason in _NOT_STARTED:
            return StartFailure(BreakerCause.NOT_STARTED, f"{said.reason}: {said.message}")
    return None


def pool_of(body: Mapping[str, Any]) -> str | None:
    """Return the name of the pool that made a WorkLease; None: somebody else did."""
    labels = (body.get("metadata") or {}).get("labels") or {}
    return labels.get(POOL_LABEL) or None


def read_pool_lease(body: Mapping[str, Any]) -> PoolLease:
    """Return a WorkLease as its pool counts it. Its time is that of the cluster.

    One that cannot be read, such as one of a newer operator, counts, and nothing is concluded from it.
    """
    metadata = body["metadata"]
    try:
        lease = WorkLease.parse(body)
    except InvalidResource:
        return PoolLease(
            name=metadata["name"], uid=metadata["uid"], work_id="", session_id="", created=0.0, is_acknowledged=True
        )
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    said = {condition.type: condition for condition in lease.status.conditions}
    held, ready, finished = said.get(Kind.LEASE_HELD), said.get(Kind.SANDBOX_READY), said.get(Kind.FINISHED)
    is_finished = finished is not None and finished.status.value == Verdict.TRUE
    is_torn_down = finished is not None and finished.reason == Reason.TEARING_DOWN
    is_draining = held is not None and held.reason == Reason.DRAINING
    newest = next(iter(lease.status.sandboxes), None)
    # A pod whose containers never ran has no exit code, and says nothing about its session.
    is_failed_pod = newest is not None and newest.phase == FAILED
    has_run = newest is not None and newest.exit_code is not None
    was_stopped = finished is not None and finished.reason == Reason.STOPPED
    # A worker that is told to end may end with any exit code.
    is_failure = is_failed_pod and not (ready is not None and ready.reason in _OF_SESSION)
    return PoolLease(
        name=lease.name,
        uid=lease.uid,
        work_id=lease.spec.work_id,
        session_id=labels.get(SESSION_LABEL) or lease.spec.work_id,
        created=lease.creation_timestamp.timestamp(),
        stage=stage_of(
            is_held=held is not None and held.status.value == Verdict.TRUE,
            is_sandbox_ready=ready is not None and ready.status.value == Verdict.TRUE,
            is_finished=is_finished,
            is_ending=lease.deletion_timestamp is not None or is_torn_down or is_draining,
        ),
        # Another process may keep it: then only the status says that it claims, which it does after that.
        is_acknowledged=lease.status.claim_time is not None
        or (lease.spec.acknowledge and held is not None and held.reason == Reason.CLAIMING),
        needs_token=lease.spec.sessions_token_secret_ref is not None,
        is_deleting=lease.deletion_timestamp is not None,
        is_waiting=ready is not None and ready.reason in WAITING,
        is_refused=REFUSED_ANNOTATION in annotations,
        failed_deliveries=_whole_number(annotations.get(DELIVERIES_ANNOTATION)),
        has_failed=is_finished and is_failure and has_run,
        has_succeeded=is_finished and was_stopped and not is_failure,
        template=annotations.get(TEMPLATE_ANNOTATION) or "",
        failure=None if is_finished else _start_failure(held, ready),
    )


def _whole_number(text: object) -> int:
    """Read a count that anybody may have edited; what is none is 0."""
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > MOST_DIGITS:
        return 0
    return int(text)
