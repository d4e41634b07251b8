"""A pool: whether it polls and why, at which pace, how its leases are counted, and what shows that.

Owns P10, nothing is taken that cannot be served, and P12, the cap is a cap. What becomes of an item that a poll brought
is in ``pool_items``. Times are of one clock, which the caller chooses. Pure.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final, TypeVar, assert_never

from worklease.rules.backoff import backoff
from worklease.rules.breaker import CLOSED, Breaker, BreakerCause
from worklease.rules.pool_reasons import PoolReason
from worklease.rules.queue import CallFailed, QueueFailure

BLOCK_MS: Final = 999
"""For how long a poll may wait at the server: the most that it allows."""

RECLAIM_MS: Final = 10_000
"""After how long an item that nobody acknowledged is offered again: an acknowledgement follows within ``ACK_WITHIN``,
and some servers go by the value of the poll that reserved it."""

SHORTEST_REST: Final = 1.0
LONGEST_REST: Final = 3.0
"""Seconds of rest after a poll that brought nothing, as in the public client: with two on average, a server that does
not block gets 30 polls a minute, and an item waits for one second on average."""

FIRST_BACKOFF: Final = 2.0
LONGEST_BACKOFF: Final = 60.0
"""Seconds after a poll that failed; they double. An outage that is over is noticed within a minute."""

REFUSED_KEY: Final = 60.0
"""Seconds between polls with a key that is refused; a Secret that changes is tried at once."""

NOT_FOUND_IN_A_ROW: Final = 10
"""Polls answered 404 in a row that mean the environment; fewer are entries of sessions that were deleted."""

TENURE: Final = 5.0
"""Seconds before the first poll of a pool that another process had, and before the list that it goes by: what that one
had in flight is done by then, since the API server gives a creation up after two."""

DOUBT: Final = 60.0
"""Seconds for which a creation without an answer counts: the API server's own time-out, should something on the way
have dropped the two seconds that the creation asks for."""

TEMPLATE_AGE: Final = 600.0
"""Seconds after which a template that was accepted is tried again: quotas, policies and webhooks change without it."""

FIRST_RETRY: Final = 15.0
"""Seconds after which a template that was refused is tried again; they double up to ``TEMPLATE_AGE``."""

STATS_AGE: Final = 60.0
"""Seconds between two reads of the queue's numbers."""

FINALIZER_PATIENCE: Final = 120.0
"""Seconds for which a deleted pool waits for its leases at most."""


# --- The leases of a pool --------------------------------------------------------------------------------------------


class Stage(Enum):
    """How far a lease of a pool is that is not finished."""

    CLAIMING = auto()
    """Its lease is not held yet."""
    STARTING = auto()
    """Its lease is held, and its sandbox is not ready."""
    RUNNING = auto()
    ENDING = auto()


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a sandbox does not start: which of the breaker's causes, and in words."""

    cause: BreakerCause
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLease:
    """A WorkLease of the pool, as the cluster shows it."""

    name: str
    uid: str
    work_id: str
    session_id: str
    created: float
    stage: Stage | None = Stage.CLAIMING
    """None: it is finished."""
    is_acknowledged: bool = False
    """Whether an acknowledgement of its item was accepted, or the lease was held."""
    is_ack_in_doubt: bool = False
    """Whether an acknowledgement was sent whose answer nobody knows."""
    needs_token: bool = True
    has_token: bool = False
    """Whether its Secret is there."""
    polled: float | None = None
    """When the last poll that brought its item was sent."""
    is_deleting: bool = False
    is_waiting: bool = False
    """Whether its sandbox waits for an earlier delivery of its session, or its volume: it says nothing of starts."""
    is_refused: bool = False
    """Whether it was made to stop its item, and has no sandbox."""
    failed_deliveries: int = 0
    """How many deliveries of its session had failed in a row when it was made."""
    has_failed: bool = False
    """Whether its sandbox ran and failed."""
    has_succeeded: bool = False
    template: str = ""
    """The pod template that it was made from, as a digest."""
    failure: StartFailure | None = None
    """Why its sandbox does not start, as its status says; None: nothing says so."""

    @property
    def counts(self) -> bool:
        """Whether it takes one of the pool's places."""
        return self.stage is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCensus:
    """The pool's leases, as far as they are known: never fewer than there are.

    A cache may lag, and a creation may be unanswered. So a creation counts from before it is sent, until the cluster
    shows the lease, or surely has none.
    """

    is_complete: bool = False
    """Whether a consistent list was read since the start."""
    began: float = float("-inf")
    """When the last one began."""
    leases: Mapping[str, PoolLease] = field(default_factory=dict)
    """By name."""
    unseen: Mapping[str, float] = field(default_factory=dict)
    """Creations that nothing has shown yet, by name, and until when they may still be carried out."""

    def creating(self, name: str) -> "PoolCensus":
        """Return the census while a creation is on its way: it counts, and nothing makes it forgotten.

        An older lease of that name may be known that is gone meanwhile; its end must not end the creation's count.
        """
        return replace(self, unseen={**self.unseen, name: float("inf")})

    def answered(self, lease: PoolLease) -> "PoolCensus":
        """Return the census after a creation was answered, or its name was read, consistently, after it."""
        return replace(self, leases={**self.leases, lease.name: lease}, unseen=_without(self.unseen, lease.name))

    def not_created(self, name: str) -> "PoolCensus":
        """Return the census after a creation was refused: it surely is not carried out."""
        return replace(self, unseen=_without(self.unseen, name))

    def unanswered(self, name: str, now: float) -> "PoolCensus":
        """Return the census after a creation without an answer: it may be carried out for a while."""
        return replace(self, unseen={**self.unseen, name: now + DOUBT}) if name in self.unseen else self

    def seen(self, lease: PoolLease) -> "PoolCensus":
        """Return the census after a watch showed a lease, perhaps as it was a while ago."""
        known = self.leases.get(lease.name)
        is_old = known is not None and known.uid == lease.uid
        unseen = self.unseen if is_old else _without(self.unseen, lease.name)
        return replace(self, leases={**self.leases, lease.name: lease}, unseen=unseen)

    def deleted(self, name: str, uid: str) -> "PoolCensus":
        """Return the census after a watch showed that a lease is gone; a successor of the same name is not."""
        known = self.leases.get(name)
        return self if known is None or known.uid != uid else replace(self, leases=_without(self.leases, name))

    def listed(self, leases: Iterable[PoolLease], began: float) -> "PoolCensus":
        """Return the census after a consistent list that began at ``began``; a list from a cache is none."""
        found = {each.name: each for each in leases}
        unseen = {
            name: until for name, until in self.unseen.items() if until > began and not self._is_new(found.get(name))
        }
        return PoolCensus(is_complete=True, began=began, leases=found, unseen=unseen)

    def _is_new(self, found: PoolLease | None) -> bool:
        """Whether a lease was found that was not known before."""
        known = None if found is None else self.leases.get(found.name)
        return found is not None and (known is None or known.uid != found.uid)

    def _names(self, stages: Collection[Stage], since: float = float("-inf")) -> set[str]:
        """Return the names of the leases in these stages, and those of creations that nothing has shown."""
        return set(self.unseen) | {
            each.name for each in self.leases.values() if each.stage in stages and each.created >= since
        }

    def proves(self, template: str) -> bool:
        """Whether a sandbox of a pod template was ready, or has run: after a start only the leases say so."""
        return any(
            each.template == template and (each.stage is Stage.RUNNING or each.has_succeeded or each.has_failed)
            for each in self.leases.values()
        )

    @property
    def active(self) -> int:
        """The number of leases that are not finished, and of creations that may be."""
        return len(self._names(tuple(Stage)))

    def starting(self, since: float = float("-inf"), template: str | None = None) -> int:
        """Return how many have no sandbox yet, of those that were made since then, wait for nobody and do not fail.

        One that fails is known to the breaker, and stays until its deadline: a trial must not wait for that. With a
        ``template``, those of others do not count: they say nothing about it.
        """
        others = {
            each.name
            for each in self.leases.values()
            if each.is_waiting or each.failure is not None or (template and each.template not in {"", template})
        }
        return len(self._names((Stage.CLAIMING, Stage.STARTING), since) - others)

    def count(self) -> Mapping[Stage, int]:
        """Return how many are in each stage; they add up to ``active``, since a creation is claiming at first."""
        counted = dict.fromkeys(Stage, 0)
        for each in self.leases.values():
            if each.stage is not None and each.name not in self.unseen:
                counted[each.stage] += 1
        counted[Stage.CLAIMING] += len(self.unseen)
        return counted


_Value = TypeVar("_Value")


def _without(known: Mapping[str, _Value], name: str) -> Mapping[str, _Value]:
    return {key: value for key, value in known.items() if key != name}


def stage_of(*, is_held: bool, is_sandbox_ready: bool, is_finished: bool, is_ending: bool) -> Stage | None:
    """Return the stage of a lease; ``is_ending``: its item or its sandbox ends, or the resource is deleted."""
    if is_finished:
        return None
    if is_ending:
        return Stage.ENDING
    if is_sandbox_ready:
        return Stage.RUNNING
    return Stage.STARTING if is_held else Stage.CLAIMING


# --- Polls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Polls:
    """What the last polls brought, and when the next one may be sent."""

    next_at: float = 0.0
    last: CallFailed | None = None
    """Why the last one failed; None: it did not."""
    failures: int = 0
    """How many failed in a row."""
    not_found: int = 0
    """How many were answered 404 in a row."""


def after_poll(polls: Polls, failed: CallFailed | None, *, is_empty: bool, rest: float, now: float) -> Polls:
    """Return the polls after one more; ``rest`` is drawn between ``SHORTEST_REST`` and ``LONGEST_REST``.

    After an item the next poll may go at once: where one waited, others may.
    """
    if failed is None:
        return Polls(next_at=now + rest if is_empty else now)
    failures = polls.failures + 1
    match failed.failure:
        case QueueFailure.NOT_FOUND:
            missing = polls.not_found + 1
            if missing < NOT_FOUND_IN_A_ROW:
                return Polls(next_at=now + rest, not_found=missing)
            return Polls(next_at=now + REFUSED_KEY, last=failed, failures=failures, not_found=missing)
        case QueueFailure.UNAUTHORIZED | QueueFailure.REJECTED:
            return Polls(next_at=now + REFUSED_KEY, last=failed, failures=failures)
        case QueueFailure.THROTTLED | QueueFailure.UNANSWERED | QueueFailure.UNSENT:
            wait = max(failed.retry_after or 0.0, backoff(polls.failures, FIRST_BACKOFF, LONGEST_BACKOFF))
            return Polls(next_at=now + wait, last=failed, failures=failures)
        case _:
            assert_never(failed.failure)


def note_secret(polls: Polls, now: float) -> Polls:
    """Return the polls after the Secret changed: a key that was refused is tried at once."""
    is_refused = polls.last is not None and polls.last.failure is QueueFailure.UNAUTHORIZED
    return replace(polls, next_at=now) if is_refused else polls


# --- The template ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTry:
    """The last dry run of the pool's template."""

    template: str | None = None
    """The digest of what was tried; None: nothing was."""
    at: float = 0.0
    refusal: str | None = None
    """Why the API server refused it; None: it accepted it."""
    refusals: int = 0
    """How often in a row."""


def after_try(tried: TemplateTry, template: str, refusal: str | None, now: float) -> TemplateTry:
    """Return the try after another one."""
    refusals = 0 if refusal is None else 1 + (tried.refusals if tried.template == template else 0)
    return TemplateTry(template=template, at=now, refusal=refusal, refusals=refusals)


def try_at(tried: TemplateTry, template: str) -> float:
    """Return when the template must be tried: after an edit at once, after a refusal soon, else each ten minutes."""
    if tried.template != template:
        return float("-inf")
    if tried.refusal is None:
        return tried.at + TEMPLATE_AGE
    return tried.at + backoff(tried.refusals - 1, FIRST_RETRY, TEMPLATE_AGE)


# --- The decision ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """All that the decision goes by."""

    max_concurrent: int
    failures_before_pause: int = 5
    is_suspended: bool = False
    problem: str | None = None
    """What is wrong with the spec."""
    is_deleting: bool = False
    is_namespace_ending: bool = False
    has_key: bool = True
    kubernetes_answers: bool = True
    is_ours: bool = True
    """Whether this process holds the pool's bucket, and is valid: else another one may poll for it."""
    tenure: float = float("-inf")
    """When this process began to serve the pool, if another one had it before."""
    template: str = ""
    """The digest of the present pod template."""
    is_template_proven: bool = False
    """Whether one sandbox of it was ready."""
    tried: TemplateTry = TemplateTry()
    census: PoolCensus = PoolCensus()
    polls: Polls = Polls()
    breaker: Breaker = CLOSED
    is_poll_in_flight: bool = False
    is_item_in_hand: bool = False
    """Whether an item of an earlier poll is not written yet."""
    other_workers: int = 0
    """Workers that poll the environment too, as the server counts them."""


@dataclass(frozen=True, slots=True)
class Poll:
    """Send one poll; the reason is the pool's condition."""

    reason: PoolReason
    message: str


@dataclass(frozen=True, slots=True)
class TryTemplate:
    """Try the template with a dry run."""


@dataclass(frozen=True, slots=True)
class NoPoll:
    """Do nothing until then, or until something changes; ``reason`` None: the conditions stay as they are."""

    until: float
    reason: PoolReason | None
    message: str = ""


PoolStep = Poll | TryTemplate | NoPoll

_NEVER: Final = float("inf")


def decide_poll(state: PoolState, now: float) -> PoolStep:
    """Return what the pool does now, and why."""
    if not state.is_ours:
        return NoPoll(_NEVER, None)
    if (standing := _standing(state)) is not None:
        return standing
    counts_at = state.tenure + TENURE
    if now < counts_at or must_list(state.census, state.tenure, now):
        return NoPoll(counts_at if now < counts_at else _NEVER, None)
    if now >= try_at(state.tried, state.template):
        return TryTemplate()
    if state.tried.refusal is not None:
        message = f"the API server refuses the sandbox's pod: {state.tried.refusal}"
        return NoPoll(try_at(state.tried, state.template), PoolReason.TEMPLATE_REFUSED, message)
    return _closed_breaker(state, now) or _full(state) or _paced(state, now)


def must_list(census: PoolCensus, tenure: float, now: float) -> bool:
    """Whether a list is due before anything is decided by the census: it has what the holder before made last."""
    return not census.is_complete or census.began < tenure + TENURE <= now


def may_take(state: PoolState, now: float) -> bool:
    """Whether an item that a poll has just brought may be written: what was true when it was sent may be no more."""
    after = replace(state, is_poll_in_flight=False, is_item_in_hand=False, polls=Polls())
    return isinstance(decide_poll(after, now), Poll | TryTemplate) and state.tried.refusal is None


def _standing(state: PoolState) -> NoPoll | None:
    """Return why nothing is polled, whatever the time is."""
    if state.problem is not None:
        return NoPoll(_NEVER, PoolReason.INVALID_SPEC, state.problem)
    if state.is_deleting or state.is_namespace_ending:
        what = "the pool" if state.is_deleting else "its namespace"
        return NoPoll(_NEVER, PoolReason.SUSPENDED, f"{what} is being deleted: no item is taken")
    if state.is_suspended or state.max_concurrent == 0:
        field_name = "suspend is true" if state.is_suspended else "maxConcurrent is 0"
        return NoPoll(_NEVER, PoolReason.SUSPENDED, f"{field_name}: no item is taken, and running work goes on")
    if not state.has_key:
        message = "there is no environment-key: create the Secret that credentialsSecretRef names"
        return NoPoll(_NEVER, PoolReason.KEY_MISSING, message)
    if not state.kubernetes_answers:
        return NoPoll(_NEVER, PoolReason.UNREACHABLE, "the Kubernetes API does not answer: nothing could be written")
    return None


def _closed_breaker(state: PoolState, now: float) -> NoPoll | None:
    """Return how long the breaker is open, or that its trial is under way; None: it lets a poll through."""
    breaker = state.breaker
    is_token = breaker.cause is BreakerCause.TOKEN_MISSING
    reason = PoolReason.TOKEN_MISSING if is_token else PoolReason.SANDBOXES_FAILING
    if (until := breaker.pauses_until(now)) is not None:
        return NoPoll(until, reason, breaker.message)
    if (since := breaker.trials_since()) is not None and state.census.starting(since, state.template):
        return NoPoll(_NEVER, reason, f"one item is on trial; before: {breaker.message}")
    return None


def _full(state: PoolState) -> NoPoll | None:
    """Return that no place is free, or that a template that nobody has seen run has enough starts; None: go on."""
    active = state.census.active
    if active >= state.max_concurrent:
        return NoPoll(_NEVER, PoolReason.AT_CAPACITY, f"{active} of {state.max_concurrent} WorkLeases are at work")
    starting, most = state.census.starting(), state.failures_before_pause
    if not state.is_template_proven and starting >= most:
        message = f"{starting} sandboxes are starting, and none of the present template was ready yet"
        return NoPoll(_NEVER, PoolReason.AT_CAPACITY, message)
    return None


def _paced(state: PoolState, now: float) -> PoolStep:
    reason, message = _of_polls(state)
    if state.is_poll_in_flight or state.is_item_in_hand:
        return NoPoll(_NEVER, reason, message)
    return Poll(reason, message) if now >= state.polls.next_at else NoPoll(state.polls.next_at, reason, message)


_REASON_OF: Final[Mapping[QueueFailure, PoolReason]] = {
    QueueFailure.UNAUTHORIZED: PoolReason.KEY_REFUSED,
    QueueFailure.NOT_FOUND: PoolReason.ENVIRONMENT_NOT_FOUND,
    QueueFailure.THROTTLED: PoolReason.THROTTLED,
    QueueFailure.UNANSWERED: PoolReason.UNREACHABLE,
    QueueFailure.UNSENT: PoolReason.UNREACHABLE,
    QueueFailure.REJECTED: PoolReason.INVALID_SPEC,
}


def _of_polls(state: PoolState) -> tuple[PoolReason, str]:
    """Return what the last polls say; a single answer that got lost says nothing yet."""
    last = state.polls.last
    is_lost = last is not None and last.failure in {QueueFailure.UNANSWERED, QueueFailure.UNSENT}
    if last is not None and not (is_lost and state.polls.failures == 1):
        return _REASON_OF[last.failure], last.message
    if state.other_workers:
        message = f"{state.other_workers} other workers poll this environment: each item goes to one of them"
        return PoolReason.OTHER_WORKERS_POLLING, message
    return PoolReason.POLLING, "the pool asks for items"


# --- The end of a pool -----------------------------------------------------------------------------------------------


def leases_to_end(census: PoolCensus) -> Collection[PoolLease]:
    """Return the leases of a deleted pool that nobody has deleted yet."""
    return [each for each in census.leases.values() if each.counts and not each.is_deleting]


def may_go(census: PoolCensus, deleted: float, now: float) -> bool:
    """Whether the finalizer of a pool that was deleted at ``deleted`` may go: no lease is left, or it waited enough."""
    return now >= deleted + FINALIZER_PATIENCE or (census.is_complete and census.active == 0)
