"""What a terminal shows of pools: which need attention, why, and what comes next."""

import json
from typing import Any

import pytest

from support.commands import Run, shown
from support.lease_objects import NOW, lease, written
from support.scripted_server import Answer, ScriptedServer, Seen
from worklease.cli.leases import read
from worklease.cli.page import page
from worklease.cli.pool_story import POOL_NEXT, pool_story_of
from worklease.cli.pool_table import picture_of_pools
from worklease.cli.pools import judge_pool, read_pool
from worklease.rules.pool_reasons import PoolReason, pool_conditions
from worklease.rules.reasons import Level

QUEUE = {
    "depth": 180,
    "pending": 2,
    "oldestQueuedTime": written(-180),
    "workersPolling": 1,
    "observedTime": written(-41),
}


def pool(name: str = "agents", reason: PoolReason | str | None = PoolReason.POLLING, **status: Any) -> dict[str, Any]:
    """Return a WorkPool that polls, or does not, for a reason; without one, it has no status."""
    told = [] if reason is None else pool_conditions(PoolReason(reason), f"Because of {reason}.")
    conditions = [
        {
            "type": each.kind,
            "status": each.status,
            "reason": each.reason,
            "message": each.message,
            "lastTransitionTime": written(-90),
        }
        for each in told
    ]
    counts = {"active": 20, "claiming": 1, "starting": 2, "running": 16, "ending": 1, "queue": QUEUE}
    return {
        "metadata": {"namespace": "team", "name": name, "uid": f"uid-{name}", "creationTimestamp": written(-600)},
        "spec": {"environmentID": "env_1", "maxConcurrent": 20},
        "status": {} if reason is None else {"conditions": conditions} | counts | status,
    }


def level(body: dict[str, Any]) -> tuple[Level, str]:
    judgement = judge_pool(read_pool(body), NOW)
    return judgement.level, judgement.reason


def story(body: dict[str, Any], *events: dict[str, Any], leases: tuple[dict[str, Any], ...] = ()) -> str:
    told = pool_story_of(read_pool(body), [read(each) for each in leases], events, NOW, default="the-default")
    return " ".join(shown(page(told, NOW), width=400).split())


def test_a_pool_that_polls_or_is_full_is_well_and_one_that_does_not_poll_for_another_reason_is_not() -> None:
    assert level(pool()) == (Level.WELL, "Polling")
    assert level(pool(reason="AtCapacity")) == (Level.WELL, "AtCapacity")
    assert level(pool(reason="Suspended")) == (Level.UNDER_WAY, "Suspended")
    assert level(pool(reason="OtherWorkersPolling")) == (Level.UNDER_WAY, "OtherWorkersPolling")
    for reason in set(PoolReason) - {"Polling", "AtCapacity", "Suspended", "OtherWorkersPolling"}:
        assert level(pool(reason=reason)) == (Level.TROUBLE, reason)


def test_a_pool_that_nobody_looked_at_is_new_and_then_trouble_and_a_deleted_one_is_on_its_way() -> None:
    assert level(pool(reason=None)) == (Level.TROUBLE, "Stale")
    new = pool(reason=None)
    new["metadata"]["creationTimestamp"] = written(-1)
    assert level(new) == (Level.UNDER_WAY, "New")
    deleted = pool(reason="KeyRefused")
    deleted["metadata"]["deletionTimestamp"] = written(-1)
    assert level(deleted) == (Level.UNDER_WAY, "Deleting")


def test_the_table_has_the_pools_in_trouble_first_and_names_them_below() -> None:
    bodies = [pool("agents", "AtCapacity"), pool("broken", "SandboxesFailing", queue=None)]
    lines = shown(picture_of_pools([read_pool(body) for body in bodies], NOW)).splitlines()
    assert lines[0].split() == ["POOL", "ACTIVE", "MAX", "RUNNING", "QUEUED", "OLDEST", "WHY"]
    assert lines[1].split()[:7] == ["✗", "broken", "20", "20", "16", "-", "-"]
    assert "SandboxesFailing: Because of SandboxesFailing." in lines[1]
    assert lines[2].split() == ["●", "agents", "20", "20", "16", "180", "3m", "AtCapacity"]
    assert lines[4] == (
        "2 pools: 1 in trouble, 1 well. Look at broken (SandboxesFailing): worklease explain pool/NAME shows what "
        "happened."
    )


@pytest.mark.parametrize("reason", list(PoolReason))
def test_every_reason_of_a_pool_says_what_comes_next(reason: PoolReason) -> None:
    told = story(pool(reason=reason)).partition("What comes next")[2]
    assert told.strip()
    assert "older than the operator" not in told


def test_no_sentence_is_left_of_a_reason_of_a_pool_that_is_no_more() -> None:
    assert set(POOL_NEXT) == {*PoolReason, "Deleting", "Stale", "New"}


def test_the_story_of_a_full_pool_says_how_full_how_long_the_queue_is_and_how_to_get_more() -> None:
    told = story(pool(reason="AtCapacity", lastPollTime=written(-2), lastItemTime=written(-300)))
    for words in (
        "team/agents pool of environment env_1",
        "20 of at most 20 WorkLeases are not Finished: 1 claiming, 2 starting, 16 running, 1 ending.",
        "last count, 41s ago: 180 items wait, the oldest for 3m; 2 are taken and not yet acknowledged; 1 worker polls.",
        "It last asked the queue 2s ago, by its status.",
        "It last got an item 5m ago, by its status.",
        "kubectl scale workpool -n team agents --replicas=N",
    ):
        assert words in told, told


def test_the_story_of_a_pool_that_pauses_says_until_when_why_and_which_leases_to_look_at() -> None:
    breaker = {"openUntilTime": written(40), "pauseSeconds": 60, "failures": 5}
    ailing = lease("agents-1", sandbox=("False", "ImagePullFailed", "No such image."))
    told = story(pool(reason="SandboxesFailing", breaker=breaker), leases=(ailing, lease("agents-2")))
    for words in (
        "In trouble: SandboxesFailing",
        "5 sandboxes in a row did not start.",
        "In trouble are agents-1 (ImagePullFailed): worklease explain NAME shows what happened.",
        "At 12:00:40Z (in 40s) one item is taken on trial",
    ):
        assert words in told, told


def test_a_missing_key_is_named_with_its_secret() -> None:
    assert "Create Secret team/the-default with the key environment-key." in story(pool(reason="KeyMissing"))
    named = pool(reason="KeyRefused")
    named["spec"]["credentialsSecretRef"] = {"name": "keys"}
    assert "Put a valid key into Secret team/keys." in story(named)


# --- The commands --------------------------------------------------------------------------------------------------


def answer(seen: Seen) -> Answer:
    """Answer what the commands ask about one pool with one lease."""
    made = lease("agents-1")
    made["status"]["leaseExpiryTime"] = "2999-01-01T00:00:00Z"
    if seen.path.endswith("/workpools"):
        return Answer(body={"items": [pool()]})
    if seen.path.endswith("/workpools/agents"):
        return Answer(body=pool())
    if seen.path.endswith("/workleases"):
        return Answer(body={"items": [made]})
    if seen.path.endswith("/events"):
        event = {"metadata": {"creationTimestamp": written(0)}, "reason": "ItemTaken", "message": "Item work_1."}
        return Answer(body={"items": [event]})
    return Answer(status=403, body={"message": "not for you"})


async def test_status_shows_the_pools_above_the_leases_and_in_json(api: ScriptedServer, run: Run) -> None:
    api.script = answer
    text = (await run("status")).output
    assert text.index("1 pool: 1 well.") < text.index("1 lease: 1 well.")
    told = json.loads((await run("status", "-o", "json")).output)
    assert [entry["name"] for entry in told["leases"]] == ["agents-1"]
    (entry,) = told["pools"]
    assert (entry["name"], entry["level"], entry["reason"]) == ("agents", "well", "Polling")
    assert (entry["active"], entry["maxConcurrent"], entry["running"], entry["queued"]) == (20, 20, 16, 180)
    assert "pool" not in (await run("status", "-l", "team=a")).output


async def test_who_may_not_list_pools_sees_the_leases(api: ScriptedServer, run: Run) -> None:
    forbidden = Answer(status=403, body={"message": "workpools is forbidden"})
    api.script = lambda seen: forbidden if "/workpools" in seen.path else answer(seen)
    result = await run("status")
    assert result.exit_code == 0, result.output
    assert "1 lease: 1 well." in result.output
    assert "pool" not in result.output


@pytest.mark.parametrize("kind", ["pool", "workpool", "wp"])
async def test_explain_reads_the_pool_its_leases_and_its_events(api: ScriptedServer, run: Run, kind: str) -> None:
    api.script = answer
    result = await run("explain", f"{kind}/agents")
    assert result.exit_code == 0, result.output
    assert "ItemTaken: Item work_1." in result.output
    (asked,) = [seen for seen in api.seen if seen.path.endswith("/workleases")]
    assert asked.query["labelSelector"] == ["worklease.dev/pool=agents"]
    assert api.seen[0].path == "/apis/worklease.dev/v1alpha1/namespaces/team/workpools/agents"


async def test_who_may_not_read_events_or_leases_sees_the_rest_of_a_pool(api: ScriptedServer, run: Run) -> None:
    forbidden = Answer(status=403, body={"message": "workleases is forbidden"})
    api.script = lambda seen: answer(seen) if "/workpools/" in seen.path else forbidden
    result = await run("explain", "pool/agents")
    assert result.exit_code == 0, result.output
    assert "Some of it could not be read: workleases is forbidden" in result.output


async def test_another_kind_is_refused_with_what_can_be_explained(run: Run) -> None:
    result = await run("explain", "deployment/agents")
    assert result.exit_code == 2
    assert "explain NAME, or explain pool/NAME" in result.output
