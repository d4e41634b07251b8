"""What a terminal shows of leases: which need attention, why, and what comes next."""

import asyncio
import json
import os
import pty
import signal
import sys
import termios
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.commands import Run, shown
from support.lease_objects import HELD, NOW, Said, lease, written
from support.scripted_server import Answer, ScriptedServer, Seen, always, in_turn, until
from worklease.cli.leases import duration, judge, read
from worklease.cli.page import page
from worklease.cli.processes import keeper_of, read_buckets, read_processes
from worklease.cli.story import NEXT, SANDBOX_NEXT, story_of
from worklease.cli.table import as_json, picture, picture_of_processes
from worklease.rules.buckets import bucket_of
from worklease.rules.reasons import Kind, Level, Reason, reasons_of

SECRET = "worklease-credentials"


def level(held: Said | None = HELD, sandbox: Said | None = None, **changes: Any) -> tuple[Level, str]:
    judgement = judge(read(lease("demo", held, sandbox, **changes)), NOW)
    return judgement.level, judgement.reason


# --- Who keeps them ------------------------------------------------------------------------------------------------


def liveness(name: str, holder: str, *, is_ready: bool = True) -> dict[str, Any]:
    annotations = {"worklease.dev/ready": "true" if is_ready else "false"}
    metadata = {"namespace": "worklease-system", "name": name, "annotations": annotations}
    return {
        "metadata": metadata,
        "spec": {"holderIdentity": holder, "renewTime": (NOW - timedelta(seconds=1)).isoformat()},
    }


def bucket(number: int, holder: str, taken: float | None = None) -> dict[str, Any]:
    annotations = {"worklease.dev/holder": holder} | ({} if taken is None else {"worklease.dev/taken": repr(taken)})
    labels = {"worklease.dev/bucket": str(number)}
    return {"metadata": {"namespace": "worklease-system", "labels": labels, "annotations": annotations}}


def test_the_processes_of_the_operator_are_shown_with_the_buckets_that_they_hold() -> None:
    buckets = read_buckets(
        [bucket(0, "pod-a/1-1-a"), bucket(1, "pod-a/1-1-a"), bucket(2, "pod-b/1-1-b"), bucket(3, "")]
    )
    bodies = [liveness("worklease-1-1-b", "pod-b/1-1-b", is_ready=False), liveness("worklease-1-1-a", "pod-a/1-1-a")]
    lines = shown(picture_of_processes(read_processes(bodies, buckets), NOW)).splitlines()
    assert [line.split() for line in lines if line] == [
        ["OPERATOR", "PROCESS", "RUNS", "IN", "BUCKETS", "SEEN"],
        ["worklease-system", "worklease-1-1-a", "pod-a", "2", "1s", "ago"],
        ["worklease-system", "worklease-1-1-b", "pod-b", "1,", "ending", "1s", "ago"],
    ]


def test_a_story_says_who_keeps_the_lease_and_when_that_was_not_handed_over_in_order() -> None:
    number = bucket_of("uid-1")
    processes = [liveness("worklease-1-1-a", "pod-a/1-1-a")]
    for taken, said in ((None, "keeps it."), (NOW.timestamp(), f"lost it at {NOW:%Y-%m-%d %H:%M:%SZ}.")):
        buckets = read_buckets([bucket(number, "pod-a/1-1-a", taken)])
        sentence = keeper_of("uid-1", read_processes(processes, buckets), buckets)
        assert sentence.startswith("The operator's process worklease-system/worklease-1-1-a keeps it")
        assert sentence.endswith(said)
        story = story_of(read(lease("demo", HELD, None)), [], None, NOW, default=SECRET, keeper=sentence)
        assert sentence in story.now
    assert keeper_of("uid-1", [], read_buckets([bucket(number, "pod-a/1-1-a")])) == ""


def test_who_keeps_a_lease_is_shown_where_several_installations_do() -> None:
    one, two = "a/worklease-installation", "b/worklease-installation"
    leases = [read(lease("one", operator=one)), read(lease("two", operator=two)), read(lease("three", operator=two))]
    assert f"2 installations of the operator keep these leases, and each leaves alone what another keeps: {one} 1" in (
        shown(picture(leases, NOW, wide=True), 200)
    )
    assert "installations" not in shown(picture(leases[1:], NOW))
    assert [each["operator"] for each in as_json(leases[:1], NOW)["leases"]] == [one]
    (row,) = (
        line.split() for line in shown(picture(leases[:1], NOW, wide=True), 200).splitlines() if "work_one" in line
    )
    assert "a" in row


def test_a_second_installation_is_shown_though_it_keeps_nothing() -> None:
    other = liveness("worklease-2", "pod-b/1-1-b")
    other["metadata"]["namespace"] = "laptop"
    processes = read_processes([liveness("worklease-1", "pod-a/1-1-a"), other], [])
    assert "2 installations of the operator run." in shown(picture_of_processes(processes, NOW))
    assert "installations" not in shown(picture_of_processes(processes[:1], NOW))


def test_of_several_installations_the_resource_names_the_one_that_keeps_it() -> None:
    number = bucket_of("uid-1")
    other = bucket(number, "pod-b/1-1-b")
    other["metadata"]["namespace"] = "laptop"
    processes = read_processes([liveness("worklease-1", "pod-a/1-1-a")], [])
    buckets = read_buckets([bucket(number, "pod-a/1-1-a"), other])
    assert keeper_of("uid-1", processes, buckets) == ""
    assert "worklease-system/worklease-1 keeps it" in keeper_of("uid-1", processes, buckets, "worklease-system/x")


# --- Which leases need attention -----------------------------------------------------------------------------------


def test_a_lease_that_is_renewed_with_its_sandbox_ready_is_well() -> None:
    assert level() == (Level.WELL, "Renewed")
    assert level(sandbox=("True", "Running", "Pod a is ready.")) == (Level.WELL, "Renewed")


@pytest.mark.parametrize(
    ("held", "sandbox"),
    [
        (("False", "Claiming", ""), None),
        (("True", "Draining", ""), None),
        (("True", "Suspended", ""), None),
        (("False", "Duplicate", ""), None),
        (HELD, ("False", "Pending", "")),
        (HELD, ("False", "NoPod", "")),
    ],
)
def test_what_is_on_its_way_is_no_trouble(held: Said, sandbox: Said | None) -> None:
    assert level(held, sandbox)[0] is Level.UNDER_WAY


@pytest.mark.parametrize("reason", ["Unauthorized", "Unreachable", "BudgetShort", "InDoubt", "AReasonOfTomorrow"])
@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_every_other_reason_is_trouble_whatever_the_status(status: str, reason: str) -> None:
    assert level((status, reason, "Why.")) == (Level.TROUBLE, reason)


@pytest.mark.parametrize(
    "reason",
    ["DeletionRefused", "FencePending", "ImagePullFailed", "OOMKilled", "CreationRefused", "AReasonOfTomorrow"],
)
def test_a_sandbox_that_is_not_on_its_way_is_trouble(reason: str) -> None:
    assert level(sandbox=("False", reason, "Why.")) == (Level.TROUBLE, reason)


def test_what_was_stopped_is_over_and_what_was_lost_is_lost() -> None:
    ended = ("False", "TakenOver", "")
    assert level(ended, finished=("True", "Stopped", "")) == (Level.OVER, "Stopped")
    assert level(ended, finished=("True", "TakenOver", "")) == (Level.LOST, "TakenOver")
    going = ("False", "TearingDown", "Still to go: pod a.")
    assert level(ended, finished=going) == (Level.LOST, "TakenOver")
    assert level(("False", "Stopped", ""), finished=going) == (Level.UNDER_WAY, "Stopped")


def test_a_status_that_the_clock_has_overtaken_is_not_believed() -> None:
    assert level(left=-5)[0] is Level.WELL, "a status may lag a little"
    judgement = judge(read(lease(left=-60)), NOW)
    assert (judgement.level, judgement.reason) == (Level.TROUBLE, "Stale")
    assert "60 s ago" in judgement.message
    assert "is the operator running" in judgement.message


def test_a_resource_that_nobody_looked_at_is_new_and_then_trouble() -> None:
    assert level(None, age=5) == (Level.UNDER_WAY, "New")
    assert level(None, age=60) == (Level.TROUBLE, "Stale")


# --- The table -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fifty() -> list[dict[str, Any]]:
    """Return fifty leases; three of them are in trouble, and these are not the first ones."""
    bodies = [lease(f"lease-{number:02}", sandbox=("True", "Running", "Pod a is ready.")) for number in range(50)]
    bodies[17] = lease("lease-17", ("True", "Unauthorized", "The key is refused: put a valid key there."))
    bodies[31] = lease("lease-31", ("False", "HeldByAnother", "Another worker holds the lease."), left=None)
    bodies[44] = lease("lease-44", sandbox=("Unknown", "FencePending", "Pod a must be gone, and is not."))
    return bodies


def test_the_three_of_fifty_that_are_in_trouble_come_first_and_last_with_their_reason(
    fifty: list[dict[str, Any]],
) -> None:
    lines = shown(picture([read(body) for body in fifty], NOW)).splitlines()
    first, last = "\n".join(lines[1:6]), "\n".join(lines[-2:])
    for name, reason in (("lease-17", "Unauthorized"), ("lease-31", "HeldByAnother"), ("lease-44", "FencePending")):
        assert name in first
        assert reason in first
        assert f"{name} ({reason})" in last
    assert "put a valid key there" in first
    assert "50 leases: 3 in trouble, 47 well." in last


def test_all_leases_are_in_the_table_or_counted_below_it(fifty: list[dict[str, Any]]) -> None:
    leases = [read(body) for body in fifty]
    assert sum("lease-" in line for line in shown(picture(leases, NOW)).splitlines()[:-2]) == 50
    on_a_screen = shown(picture(leases, NOW, height=24))
    assert len(on_a_screen.splitlines()) <= 24
    assert "lease-44" in on_a_screen
    assert "more: " in on_a_screen
    assert "50 leases: 3 in trouble, 47 well." in on_a_screen


def test_of_the_finished_the_latest_are_shown_and_the_others_counted() -> None:
    over = ("True", "Stopped", "It is stopped.")
    bodies = [lease(f"old-{number}", ("False", "Stopped", ""), None, over, left=None) for number in range(12)]
    bodies.append(lease("latest", ("False", "Stopped", ""), None, over, left=None))
    for condition in bodies[-1]["status"]["conditions"]:
        condition["lastTransitionTime"] = written(-1)
    leases = [read(body) for body in [*bodies, lease("at-work")]]
    lines = [line.split()[1] for line in shown(picture(leases, NOW)).splitlines()[1:-2]]
    assert lines[:2] == ["at-work", "latest"]
    assert len(lines) == 1 + 10 + 1
    assert "… and 3 more: 3 finished" in shown(picture(leases, NOW))
    assert "more:" not in shown(picture(leases, NOW, wide=True))


def test_the_bar_is_as_long_as_the_lease_lasts_yet() -> None:
    assert "━━━━━━━━━━ 1m" in shown(picture([read(lease(left=60))], NOW))
    assert "━━━━━───── 30s" in shown(picture([read(lease(left=30))], NOW))
    assert "────────── over 5s" in shown(picture([read(lease(left=-5))], NOW))


def test_namespaces_and_more_columns_are_there_if_asked_for() -> None:
    leases = [read(lease(sandboxes=[{"podUID": "u", "podName": "pod-a", "phase": "Running"}]))]
    plain, full = shown(picture(leases, NOW)), shown(picture(leases, NOW, namespaces=True, wide=True), 200)
    assert "NAMESPACE" not in plain
    for word in ("NAMESPACE", "team", "ENVIRONMENT", "env_1", "work_demo", "pod-a", "60s"):
        assert word in full


def test_none_is_said_in_words() -> None:
    assert "No WorkLeases here" in shown(picture([], NOW))


def test_json_has_what_the_table_shows(fifty: list[dict[str, Any]]) -> None:
    entries = as_json([read(body) for body in fifty], NOW)["leases"]
    assert len(entries) == 50
    assert [entry["name"] for entry in entries[:3]] == ["lease-17", "lease-31", "lease-44"]
    assert entries[0] | {"message": ""} == {
        "namespace": "team",
        "name": "lease-17",
        "environmentID": "env_1",
        "workID": "work_lease-17",
        "level": "in trouble",
        "reason": "Unauthorized",
        "message": "",
        "held": "True",
        "state": "active",
        "operator": None,
        "ttlSeconds": 60,
        "leaseExpiryTime": "2026-11-24T12:00:40+00:00",
        "secondsToExpiry": 40.0,
        "sandbox": None,
        "lastTransitionTime": "2026-11-24T11:58:30+00:00",
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (192, "3m12s"), (7500, "2h5m"), (7200, "2h"), (90_000, "1d1h")],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# --- The story -----------------------------------------------------------------------------------------------------


def story(body: dict[str, Any], *events: dict[str, Any], pod: dict[str, Any] | None = None) -> str:
    return " ".join(shown(page(story_of(read(body), events, pod, NOW, default=SECRET), NOW)).split())


@pytest.mark.parametrize("reason", reasons_of(Kind.LEASE_HELD))
def test_every_reason_of_a_lease_says_what_comes_next(reason: Reason) -> None:
    assert reason in NEXT
    found = story_of(read(lease(held=("True", reason.value, "Why."))), (), None, NOW, default=SECRET)
    assert len(found.future[0]) > 20
    assert "{" not in " ".join(found.future)


@pytest.mark.parametrize("reason", reasons_of(Kind.SANDBOX_READY))
def test_every_reason_of_a_sandbox_says_what_comes_next(reason: Reason) -> None:
    assert reason in SANDBOX_NEXT
    found = story_of(read(lease(sandbox=("False", reason.value, "Why."))), (), None, NOW, default=SECRET)
    assert len(found.future[0]) > 20
    assert "{" not in " ".join(found.future)


def test_no_sentence_is_left_of_a_reason_that_is_no_more() -> None:
    assert set(NEXT) - {"Stale", "New"} == set(reasons_of(Kind.LEASE_HELD))
    assert set(SANDBOX_NEXT) == set(reasons_of(Kind.SANDBOX_READY))


def test_a_reason_of_a_newer_operator_is_shown_without_an_error() -> None:
    assert "older than the operator" in story(lease(held=("True", "AReasonOfTomorrow", "Because of tomorrow.")))


def test_a_refused_key_is_shown_with_the_secret_to_fix() -> None:
    refused = ("True", "Unauthorized", "The Work API answered 401.")
    assert "Put a valid key into Secret team/worklease-credentials." in story(lease(held=refused))
    spec = {"credentialsSecretRef": {"name": "of-team-b"}}
    assert "Put a valid key into Secret team/of-team-b." in story(lease(held=refused, spec=spec))


def test_a_renewed_lease_says_until_when_it_holds_and_what_ends_it() -> None:
    text = story(lease())
    assert "the lease ends in 40s; its TTL is 1m" in text
    assert "the operator ends the sandbox before the lease can end, at 12:00:40Z (in 40s)." in text


def test_what_happened_is_in_its_order_with_events_and_the_pods_own() -> None:
    event = {
        "metadata": {"creationTimestamp": written(-300)},
        "type": "Warning",
        "reason": "LeaseInDoubt",
        "message": "No answer.",
        "lastTimestamp": written(-200),
        "count": 3,
        "involvedObject": {"kind": "WorkLease", "name": "demo"},
    }
    scheduled = {
        "metadata": {"creationTimestamp": written(-400)},
        "reason": "Scheduled",
        "message": "Assigned to node-1.",
        "eventTime": written(-400),
        "involvedObject": {"kind": "Pod", "name": "pod-a"},
    }
    text = story(lease(), event, scheduled)
    order = [
        "The resource was created.",
        "The lease was first held.",
        "Pod pod-a: Scheduled: Assigned to node-1.",
        "LeaseInDoubt: No answer. (3 times)",
        "LeaseHeld became true; it is Renewed now.",
    ]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)


def test_within_one_second_the_causes_come_first() -> None:
    sandboxes = [{"podUID": "uid-p", "podName": "pod-a", "phase": "Running"}]
    object_ = lease(sandbox=("True", "Ready", "It runs."), sandboxes=sandboxes, claimTime=written(-600))
    for condition in object_["status"]["conditions"]:
        condition["lastTransitionTime"] = written(-600)
    pod = {"metadata": {"name": "pod-a", "uid": "uid-p", "creationTimestamp": written(-600)}, "spec": {}, "status": {}}
    text = story(object_, pod=pod)
    order = ["The lease was first held.", "Pod pod-a was created.", "SandboxReady became"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)


def test_the_pod_is_shown_as_it_is() -> None:
    sandboxes = [{"podUID": "uid-p", "podName": "pod-a", "phase": "Running"}]
    pod = {
        "metadata": {"name": "pod-a", "uid": "uid-p", "creationTimestamp": written(-500)},
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "tools", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                {"name": "side", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}},
            ],
        },
    }
    text = story(lease(sandboxes=sandboxes), pod=pod)
    assert "Its pod pod-a is running on node node-1" in text
    assert "container tools is waiting: CrashLoopBackOff" in text
    assert "container tools was restarted 2 times" in text
    assert "container side is terminated: OOMKilled, exit code 137" in text
    assert "no longer exists" in story(lease(sandboxes=sandboxes))
    other = pod | {"metadata": pod["metadata"] | {"uid": "uid-of-a-successor"}}  # type: ignore[operator]
    assert "Its pod pod-a no longer exists" in story(lease(sandboxes=sandboxes), pod=other)


def test_a_sandbox_that_does_not_start_is_shown_with_its_deadline_and_policy() -> None:
    spec = {"sandbox": {"startDeadlineSeconds": 120, "onFailure": "Restart"}}
    text = story(lease(sandbox=("False", "ImagePullFailed", "It cannot be pulled."), spec=spec))
    assert "has 2m from the claim to run; then it counts as failed (onFailure: Restart)" in text


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("Stop", "so the work item is stopped (onFailure: Stop)"),
        ("Release", "the work item is queued again (onFailure: Release)"),
        ("Restart", "the operator creates another pod, 2 of 5 times so far (onFailure: Restart)"),
    ],
)
def test_a_sandbox_that_failed_is_shown_with_what_follows(policy: str, words: str) -> None:
    spec = {"sandbox": {"onFailure": policy, "maxRestarts": 5}}
    assert words in story(lease(sandbox=("False", "OOMKilled", "Pod a was killed."), spec=spec, restarts=2))


def test_what_is_over_says_so_and_how_it_goes_away() -> None:
    ended = ("False", "NotFound", "The server answered 404.")
    text = story(lease(held=ended, finished=("True", "NotFound", "The server answered 404.")))
    assert "no longer has the work item" in text
    assert "kubectl delete worklease -n team demo" in text
    kept = lease(held=ended, finished=("True", "Stopped", "Stopped."), spec={"ttlSecondsAfterFinished": 300})
    assert "is deleted 5m after it finished" in story(kept)
    going = lease(held=("False", "Stopped", "It is stopped."), finished=("False", "TearingDown", "Pod a is to go."))
    assert "Finished when its pods are gone" in story(going)


def test_a_deletion_is_shown_with_its_policy() -> None:
    body = lease()
    body["metadata"]["deletionTimestamp"] = written(-10)
    assert "has been in deletion for 10s" in story(body)
    assert "stops the work item while it holds the lease" in story(body)
    body["spec"]["deletionPolicy"] = "Release"
    assert "lets the lease lapse" in story(body)


# --- The commands --------------------------------------------------------------------------------------------------


def listing(*names: str) -> Answer:
    return Answer(body={"items": [fresh(name) for name in names]})


def of_leases(answer: Answer) -> Callable[[Seen], Answer]:
    """Return a script that gives an answer to lists of leases, and no pools."""
    return lambda seen: Answer(body={"items": []}) if seen.path.endswith("/workpools") else answer


def fresh(name: str) -> dict[str, Any]:
    """Return a lease as it is at this moment: the commands use the real clock."""
    body = lease(name)
    body["status"]["leaseExpiryTime"] = (datetime.now(UTC) + timedelta(seconds=50)).isoformat()
    return body


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ((), "/namespaces/team/workleases"),
        (("-n", "third"), "/namespaces/third/workleases"),
        (("--context", "two"), "/namespaces/others/workleases"),
        (("-A",), "/workleases"),
    ],
)
async def test_the_namespace_is_what_kubectl_would_take(
    api: ScriptedServer, run: Run, options: tuple[str, ...], path: str
) -> None:
    api.script = of_leases(listing("one", "two"))
    result = await run("status", *options)
    assert result.exit_code == 0, result.output
    assert "2 leases: 2 well." in result.output
    pools = path.replace("workleases", "workpools")
    assert [seen.path for seen in api.seen] == [f"/apis/worklease.dev/v1alpha1{each}" for each in (path, pools)]


async def test_a_selector_is_the_servers_matter_and_pages_are_put_together(api: ScriptedServer, run: Run) -> None:
    first = Answer(body={"items": [fresh("one")], "metadata": {"continue": "token"}})
    api.script = in_turn(first, listing("two"))
    result = await run("status", "-l", "team=a", "-o", "json")
    assert [entry["name"] for entry in json.loads(result.output)["leases"]] == ["one", "two"]
    assert all(seen.query["labelSelector"] == ["team=a"] for seen in api.seen)
    assert api.seen[1].query["continue"] == ["token"]


def kept(kind: str, named: str) -> Answer:
    return Answer(body={"kind": kind, "metadata": {"resourceVersion": "7"}, "status": {"operator": named}})


@pytest.mark.parametrize(("name", "path"), [("one", "workleases/one"), ("workpool/one", "workpools/one")])
async def test_what_is_adopted_names_no_installation_any_more(
    api: ScriptedServer, run: Run, name: str, path: str
) -> None:
    api.script = always(kept("WorkLease", "a/worklease-installation"))
    result = await run("adopt", name, "--yes")
    assert result.exit_code == 0, result.output
    read_it, written_to = api.seen
    assert read_it.path.endswith(f"/namespaces/team/{path}")
    assert written_to.path.endswith(f"/{path}/status")
    assert written_to.json == {"metadata": {"resourceVersion": "7"}, "status": {"operator": None}}
    assert "the next installation that watches it keeps it" in result.output


async def test_nothing_is_adopted_that_nobody_keeps_or_that_has_changed(api: ScriptedServer, run: Run) -> None:
    api.script = always(kept("WorkLease", ""))
    assert "no installation keeps it" in (await run("adopt", "one", "--yes")).output
    api.script = in_turn(kept("WorkLease", "a/x"), Answer(status=409, body={"message": "modified"}))
    result = await run("adopt", "one", "--yes")
    assert (result.exit_code, "has changed meanwhile" in result.output) == (1, True)


async def test_explain_reads_the_object_its_events_and_its_pod(api: ScriptedServer, run: Run) -> None:
    body = fresh("one")
    body["status"]["sandboxes"] = [{"podUID": "uid-p", "podName": "pod-a", "phase": "Running"}]

    def answer(seen: Seen) -> Answer:
        if seen.path.endswith("/workleases/one"):
            return Answer(body=body)
        if seen.path.endswith("/events"):
            (about,) = seen.query["fieldSelector"]
            event = {"metadata": {"creationTimestamp": written(0)}, "reason": "Told", "message": f"of {about}"}
            return Answer(body={"items": [event]})
        return Answer(status=404, body={"message": 'pods "pod-a" not found'})

    api.script = answer
    result = await run("explain", "worklease/one")
    assert result.exit_code == 0, result.output
    for words in ("of involvedObject.uid=uid-one", "of involvedObject.uid=uid-p", "pod-a no longer exists"):
        assert words in " ".join(result.output.split())


async def test_a_user_who_may_not_read_events_or_pods_sees_the_rest(api: ScriptedServer, run: Run) -> None:
    def answer(seen: Seen) -> Answer:
        if seen.path.endswith("/workleases/one"):
            return Answer(body=fresh("one"))
        return Answer(status=403, body={"message": "events is forbidden [for you]"})

    api.script = answer
    result = await run("explain", "one")
    assert result.exit_code == 0, result.output
    assert "The next heartbeat is due" in result.output
    assert "Some of it could not be read: events is forbidden [for you]" in result.output


async def test_what_cannot_be_read_is_an_error_that_says_what_to_do(api: ScriptedServer, run: Run) -> None:
    api.script = always(Answer(status=404, body={"message": 'workleases.worklease.dev "one" not found'}))
    result = await run("explain", "one")
    assert (result.exit_code, result.output) == (
        1,
        "Error: WorkLease team/one does not exist; worklease status -A lists those that do\n",
    )
    api.script = always(Answer(status=404, body={"message": "the server could not find the requested resource"}))
    assert "has no WorkLeases: their CRD is not installed" in (await run("status")).output
    api.script = always(Answer(status=403, body={"message": "workleases is forbidden"}))
    assert (await run("status")).output == "Error: workleases is forbidden\n"
    assert "no usable kubeconfig" in (await run("status", "--context", "three")).output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-A", "-n", "team"), "-A and -n cannot be used together"),
        (("-w", "-o", "json"), "-w cannot be used with -o json"),
        (("-w",), "-w needs a terminal"),
    ],
)
async def test_options_that_contradict_each_other_are_refused(run: Run, options: tuple[str, ...], words: str) -> None:
    result = await run("status", *options)
    assert result.exit_code == 2
    assert words in result.output


async def test_watch_shows_what_changes_until_it_is_interrupted(api: ScriptedServer, kubeconfig: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    command = [sys.executable, "-m", "worklease", "status", "--watch", "--kubeconfig", str(kubeconfig)]
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "TERM": "xterm"}
    screen = bytearray()
    asyncio.get_running_loop().add_reader(ours, lambda: screen.extend(os.read(ours, 65_536)))
    api.script = of_leases(listing("one"))
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=theirs, stdout=theirs)
        await until(lambda: b"1 lease: " in screen, "the first look")
        api.script = of_leases(listing("one", "two"))
        await until(lambda: b"2 leases: " in screen, "another look")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(theirs)
