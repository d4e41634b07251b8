"""A call that waits delays nothing else: no other lease's turn, and no resource that is being deleted."""

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from support.keeping import RENEWED, SECRET, TEMPLATE, Keeping, keeping, resource
from support.scripted_server import Answer, Fault, Seen, always, in_turn, until
from worklease.rules.lease import Lease
from worklease.rules.outcomes import Unanswered
from worklease.telemetry import BeatEnded, Orphaned

REFUSED = Answer(status=403, body={"kind": "Status", "message": "exceeded quota"})


def is_let_go(there: Keeping) -> bool:
    return any(seen.path.endswith("/workleases/lease-1") for seen in there.asked("PATCH", "/workleases/"))


def kubernetes(*, configmaps: Answer, pods: Answer | None = None) -> Callable[[Seen], Answer]:
    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.target:
            return SECRET
        if "/configmaps" in seen.target:
            return configmaps
        if "/pods" in seen.target:
            return pods or Answer()
        return Answer(body=resource())

    return answer


async def test_a_template_that_is_being_tried_again_takes_no_turns() -> None:
    away = Answer(status=503, body={"kind": "Status", "message": "away"})
    async with keeping(kubernetes(configmaps=Answer(), pods=REFUSED)) as there:
        there.keeper.see(resource(sandbox=TEMPLATE))
        there.keeper.carry("uid-lease-1")
        await until(lambda: "Exceeded quota" in repr(there.asked("PATCH", "/status")), "the refusal, in the status")
        there.kubernetes.script = kubernetes(configmaps=Answer(), pods=away)
        there.ahead.append(61.0)  # a template that was refused is tried again each minute
        looked = resource(sandbox=TEMPLATE)
        looked["metadata"]["finalizers"] = []
        there.keeper.see(looked)  # the same generation, so the same template; it only wakes the turn
        tried = len(there.asked("POST", "dryRun=All"))
        await until(lambda: len(there.asked("POST", "dryRun=All")) >= tried + 2, "a second try")
        assert len(there.looks) < 200, "turns of a resource that waits"


async def test_a_claim_that_waits_for_its_intent_to_be_written_holds_no_deletion_up_and_is_never_sent() -> None:
    async with keeping(kubernetes(configmaps=REFUSED)) as there:
        there.keeper.see(resource())
        there.keeper.carry("uid-lease-1")
        await until(lambda: bool(there.asked("PATCH", "/configmaps")), "a claim's intent")
        there.keeper.see(resource(is_deleting=True))
        await until(lambda: is_let_go(there), "the end of the finalizer")
        assert there.work_api.seen == []


async def test_a_claim_that_cannot_be_written_down_is_said_and_never_sent_and_follows_once_it_can_be() -> None:
    async with keeping(kubernetes(configmaps=REFUSED)) as there:
        there.work_api.script = always(Answer(body=RENEWED))
        there.keeper.see(resource())
        there.keeper.carry("uid-lease-1")
        await until(
            lambda: "CheckpointUnavailable" in repr(there.asked("PATCH", "/status")), "the reason, in the status"
        )
        assert "worklease-bucket-" in repr(there.asked("PATCH", "/status"))
        assert there.work_api.seen == []
        there.kubernetes.script = kubernetes(configmaps=Answer())
        there.ahead.append(10.0)
        there.keeper.wake_all()
        await there.work_api.until_seen(1)


async def test_a_pod_is_made_though_the_checkpoint_cannot_be_written_any_more() -> None:
    script, first = kubernetes(configmaps=Answer(), pods=Answer(body={"items": []})), in_turn(Answer(), REFUSED)
    async with keeping(lambda seen: first(seen) if "/configmaps" in seen.target else script(seen)) as there:
        there.work_api.script = always(Answer(body=RENEWED))
        there.keeper.see(resource(sandbox=TEMPLATE))
        there.keeper.carry("uid-lease-1")
        await until(lambda: [each for each in there.asked("POST", "/pods") if "dryRun" not in each.target], "a pod")
        assert "Renewed" in repr(there.asked("PATCH", "/status")), "the status tells a restart first"


async def test_a_claim_that_waits_for_its_turn_is_not_sent_for_a_resource_that_is_deleted() -> None:
    async with keeping(kubernetes(configmaps=Answer())) as there:
        there.clients.budget.hold(1.0)
        there.keeper.see(resource())
        there.keeper.carry("uid-lease-1")
        await until(lambda: there.clients.budget.waiting == 1, "a claim that waits")
        there.keeper.see(resource(is_deleting=True))
        await until(lambda: is_let_go(there), "the end of the finalizer")
        await until(lambda: not there.clients.budget.held(time.monotonic()), "the end of the hold")
        assert there.work_api.seen == []


def held() -> dict[str, Any]:
    """Return a resource whose lease is held, and whose beat is due."""
    return resource(since=29)


def secrets(*keys: str) -> Callable[[Seen], Answer]:
    """Answer as above, but with one key after the other."""
    script, read = kubernetes(configmaps=Answer(), pods=Answer(body={"items": []})), in_turn(*map(secret, keys))
    return lambda seen: read(seen) if "/secrets/" in seen.target else script(seen)


def secret(key: str) -> Answer:
    return Answer(body={"data": {"environment-key": b64encode(key.encode()).decode()}})


async def test_a_beat_that_waits_for_its_turn_goes_with_its_lease() -> None:
    async with keeping(secrets("key")) as there:
        there.clients.budget.hold(60.0)
        there.keeper.see(held())
        await until(lambda: there.clients.budget.waiting == 1, "a beat that waits")
        there.ahead.append(1000.0)
        there.keeper.wake_all()
        await until(lambda: there.clients.budget.waiting == 0, "the end of its waiting")
        assert there.work_api.seen == []


async def test_a_beat_that_waits_with_another_key_is_not_sent_after_its_leases_end() -> None:
    async with keeping(secrets("key", "another")) as there:
        may_answer = asyncio.Event()
        there.work_api.script = always(Answer(status=401, until=may_answer))
        there.keeper.see(held())
        await there.work_api.until_seen(1)
        there.clients.budget.hold(1.0)
        may_answer.set()
        await until(lambda: there.clients.budget.waiting == 1, "the beat with another key")
        there.ahead.append(1000.0)
        await until(lambda: there.clients.budget.waiting == 0, "its turn")
        await until(lambda: "Expired" in repr(there.asked("PATCH", "/status")), "the lease's end, in the status")
        assert len(there.work_api.seen) == 1


async def test_beats_that_waited_for_the_end_of_a_hold_do_not_stay_together() -> None:
    async with keeping(secrets("key")) as there:

        def kept() -> Lease:
            ((lease, _),) = there.keeper.leases()
            return lease

        async def gap_after_a_beat(hold: float = 0.0) -> float:
            before, wait = kept().sent, kept().due - time.monotonic() - sum(there.ahead)
            there.clients.budget.hold(wait + hold)
            there.ahead.append(wait)
            there.keeper.wake_all()
            await until(lambda: kept().sent != before, "a renewal")
            return kept().due - (kept().sent or 0.0)

        there.work_api.script = always(Answer(body=RENEWED))
        there.keeper.see(held())
        await until(lambda: len(list(there.keeper.leases())) == 1, "what is told of the first renewal")
        gaps = [await gap_after_a_beat() for _ in range(3)]
        assert gaps[-1] == pytest.approx(30), "the start is forgotten"
        assert await gap_after_a_beat(hold=0.5) != pytest.approx(30)


async def test_after_a_jump_of_the_wall_clock_a_beat_under_way_is_broken_off_and_another_tells() -> None:
    async with keeping(secrets("key")) as there:
        never = asyncio.Event()
        there.work_api.script = in_turn(Answer(body=RENEWED, until=never), Answer(body=RENEWED))
        there.keeper.see(resource(since=29))
        await there.work_api.until_seen(1)
        there.keeper.note_jump(40.0)
        await there.work_api.until_seen(2)
        await until(lambda: "Renewed" in repr(there.asked("PATCH", "/status")), "its answer, in the status")
        never.set()


async def test_where_the_server_is_fast_the_beat_of_a_held_lease_is_given_up_early_and_a_claim_is_not() -> None:
    async with keeping(secrets("key")) as there:

        def lost(name: str) -> list[str]:
            ended = [each for each in there.published if isinstance(each, BeatEnded) and each.about.name == name]
            return [each.outcome.message for each in ended if isinstance(each.outcome, Unanswered)]

        there.work_api.script = always(Answer(body=RENEWED))
        there.keeper.see(held())
        await until(lambda: any(isinstance(each, BeatEnded) for each in there.published), "the answer to a beat")
        there.work_api.script = always(Answer(fault=Fault.HANG))
        there.keeper.see(resource("lease-2", workID="work_2", ttlSeconds=18))
        await until(lambda: lost("lease-2") != [], "the end of a claim that hangs")
        assert "within 3.0 s" in lost("lease-2")[0], "a sixth of 18 s"
        there.ahead.append(30.0)
        there.keeper.wake_all()
        await until(lambda: lost("lease-1") != [], "the end of a beat that hangs")
        assert "within 2.0 s" in lost("lease-1")[0], "a fifth of the ten seconds that it may take"


async def test_a_resource_that_cannot_be_read_can_go_all_the_same() -> None:
    async with keeping(kubernetes(configmaps=Answer())) as there:
        there.keeper.see(resource(is_deleting=True, fieldOfALaterVersion=True))
        await until(lambda: is_let_go(there), "the end of the finalizer")
        (left,) = [each for each in there.published if isinstance(each, Orphaned)]
        assert left.about.name == "lease-1"


async def test_a_lost_claim_is_looked_for_in_the_list_and_held_though_no_412_says_what_is() -> None:
    found = ""

    def server(seen: Seen) -> Answer:
        nonlocal found
        dated = {"date": format_datetime(datetime.now(UTC), usegmt=True)}
        if seen.method == "GET":
            row = {"id": "work_1", "type": "work", "state": "active", "latest_heartbeat_at": found}
            return Answer(body={"data": [row], "next_page": None})
        if len(beats()) == 1:
            found = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            return Answer(status=504, body=b"the gateway's")
        if seen.query["expected_last_heartbeat"] == [found]:
            return Answer(body=RENEWED | {"ttl_seconds": 1}, headers=dated)
        return Answer(status=412, body={"type": "error", "error": {"type": "x", "message": "no"}}, headers=dated)

    async with keeping(kubernetes(configmaps=Answer())) as world:

        def beats() -> list[str]:
            sent = (seen for seen in world.work_api.seen if seen.method == "POST")
            return [seen.query["expected_last_heartbeat"][0] for seen in sent]

        world.work_api.script = server
        world.keeper.see(resource(ttlSeconds=1))
        await until(lambda: found in beats(), "the claim that carries the value found")
        assert beats() == ["NO_HEARTBEAT", "NO_HEARTBEAT", found]
