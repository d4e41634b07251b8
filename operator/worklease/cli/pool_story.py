"""``worklease explain pool/NAME``: what happened to one pool and what will happen next, in sentences.

Owns the sentences. Pure: the objects, the events and the time are passed in. Each reason in the table of a pool's
reasons has a sentence about what comes next; a test checks that.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from worklease.cli.leases import LeaseView, duration, judge
from worklease.cli.pools import STAGES, PoolView, judge_pool
from worklease.cli.story import STALE, UNKNOWN, Moment, Story, of_event
from worklease.rules.pool_reasons import PoolReason
from worklease.rules.reasons import Level

NAMED: Final = 6
"""WorkLeases in trouble that are named at most: their own pages tell more."""

POOL_NEXT: Final[Mapping[str, str]] = {
    PoolReason.POLLING: "The operator asks the queue again within three seconds, and makes a WorkLease for an item.",
    PoolReason.OTHER_WORKERS_POLLING: (
        "The operator goes on. Another worker takes items of this environment too: each item goes to one of them."
    ),
    PoolReason.AT_CAPACITY: (
        "The operator polls again when one of the {active} WorkLeases is Finished. More at once: kubectl scale "
        "workpool -n {namespace} {name} --replicas=N"
    ),
    PoolReason.SUSPENDED: (
        "What runs goes on; nothing new is taken until spec.suspend is false and spec.maxConcurrent is above 0."
    ),
    PoolReason.KEY_MISSING: (
        "Create {secret} with the key environment-key. The operator reads it again within ten seconds and needs no "
        "restart."
    ),
    PoolReason.KEY_REFUSED: (
        "Put a valid key into {secret}. The operator asks again every minute, and at once when the Secret changes."
    ),
    PoolReason.ENVIRONMENT_NOT_FOUND: (
        "The operator asks again every minute. If the environment's id is wrong, delete this pool and create another: "
        "the id cannot be changed."
    ),
    PoolReason.THROTTLED: (
        "The operator waits for as long as the server asked; heartbeats go first. Fewer pools or a higher limit help."
    ),
    PoolReason.UNREACHABLE: (
        "The operator asks again, at the latest after a minute. Nothing needs to be done here once the Work API can "
        "be reached; what runs is kept as long as its heartbeats are answered."
    ),
    PoolReason.SANDBOXES_FAILING: (
        "{pause} one item is taken on trial; if its sandbox becomes ready, the pool takes all again. Fix the "
        "template: what the failed sandboxes say is in their WorkLeases."
    ),
    PoolReason.TOKEN_MISSING: (
        "{pause} one item is taken on trial. The server gives no token with its items: where that is its way, set "
        "spec.requireToken to false, and give the pods another way to their session."
    ),
    PoolReason.TEMPLATE_REFUSED: (
        "The operator tries the template again every ten minutes, and at once when the pool is edited: fix "
        "spec.leaseTemplate, or what refuses it."
    ),
    PoolReason.INVALID_SPEC: "The operator does nothing until the spec is fixed.",
    "Deleting": (
        "No item is taken any more. The pool goes when its WorkLeases have ended, at the latest after two minutes."
    ),
    "Stale": STALE,
    "New": "The operator begins to poll within a few seconds.",
}
"""What comes next, by the reason."""


def pool_story_of(
    seen: PoolView,
    leases: Sequence[LeaseView],
    events: Sequence[Mapping[str, Any]],
    now: datetime,
    *,
    default: str,
    keeper: str = "",
) -> Story:
    """Return the story of a pool.

    Args:
        seen: The resource.
        leases: Its WorkLeases.
        events: Its own events (core/v1), in any order.
        now: The time.
        default: The Secret that the operator uses if the resource names none.
        keeper: A sentence about the process that keeps the pool; empty if that is not known.
    """
    judgement = judge_pool(seen, now)
    return Story(
        f"{seen.namespace}/{seen.name}",
        f"pool of environment {seen.environment_id}",
        judgement,
        (*_now(seen, judgement.message, leases, now), *([keeper] if keeper else ())),
        tuple(sorted(_past(seen, events), key=lambda moment: moment.at)),
        (POOL_NEXT.get(judgement.reason, UNKNOWN).format(**_words(seen, now, default)),),
    )


def _now(seen: PoolView, message: str, leases: Sequence[LeaseView], now: datetime) -> Iterator[str]:
    yield message or "It takes items from the queue."
    stages = ", ".join(f"{seen.stages[stage]} {stage}" for stage in STAGES if seen.stages[stage])
    yield f"{seen.active} of at most {seen.most} WorkLeases are not Finished{f': {stages}' if stages else ''}."
    if seen.depth is not None:
        yield _queue(seen, seen.depth, now)
    if seen.failures:
        yield f"{seen.failures} sandboxes in a row did not start."
    for what, at in (("last asked the queue", seen.last_poll), ("last got an item", seen.last_item)):
        if at is not None:
            yield f"It {what} {duration((now - at).total_seconds())} ago, by its status."
    judged = [(each, judge(each, now)) for each in leases]
    ailing = [(each.name, judgement.reason) for each, judgement in judged if judgement.level is Level.TROUBLE]
    if ailing:
        named = ", ".join(f"{name} ({reason})" for name, reason in ailing[:NAMED])
        more = f" and {len(ailing) - NAMED} more" if len(ailing) > NAMED else ""
        yield f"In trouble are {named}{more}: worklease explain NAME shows what happened."


def _queue(seen: PoolView, depth: int, now: datetime) -> str:
    waits = "1 item waits" if depth == 1 else f"{depth} items wait"
    if seen.oldest is not None and depth:
        waits += f", the oldest for {duration((now - seen.oldest).total_seconds())}"
    if seen.pending:
        waits += f"; {seen.pending} are taken and not yet acknowledged"
    if seen.workers is not None:
        waits += f"; {seen.workers} {'worker polls' if seen.workers == 1 else 'workers poll'}"
    ago = f", {duration((now - seen.counted).total_seconds())} ago" if seen.counted is not None else ""
    return f"By the server's last count{ago}: {waits}."


def _past(seen: PoolView, events: Sequence[Mapping[str, Any]]) -> Iterator[Moment]:
    yield Moment(seen.created, "The pool was created.")
    for kind, shown in seen.conditions.items():
        if shown.since is not None:
            words = {"True": "became true", "False": "became false"}.get(shown.status, "became unknown")
            yield Moment(shown.since, f"{kind} {words}; it is {shown.reason} now.")
    if seen.deleting is not None:
        yield Moment(seen.deleting, "Its deletion was requested.")
    for event in events:
        yield from of_event(event)


def _words(seen: PoolView, now: datetime, default: str) -> dict[str, str]:
    pause = "Within seconds"
    if seen.breaker_until is not None and seen.breaker_until > now:
        pause = f"At {seen.breaker_until:%H:%M:%SZ} (in {duration((seen.breaker_until - now).total_seconds())})"
    return {
        "namespace": seen.namespace,
        "name": seen.name,
        "active": str(seen.active),
        "secret": f"Secret {seen.namespace}/{seen.secret or default}",
        "pause": pause,
    }
