"""What the proxy answers itself: heartbeats by compare-and-set, stops, and how it went for the worker."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.proxied import OWN
from worklease_proxy import answers
from worklease_proxy.answers import Seen, ToldState

NOW = datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=UTC)
NEW = Seen(begun=NOW)
TTL = 20


def beaten(seen: Seen = NEW, expected: str | None = "NO_HEARTBEAT") -> tuple[Seen, int, dict[str, Any]]:
    after, answer = answers.heartbeat(seen, expected, NOW, TTL)
    return after, answer.status, dict(answer.body)


def test_a_heartbeat_is_answered_in_the_references_shape() -> None:
    _, status, body = beaten()
    assert status == 200
    assert body == {
        "type": "work_heartbeat",
        "last_heartbeat": "2026-11-28T12:00:00.123456Z",
        "lease_extended": True,
        "state": "active",
        "ttl_seconds": TTL,
    }


@pytest.mark.parametrize("first", ["NO_HEARTBEAT", "2026-11-28T11:59:00.000000Z", "anything", "", None])
def test_a_proxy_without_a_value_takes_the_first_whatever_it_is(first: str | None) -> None:
    seen, status, body = beaten(expected=first)
    assert (status, body["lease_extended"]) == (200, True)
    assert beaten(seen, body["last_heartbeat"])[1] == 200


def test_each_heartbeat_gives_another_value_also_within_one_microsecond() -> None:
    first, _, one = beaten()
    _, _, two = beaten(first, one["last_heartbeat"])
    assert one["last_heartbeat"] < two["last_heartbeat"]


def test_a_wrong_value_is_refused_and_changes_nothing() -> None:
    held, _, body = beaten()
    refused, status, error = beaten(held, "NO_HEARTBEAT")
    assert status == 412
    assert replace(refused, heartbeat_refusal=0) == held
    assert error["error"]["type"] == "invalid_request_error"
    assert body["last_heartbeat"] in error["error"]["message"]
    assert error["error"]["details"] == {
        "current_state": {
            "state": "active",
            "last_heartbeat": body["last_heartbeat"],
            "lease_extended": False,
            "ttl_seconds": TTL,
        },
        "error_visibility": "user_facing",
        "error_code": "heartbeat_precondition_failed",
    }
    assert beaten(refused, body["last_heartbeat"])[1] == 200


def test_in_a_drain_nothing_is_compared_and_nothing_extended() -> None:
    held, _, body = beaten()
    draining = answers.drain(held, NOW)
    for expected in (body["last_heartbeat"], "wrong"):
        after, status, told = beaten(draining, expected)
        assert (status, told["state"], told["lease_extended"]) == (200, "stopping", False)
        assert told["last_heartbeat"] == body["last_heartbeat"]
        assert after == draining


def test_a_drain_that_began_before_the_first_heartbeat_is_told_by_it() -> None:
    _, _, told = beaten(answers.drain(NEW, NOW))
    assert (told["state"], told["last_heartbeat"]) == ("stopping", "")


def test_a_drain_begins_once() -> None:
    begun = answers.drain(NEW, NOW)
    assert answers.drain(begun, NOW + timedelta(seconds=9)) == begun


@pytest.mark.parametrize(("force", "state"), [(True, "stopped"), (False, "stopping")])
def test_a_stop_is_answered_with_the_item_and_heartbeats_say_the_same(force: bool, state: str) -> None:  # noqa: FBT001
    held, _, body = beaten()
    stopped, answer = answers.stop(held, OWN, NOW, force=force)
    item = answer.body
    assert answer.status == 200
    assert (item["id"], item["environment_id"], item["state"]) == (OWN.work_id, OWN.environment_id, state)
    assert item["data"] == {"type": "session", "id": OWN.session_id}
    assert item["latest_heartbeat_at"] == body["last_heartbeat"]
    assert (item["stopped_at"] is not None) == force
    assert beaten(stopped, "wrong")[2]["state"] == state


def test_a_second_stop_keeps_the_first_request_and_never_revives() -> None:
    asked, _ = answers.stop(NEW, OWN, NOW, force=False)
    forced, answer = answers.stop(asked, OWN, NOW + timedelta(seconds=1), force=True)
    again, _ = answers.stop(forced, OWN, NOW + timedelta(seconds=2), force=False)
    assert answer.body["stop_requested_at"] == "2026-11-28T12:00:00.123456Z"
    assert again.state is ToldState.STOPPED


@pytest.mark.parametrize(("drain", "ttl"), [(0, 2), (3, 2), (30, 20), (60, 40), (90, 60), (150, 60), (86400, 60)])
def test_the_ttl_is_two_thirds_of_the_drain_from_two_to_sixty(drain: int, ttl: int) -> None:
    assert answers.ttl_of(drain) == ttl


# --- How it went ---------------------------------------------------------------------------------------------------


def test_a_worker_whose_value_was_refused_has_given_up_unless_it_went_on() -> None:
    held, _, body = beaten()
    refused, _, _ = beaten(held, "wrong")
    assert answers.giving_up(refused) == "worker gave up: 412 heartbeat"
    assert answers.giving_up(beaten(refused, body["last_heartbeat"])[0]) == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, ""),
        (400, "worker gave up: 400 events stream"),
        (401, "worker gave up: 401 events stream"),
        (403, "worker gave up: 403 events stream"),
        (404, "worker gave up: 404 events stream"),
        (408, ""),
        (409, ""),
        (429, ""),
        (500, ""),
        (503, ""),
    ],
)
def test_a_worker_gives_up_by_a_final_refusal_of_its_events(status: int, words: str) -> None:
    assert answers.giving_up(answers.note_stream(NEW, status)) == words


def test_a_stream_that_opens_after_a_refusal_shows_that_the_worker_went_on() -> None:
    refused = answers.note_stream(NEW, 401)
    assert answers.giving_up(answers.note_stream(refused, 503)) != ""
    assert answers.giving_up(answers.note_stream(refused, 200)) == ""


def test_a_worker_that_sent_no_heartbeat_for_its_ttl_has_given_up_unless_it_was_done() -> None:
    held, _, _ = beaten()
    soon, late = NOW + timedelta(seconds=TTL), NOW + timedelta(seconds=TTL + 1)
    assert answers.fell_silent(held, soon, TTL) == ""
    assert answers.fell_silent(held, late, TTL) == "worker gave up: no heartbeat for 21 s"
    assert answers.fell_silent(NEW, late, TTL) == ""
    assert answers.fell_silent(answers.drain(held, NOW), late, TTL) == ""
    assert answers.fell_silent(answers.stop(held, OWN, NOW, force=True)[0], late, TTL) == ""
