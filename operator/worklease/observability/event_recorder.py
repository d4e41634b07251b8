"""Kubernetes events on the resource: its transitions, for ``kubectl describe``.

Owns the events API (``events.k8s.io/v1``), the events' reasons, and their rate. It listens to telemetry, and must not
block anything: it drops an event that it cannot write in time, and logs how many it dropped.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import CONTROLLER
from worklease.cluster.client import GIVEN_UP, WRITE_TIMEOUT, Done, KubernetesApi, NoAnswer, Refused
from worklease.pace import FairQueue, TokenBucket
from worklease.rules.pods import Cause
from worklease.rules.reasons import Kind, Reason, Severity, Verdict, row_of
from worklease.telemetry import (
    About,
    AboutPool,
    BeatEnded,
    BucketMoved,
    CallRefused,
    ConditionChanged,
    DeletionAsked,
    DeletionRefused,
    DrainNotAnnounced,
    ItemHandled,
    ItemResult,
    KopfEnded,
    LeaseAdopted,
    LeaseEnded,
    LeaseTakenOver,
    LeftAlone,
    LoopLagged,
    Orphaned,
    PodIgnored,
    PoolChanged,
    PoolGone,
    PoolPolled,
    PoolSandboxStarted,
    SandboxEnded,
    SandboxGone,
    SandboxMade,
    StatusWrite,
    StopEnded,
    TelemetryEvent,
    TurnGiven,
)

PER_SECOND: Final = 20.0
"""Events per second at most: as many as status writes, which matter more."""

BURST: Final = 50.0
"""Events that may be written at once after a pause."""

MOST_WAITING: Final = 5_000
"""Events that wait at most; of more than that, the newest of the namespace with most of them are dropped."""

WRITERS: Final = 4
"""Writes under way at once, of different namespaces: where one hangs, the events of others go on."""

TRIES: Final = 3
"""How often an event is tried. It may be lost after that: the status says the same."""

RETRY: Final = 2.0
"""Seconds between two tries: an API server that is busy needs a moment."""

LONGEST_NOTE: Final = 1024
"""Bytes of a note at most (events.k8s.io/v1)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Queued:
    """A Kubernetes event that waits, since when, and the number in its name, which no other one has."""

    event: "KubernetesEvent"
    at: datetime
    stamp: int


@dataclass(frozen=True, slots=True)
class KubernetesEvent:
    """One Kubernetes event, without its times and its object."""

    about: About | AboutPool
    reason: str
    action: str
    note: str
    is_warning: bool = False
    pod: str = ""
    """The related pod's name."""


def kubernetes_event(event: TelemetryEvent) -> KubernetesEvent | None:
    """Return the Kubernetes event for something that happened; None if people do not wait for it."""
    match event:
        case ConditionChanged():
            return _of_condition(event)
        case SandboxMade(about, pod, attempt):
            which = f", attempt {attempt + 1}" if attempt else ""
            return KubernetesEvent(
                about, "SandboxCreated", "Create", f"Pod {pod} was created from the template{which}.", pod=pod
            )
        case SandboxEnded():
            return _of_end(event)
        case DeletionAsked(about, pod, cause, grace, _):
            note = f"Pod {pod} is being deleted and has {grace:.0f} s to end ({cause})."
            return KubernetesEvent(about, "TearingDown", "Delete", note, pod=pod)
        case DeletionRefused(about, pod, message):
            note = f"Deleting pod {pod} was refused; retrying: {message}"
            return KubernetesEvent(about, "DeletionRefused", "Delete", note, is_warning=True, pod=pod)
        case DrainNotAnnounced(about, pod, message):
            note = f"Asking the worker of pod {pod} to finish was refused, so the pod is deleted instead: {message}"
            return KubernetesEvent(about, "DrainNotAnnounced", "Drain", note, is_warning=True, pod=pod)
        case SandboxGone(about, pod):
            return KubernetesEvent(about, "TornDown", "Delete", f"Pod {pod} is gone.", pod=pod)
        case PodIgnored(about, pod, message):
            return KubernetesEvent(about, "PodIgnored", "Delete", message, is_warning=True, pod=pod)
        case Orphaned(about, message):
            return KubernetesEvent(about, "Orphaned", "Release", message, is_warning=True)
        case LeftAlone(about, _, message):
            return KubernetesEvent(about, "LeftAlone", "Leave", message, is_warning=True)
        case BeatEnded() | CallRefused() | KopfEnded() | LeaseAdopted() | LeaseEnded() | LoopLagged() | StatusWrite():
            return None
        case (
            BucketMoved()
            | LeaseTakenOver()
            | StopEnded()
            | TurnGiven()
            | PoolPolled()
            | PoolSandboxStarted()
            | PoolGone()
        ):
            return None
        case PoolChanged(about, reason, message, is_warning):
            return KubernetesEvent(about, reason, "Poll", message, is_warning=is_warning)
        case ItemHandled(about, work_id, result, message):
            return _of_item(about, work_id, result, message)
        case _:
            assert_never(event)


def _of_item(about: AboutPool, work_id: str, result: ItemResult, message: str) -> KubernetesEvent | None:
    match result:
        case ItemResult.TAKEN:
            return KubernetesEvent(about, "ItemTaken", "Take", f"Work item {work_id} has WorkLease {message}.")
        case ItemResult.REFUSED:
            note = f"Work item {work_id} is not worked on: {message}"
            return KubernetesEvent(about, "ItemRefused", "Refuse", note, is_warning=True)
        case ItemResult.LEFT | ItemResult.NOT_WRITTEN:
            return None
        case _:
            assert_never(result)


def _of_end(event: SandboxEnded) -> KubernetesEvent:
    """Return the event for the end of a sandbox, or for what is about to end it."""
    cause, message = event.cause, event.message
    reason = {
        Cause.SUCCEEDED.value: "SandboxSucceeded",
        Cause.SESSION_IDLE.value: "SessionIdle",
        Cause.SESSION_ENDED.value: "SessionEnded",
    }.get(cause, "SandboxFailed")
    is_told = cause == reason or cause.casefold() in message.casefold()
    note = message if is_told else f"{message} ({cause})"
    return KubernetesEvent(event.about, reason, "Conclude", note, is_warning=reason == "SandboxFailed", pod=event.pod)


def _of_condition(changed: ConditionChanged) -> KubernetesEvent | None:
    about, reason, message = changed.about, changed.reason, changed.message
    if changed.type == Kind.SANDBOX_READY and changed.status == Verdict.TRUE:
        return KubernetesEvent(about, "SandboxStarted", "Start", message)
    row = row_of(reason)
    if changed.type != Kind.LEASE_HELD or row.event is Severity.QUIET:
        return None
    if reason == Reason.RENEWED:
        is_claim = changed.former_status in {None, Verdict.FALSE.value}
        return (
            KubernetesEvent(about, "Claimed", "Claim", message)
            if is_claim
            else KubernetesEvent(about, "Renewed", "Renew", message)
        )
    action = "Drain" if reason == Reason.DRAINING else "End" if row.is_final else "Renew"
    return KubernetesEvent(about, reason, action, message, is_warning=row.event is Severity.WARNING)


class EventRecorder:
    """Writes Kubernetes events at a limited rate: by turns between the namespaces, and in each one after the other.

    Args:
        api: The Kubernetes API.
        now: Returns the time of day, in UTC.
        may_emit: Says whether this process may write of a resource, by its uid: another one may keep it by now.
    """

    def __init__(
        self, api: KubernetesApi, now: Callable[[], datetime], *, may_emit: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._api, self._may_emit = api, may_emit
        self._now = now
        self._waiting: FairQueue[_Queued] = FairQueue()
        self._under_way: set[str] = set()
        """The namespaces of which an event is being written."""
        self._news = asyncio.Semaphore(0)
        """Counts what may be taken: it wakes one writer for each event, not all of them."""
        self._dropped = 0
        self._latest = 0
        self._instance = f"{socket.gethostname()}-{os.getpid()}"[:128]

    @property
    def waiting(self) -> int:
        """The number of events that wait to be written."""
        return len(self._waiting)

    def listen(self, event: TelemetryEvent) -> None:
        """Queue the Kubernetes event for what happened, if there is one."""
        queued = kubernetes_event(event)
        if queued is None:
            return
        at = self._now()
        self._waiting.put(queued.about.namespace, _Queued(queued, at, self._stamp(at)))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.drop_newest_of_most()
            self._dropped += 1
        self._news.release()

    async def run(self) -> None:
        """Write until cancelled."""
        pace = TokenBucket(PER_SECOND, BURST, asyncio.get_running_loop().time())
        async with asyncio.TaskGroup() as writers:
            for number in range(WRITERS):
                writers.create_task(self._write_on(pace), name=f"event writer {number}")

    async def _write_on(self, pace: TokenBucket) -> None:
        while True:
            await self._news.acquire()
            taken = self._waiting.take(lambda namespace: namespace not in self._under_way)
            if taken is None:
                continue  # an event of the namespace is being written: its end is news again
            namespace, queued = taken
            self._under_way.add(namespace)
            await asyncio.sleep(pace.reserve(asyncio.get_running_loop().time()))
            await self._write(queued)
            self._under_way.remove(namespace)
            if self._waiting:
                self._news.release()
            if self._dropped and len(self._waiting) < MOST_WAITING:
                _log.warning("events dropped because too many waited: %d", self._dropped)
                self._dropped = 0

    async def _write(self, queued: _Queued) -> None:
        event = queued.event
        path = f"/apis/events.k8s.io/v1/namespaces/{event.about.namespace}/events"
        body = self._body(event, queued.at, queued.stamp)
        for left in reversed(range(TRIES)):
            if not self._may_emit(event.about.uid):
                _log.info("event dropped, since another process may keep the lease reason=%s", event.reason)
                return
            match await self._api.call("POST", path, query=GIVEN_UP, body=body, timeout=WRITE_TIMEOUT):
                case Done():
                    return
                case Refused() as refused if refused.is_by_name:
                    return  # an earlier try was written, and its answer was lost
                case Refused(status=HTTPStatus.FORBIDDEN | HTTPStatus.NOT_FOUND, message=message):
                    # A namespace that is being deleted takes no events; another try is refused as well.
                    _log.info(
                        "event not written reason=%s namespace=%s: %s", event.reason, event.about.namespace, message
                    )
                    return
                case Refused(_, message) | NoAnswer(message):
                    if not left:
                        _log.warning("event dropped reason=%s name=%s: %s", event.reason, event.about.name, message)
                        return
                    await asyncio.sleep(RETRY)
                case reply:
                    assert_never(reply)

    def _stamp(self, at: datetime) -> int:
        """Return an event's time in microseconds, or the next one that no earlier event has."""
        self._latest = max(self._latest + 1, round(at.timestamp() * 1e6))
        return self._latest

    def _body(self, event: KubernetesEvent, at: datetime, stamp: int) -> dict[str, Any]:
        about = event.about
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # kubectl describe sorts events of this API by name, so the names contain their time.
            "metadata": {"name": f"{about.name[:200]}.{stamp:x}", "namespace": about.namespace},
            "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": event.action,
            "reason": event.reason,
            "type": "Warning" if event.is_warning else "Normal",
            "note": _cut(event.note),
            "regarding": {
                "apiVersion": "worklease.dev/v1alpha1",
                "kind": "WorkPool" if isinstance(about, AboutPool) else "WorkLease",
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
        }
        if event.pod:
            pod = {"apiVersion": "v1", "kind": "Pod", "namespace": about.namespace, "name": event.pod}
            body["related"] = pod
        return body


def _cut(note: str) -> str:
    """Return a note, cut to the bytes that it may have."""
    raw = note.encode()
    return note if len(raw) <= LONGEST_NOTE else raw[: LONGEST_NOTE - 3].decode(errors="ignore") + "…"
