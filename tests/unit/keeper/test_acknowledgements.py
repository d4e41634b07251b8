"""A resource that acknowledges its item: token, acknowledgement, claim, in that order; and what each answer does."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from support.every_bucket import EveryBucket
from support.keeping import RENEWED, TEMPLATE, Keeping, keeping, resource
from support.scripted_server import Answer, Fault, Seen, until
from worklease.api.names import POLLED_ANNOTATION, TURN_LABEL
from worklease.cluster.pods import CREATION_LANDS
from worklease.rules.acts import Standing
from worklease.rules.buckets import bucket_of

ENVIRONMENT_KEY = Answer(body={"data": {"environment-key": "a2V5"}})
ABSENT = Answer(status=404, body={"kind": "Status", "message": "not found"})
OTHERS = Answer(status=409, body={"error": {"type": "invalid_request_error", "message": "it is starting"}})
ACKNOWLEDGED = Answer(body={"id": "work_1", "state": "starting"})


def token(polled: datetime | None = None) -> Answer:
    annotations = {} if polled is None else {POLLED_ANNOTATION: polled.isoformat()}
    return Answer(body={"metadata": {"annotations": annotations}, "data": {"sessions-token": "dG9rZW4="}})


def listed(state: str, acknowledged: datetime | None) -> Answer:
    at = None if acknowledged is None else acknowledged.isoformat()
    return Answer(body={"data": [{"id": "work_1", "state": state, "acknowledged_at": at}], "next_page": None})


def statuses(there: Keeping, name: str = "lease-1") -> list[tuple[str, str]]:
    """Return what was written of ``LeaseHeld`` and ``SandboxReady``, in order."""
    written = [seen.json["status"] for seen in there.asked("PATCH", f"/workleases/{name}/status")]
    return [(entry["type"], entry["reason"]) for status in written for entry in status["conditions"]]


async def until_shown(there: Keeping, kind: str, reason: str, name: str = "lease-1") -> None:
    await until(lambda: (kind, reason) in statuses(there, name), f"{reason} of {name}")


def records(there: Keeping) -> list[str]:
    """Return the records that were written, in order."""
    written = [seen.json["data"] for seen in there.asked("PATCH", "/configmaps/")]
    return [record for data in written for record in data.values() if record is not None]


@dataclass
class World:
    """A keeper, and what the servers answer: Secrets by name, and calls of the Work API by their last part."""

    there: Keeping
    secrets: dict[str, Answer] = field(default_factory=lambda: {"keys": ENVIRONMENT_KEY, "token": token()})
    work: dict[str, Callable[[Seen], Answer]] = field(
        default_factory=lambda: {
            "ack": lambda _: ACKNOWLEDGED,
            "heartbeat": lambda _: Answer(body=RENEWED),
            "stop": lambda _: Answer(body={"state": "stopped"}),
            "work": lambda _: listed("queued", None),
        }
    )

    pods: list[dict[str, Any]] = field(default_factory=list)
    """What a list of pods shows."""
    makers: list[dict[str, Any]] = field(default_factory=list)
    """What a list of those shows that are about to make a sandbox."""
    creation: Answer | None = None
    """The answer to the creation of a pod; None: it is made."""

    @property
    def calls(self) -> list[str]:
        """The calls of the Work API, in order."""
        return [call_of(seen) for seen in self.there.work_api.seen]


def call_of(seen: Seen) -> str:
    return seen.path.rpartition("/")[2]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    worlds: list[World] = []

    def answer(seen: Seen) -> Answer:
        name = seen.path.removesuffix("/status").rpartition("/")[2]
        if "/secrets/" in seen.path:
            return worlds[0].secrets.get(name, ABSENT)
        if seen.path.endswith("/pods") and seen.method == "GET":
            return Answer(body={"metadata": {"resourceVersion": "7"}, "items": worlds[0].pods})
        if seen.path.endswith("/workleases"):
            return Answer(body={"metadata": {"resourceVersion": "7"}, "items": worlds[0].makers})
        if seen.path.endswith("/pods") and seen.method == "POST":
            if worlds[0].creation is not None and "dryRun" not in seen.target:
                return worlds[0].creation
            return Answer(status=201, body=seen.json | {"metadata": seen.json["metadata"] | {"uid": "pod-1"}})
        return Answer(body={"metadata": {"uid": f"uid-{name}", "resourceVersion": "7"}})

    async with keeping(answer) as there:
        worlds.append(World(there))
        there.work_api.script = lambda seen: worlds[0].work[call_of(seen)](seen)
        yield worlds[0]


def acknowledging(name: str = "lease-1", **spec: Any) -> dict[str, Any]:
    return resource(name, acknowledge=True, **{"sessionsTokenSecretRef": {"name": "token"}} | spec)


def made(it: World) -> list[Seen]:
    """Return the requests to make a pod, without dry runs."""
    return [seen for seen in it.there.asked("POST", "/pods") if "dryRun" not in seen.target]


def labelled(it: World) -> list[Seen]:
    """Return the writes of a resource's labels."""
    return [seen for seen in it.there.asked("PATCH", "/workleases/") if "labels" in (seen.json.get("metadata") or {})]


async def test_an_item_is_acknowledged_once_and_then_claimed() -> None:
    async with world() as it:
        it.there.see(acknowledging())
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert it.calls[:2] == ["ack", "heartbeat"]
        assert it.calls.count("ack") == 1
        seen = it.there.work_api.seen[0]
        assert seen.headers["authorization"] == "Bearer key"


async def test_a_resource_that_does_not_ask_for_it_acknowledges_nothing() -> None:
    async with world() as it:
        it.there.see(resource())
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert "ack" not in it.calls


async def test_without_its_token_the_item_stays_in_the_queue_and_the_status_says_so() -> None:
    async with world() as it:
        del it.secrets["token"]
        it.there.see(acknowledging())
        await until_shown(it.there, "LeaseHeld", "TokenMissing")
        assert it.calls == []
        it.secrets["token"] = token()
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert it.calls[:2] == ["ack", "heartbeat"]


async def test_a_token_of_a_poll_that_was_long_ago_is_not_acknowledged_until_the_item_is_polled_again() -> None:
    async with world() as it:
        it.secrets["token"] = token(datetime(2026, 11, 24, tzinfo=UTC))
        it.there.see(acknowledging())
        await until(lambda: len(it.there.asked("GET", "/secrets/token")) > 2, "looks for a later poll")
        assert it.calls == []
        it.secrets["token"] = token(datetime.now(UTC))
        await until_shown(it.there, "LeaseHeld", "Renewed")


@pytest.mark.parametrize("status", [404, 409])
async def test_an_item_that_another_worker_acknowledged_is_not_claimed(status: int) -> None:
    async with world() as it:
        it.work["ack"] = lambda _: Answer(
            status=status, body={"error": {"type": "not_found_error", "message": "it is not in the queue"}}
        )
        it.there.see(acknowledging())
        await until_shown(it.there, "Finished", "AckRefused")
        assert it.calls == ["ack"]


async def test_after_a_lost_answer_the_list_tells_that_the_acknowledgement_was_ours() -> None:
    async with world() as it:
        sent: list[datetime] = []

        def lose(_: Seen) -> Answer:
            sent.append(datetime.now(UTC))
            return Answer(status=502)

        it.work["ack"] = lose
        it.work["work"] = lambda _: listed("starting", sent[0])
        it.there.see(acknowledging())
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert it.calls[:3] == ["ack", "work", "heartbeat"]


async def test_after_a_lost_answer_the_list_tells_that_it_was_another_workers() -> None:
    async with world() as it:
        it.work["ack"] = lambda _: Answer(fault=Fault.RESET)
        it.work["work"] = lambda _: listed("starting", datetime(2026, 11, 24, tzinfo=UTC))
        it.there.see(acknowledging())
        await until_shown(it.there, "Finished", "AckRefused")
        assert set(it.calls) == {"ack", "work"}


async def test_after_a_lost_answer_an_item_that_is_still_queued_is_acknowledged_again() -> None:
    async with world() as it:
        it.work["ack"] = lambda _: Answer(status=502) if it.calls.count("ack") == 1 else ACKNOWLEDGED
        it.there.see(acknowledging())
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert it.calls[:4] == ["ack", "work", "ack", "heartbeat"]


async def test_an_acknowledgement_that_arrives_after_it_was_given_up_is_claimed_though_its_poll_is_long_ago() -> None:
    async with world() as it:
        it.secrets["token"] = token(datetime.now(UTC))
        shown: list[datetime] = []

        def hang(_: Seen) -> Answer:
            it.there.ahead.append(4.0)  # from now on the poll is too long ago
            return Answer(status=502)

        def lands_late(_: Seen) -> Answer:
            if it.calls.count("work") < 3:
                return listed("queued", None)
            shown.append(datetime.now(UTC))
            return listed("starting", shown[0])

        it.work["ack"] = hang
        it.work["work"] = lands_late
        it.there.see(acknowledging())
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert it.calls.count("ack") == 1


async def test_what_is_known_of_an_acknowledgement_is_written_before_it_is_sent_and_before_the_claim() -> None:
    async with world() as it:
        buckets = it.there.clients.tenures
        assert isinstance(buckets, EveryBucket)
        before: list[str] = []

        def leave(_: Seen) -> Answer:
            before.extend(records(it.there))
            buckets.stands = Standing.LEAVING  # a hand-over begins: nothing is claimed any more
            return ACKNOWLEDGED

        it.work["ack"] = leave
        it.there.see(acknowledging())
        await until(lambda: any('"Ours"' in each for each in records(it.there)), "the accepted acknowledgement")
        assert '"InDoubt"' in before[-1], "the intent was written before it was sent"
        assert it.calls == ["ack"]


async def test_what_surely_was_not_acknowledged_has_no_record() -> None:
    async with world() as it:
        it.work["ack"] = lambda _: Answer(status=429, headers={"retry-after": "60"})
        it.there.see(acknowledging())
        await until(lambda: any('"InDoubt"' in each for each in records(it.there)), "the intent")
        await until(lambda: it.there.clients.checkpoint.recall("uid-lease-1") is None, "no record")


async def test_without_the_list_nothing_is_claimed() -> None:
    async with world() as it:
        it.work["ack"] = lambda _: Answer(status=502)
        it.work["work"] = lambda _: Answer(status=503)
        it.there.see(acknowledging())
        await until(lambda: it.calls.count("work") > 1, "questions to the list")
        assert "heartbeat" not in it.calls


async def test_an_acknowledged_item_that_another_holds_is_left_to_it() -> None:
    async with world() as it:
        details = {"current_state": {"state": "active", "last_heartbeat": "2026-11-24T12:00:00Z", "ttl_seconds": 90}}
        it.work["heartbeat"] = lambda _: Answer(
            status=412, body={"error": {"type": "invalid_request_error", "message": "no", "details": details}}
        )
        it.there.see(acknowledging())
        await until_shown(it.there, "Finished", "AckRefused")
        assert it.calls == ["ack", "heartbeat"]


async def test_a_resource_that_is_deleted_before_its_acknowledgement_leaves_the_item_in_the_queue() -> None:
    async with world() as it:
        it.there.see(acknowledging(is_deleting=True))
        await until(lambda: it.there.asked("PATCH", "/workleases/lease-1"), "the finalizer removed")
        assert it.calls == []


async def test_what_left_the_queue_is_given_back_when_its_resource_is_deleted_before_the_claim() -> None:
    async with world() as it:
        it.work["heartbeat"] = lambda _: Answer(status=503)
        it.there.see(acknowledging())
        await until(lambda: "heartbeat" in it.calls, "a claim")
        deleted = acknowledging(is_deleting=True)
        it.there.see(deleted)
        it.work["heartbeat"] = lambda _: Answer(body=RENEWED)
        await until(lambda: "stop" in it.calls, "the stop of the claimed item")


async def test_the_acknowledgement_of_a_later_delivery_ends_the_earlier_lease_without_a_stop() -> None:
    async with world() as it:
        it.there.see(acknowledging("lease-1", created="11:00", delivery="one"))
        await until_shown(it.there, "LeaseHeld", "Renewed")
        it.there.see(acknowledging("lease-2", created="12:00", delivery="two"))
        await until_shown(it.there, "LeaseHeld", "Renewed", "lease-2")
        await until_shown(it.there, "Finished", "Requeued", "lease-1")
        assert it.calls == ["ack", "heartbeat", "ack", "heartbeat"]


def of_another_process(it: World, body: dict[str, Any], *, reason: str, is_held: bool) -> dict[str, Any]:
    """Return a resource as the process shows it that keeps its bucket."""
    buckets = it.there.clients.tenures
    assert isinstance(buckets, EveryBucket)
    buckets.held = set(buckets.held) - {bucket_of(body["metadata"]["uid"])}
    held = {"type": "LeaseHeld", "status": str(is_held), "reason": reason}
    return body | {"status": {"conditions": [held]} | ({"claimTime": "2026-11-24T12:00:00Z"} if is_held else {})}


@pytest.mark.parametrize(("reason", "is_held"), [("Renewed", True), ("Claiming", False)])
async def test_the_acknowledgement_of_a_later_delivery_by_another_process_ends_the_earlier_lease(
    reason: str, *, is_held: bool
) -> None:
    async with world() as it:
        later = acknowledging("lease-2", created="12:00", delivery="two")
        it.there.see(
            of_another_process(it, later, reason="Acknowledging", is_held=False),
            acknowledging("lease-1", created="11:00", delivery="one"),
        )
        await until_shown(it.there, "LeaseHeld", "Renewed")
        assert it.calls == ["ack", "heartbeat"], "until it is acknowledged, it ends nothing"
        it.there.see(of_another_process(it, later, reason=reason, is_held=is_held))
        await until_shown(it.there, "Finished", "Requeued")
        assert it.calls == ["ack", "heartbeat"]


async def test_a_later_delivery_does_not_wait_for_the_lease_of_the_earlier_one_that_another_process_keeps() -> None:
    async with world() as it:
        earlier = acknowledging("lease-1", created="11:00", delivery="one")
        it.there.see(
            of_another_process(it, earlier, reason="Renewed", is_held=True),
            acknowledging("lease-2", created="12:00", delivery="two"),
        )
        await until_shown(it.there, "LeaseHeld", "Renewed", "lease-2")
        assert ("LeaseHeld", "Duplicate") not in statuses(it.there, "lease-2")


async def test_what_a_process_leaves_to_another_one_is_no_rival_of_another_delivery() -> None:
    async with world() as it:
        it.there.see(acknowledging("lease-1", created="11:00", delivery="one"))
        await until_shown(it.there, "LeaseHeld", "Renewed")
        buckets = it.there.clients.tenures
        assert isinstance(buckets, EveryBucket)
        buckets.held = set(buckets.held) - {bucket_of("uid-lease-1")}
        it.there.keeper.lose(bucket_of("uid-lease-1"))
        it.there.see(acknowledging("lease-2", created="12:00", delivery="two"))
        await until_shown(it.there, "LeaseHeld", "Renewed", "lease-2")


async def test_until_it_is_acknowledged_a_later_delivery_ends_nothing() -> None:
    async with world() as it:
        it.there.see(acknowledging("lease-1", created="11:00", delivery="one"))
        await until_shown(it.there, "LeaseHeld", "Renewed")
        it.work["ack"] = lambda _: OTHERS
        it.there.see(acknowledging("lease-2", created="12:00", delivery="two"))
        await until_shown(it.there, "Finished", "AckRefused", "lease-2")
        assert ("Finished", "Requeued") not in statuses(it.there, "lease-1")


async def test_the_pod_gets_the_token_the_session_and_no_key() -> None:
    async with world() as it:
        it.there.see(acknowledging(sessionID="sesn_1", sandbox=TEMPLATE))
        await until(lambda: bool(made(it)), "a pod")
        body = made(it)[0].json
        told = {entry["name"]: entry for entry in body["spec"]["containers"][0]["env"]}
        assert told["ANTHROPIC_SESSION_ID"]["value"] == "sesn_1"
        assert told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "token"
        assert body["metadata"]["labels"]["worklease.dev/session-id"] == "sesn_1"
        assert it.calls[:2] == ["ack", "heartbeat"], "the dry run came before"


async def test_a_pod_waits_for_one_of_the_session_whose_lease_another_process_keeps() -> None:
    async with world() as it:
        it.pods = [{"metadata": {"name": "theirs", "uid": "pod-9"}, "spec": {}, "status": {"phase": "Running"}}]
        it.there.see(acknowledging(sessionID="sesn_1", sandbox=TEMPLATE))
        await until_shown(it.there, "SandboxReady", "PredecessorEnding")
        (asked, *_) = it.there.asked("GET", "/pods?")
        assert asked.query["labelSelector"] == ["worklease.dev/session-id=sesn_1"]
        assert made(it) == []
        assert turns(it) == [], "while one is at work, it is nobody's turn"
        it.pods = []
        await until(lambda: len(made(it)) == 1, "the pod")


def turns(it: World, name: str = "lease-1") -> list[str | None]:
    """Return what a resource showed of its turn to make the session's sandbox, in order."""
    written = [seen.json["metadata"].get("labels") or {} for seen in it.there.asked("PATCH", f"/workleases/{name}")]
    return [labels[TURN_LABEL] for labels in written if TURN_LABEL in labels]


def about_to_make(created: str, **status: Any) -> dict[str, Any]:
    """Return another process's resource that is about to make a sandbox of the session."""
    return resource("theirs", created=created, sessionID="sesn_1") | {"status": status}


async def test_a_sandbox_of_a_session_is_made_in_a_turn_that_all_processes_see() -> None:
    async with world() as it:
        it.there.see(acknowledging(sessionID="sesn_1", sandbox=TEMPLATE))
        await until(lambda: turns(it) == ["sesn_1", None], "the end of the turn")
        paths = [(seen.method, seen.path.rpartition("/")[2]) for seen in it.there.kubernetes.seen]
        begins = next(at for at, seen in enumerate(it.there.kubernetes.seen) if TURN_LABEL in str(seen.body))
        calls = [each for each in paths[begins:] if each[1] in {"lease-1", "workleases", "pods"}]
        assert calls == [
            ("PATCH", "lease-1"),
            ("GET", "workleases"),
            ("GET", "pods"),
            ("POST", "pods"),
            ("PATCH", "lease-1"),
        ]


async def test_a_sandbox_gives_way_to_that_of_an_older_resource_that_is_about_to_make_it() -> None:
    async with world() as it:
        it.makers = [about_to_make("10:00")]
        it.there.see(acknowledging(created="11:00", sessionID="sesn_1", sandbox=TEMPLATE))
        await until_shown(it.there, "SandboxReady", "PredecessorEnding")
        assert turns(it) == ["sesn_1", None]
        it.makers = [about_to_make("10:00", conditions=[{"type": "Finished", "status": "True"}])]
        await until(lambda: len(made(it)) == 1, "the pod, once the older one is finished")


async def test_a_younger_resource_that_is_about_to_make_a_sandbox_is_waited_for() -> None:
    async with world() as it:
        it.makers = [about_to_make("12:00")]
        it.there.see(acknowledging(created="11:00", sessionID="sesn_1", sandbox=TEMPLATE))
        await until_shown(it.there, "SandboxReady", "PredecessorEnding")
        assert (set(turns(it)), made(it)) == ({"sesn_1"}, [])
        it.makers = []
        await until(lambda: len(made(it)) == 1, "the pod, once the younger one gave way")


async def test_a_turn_that_an_earlier_process_began_is_not_given_up_while_its_pod_may_be_made_yet() -> None:
    async with world() as it:
        it.makers = [about_to_make("10:00")]
        body = acknowledging(created="11:00", sessionID="sesn_1", sandbox=TEMPLATE)
        body["metadata"]["labels"] |= {TURN_LABEL: "sesn_1"}
        it.there.see(body)
        await until_shown(it.there, "SandboxReady", "PredecessorEnding")
        assert set(turns(it)) == {"sesn_1"}
        it.there.ahead.append(CREATION_LANDS)
        await until(lambda: turns(it)[-1] is None, "the turn given up")


async def test_a_turn_whose_creation_has_no_answer_goes_on() -> None:
    async with world() as it:
        it.creation = Answer(fault=Fault.CLOSE)
        it.there.see(acknowledging(sessionID="sesn_1", sandbox=TEMPLATE))
        await until(lambda: len(made(it)) == 1, "a creation without an answer")
        it.makers = [about_to_make("10:00")]
        it.creation = None
        await until(lambda: turns(it) == ["sesn_1", None], "the end of the turn")
        assert len(made(it)) == 2


async def test_a_pools_lease_gets_the_label_of_its_bucket_as_soon_as_it_is_held() -> None:
    async with world() as it:
        body = acknowledging()
        del body["metadata"]["labels"]  # it goes by the uid, which the API server gives
        it.there.see(body)
        await until(lambda: bool(labelled(it)), "the label")
        (patch,) = labelled(it)
        assert patch.json["metadata"]["labels"] == {"worklease.dev/bucket": str(bucket_of("uid-lease-1"))}
        assert it.calls[:2] == ["ack", "heartbeat"], "the claim did not wait for it"


async def test_the_next_pod_of_a_session_waits_for_the_one_before() -> None:
    async with world() as it:
        it.there.see(acknowledging("lease-1", created="11:00", workID="work_1", sessionID="sesn_1", sandbox=TEMPLATE))
        await until(lambda: bool(made(it)), "the first pod")
        it.there.see(acknowledging("lease-2", created="12:00", workID="work_2", sessionID="sesn_1", sandbox=TEMPLATE))
        await until_shown(it.there, "SandboxReady", "PredecessorEnding", "lease-2")
        assert len(made(it)) == 1
        gone = made(it)[0].json
        body = gone | {"metadata": gone["metadata"] | {"uid": "pod-1", "resourceVersion": "9"}}
        it.there.keeper.see_pod(body | {"status": {"phase": "Succeeded", "containerStatuses": []}})
        await until(lambda: len(made(it)) == 2, "the second pod")
