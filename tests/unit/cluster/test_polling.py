"""A call is repeated until it gives a verdict, or until a deadline."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from worklease.cluster.client import NotDone
from worklease.cluster.polling import deadline_in, has_passed, poll


def attempts(*outcomes: str | NotDone) -> Callable[[], Awaitable[str | NotDone]]:
    """Return a call with these outcomes, one after the other; the last one repeats."""
    left = iter(outcomes)

    async def attempt() -> str | NotDone:
        return next(left, outcomes[-1])

    return attempt


async def test_the_first_verdict_is_returned(caplog: pytest.LogCaptureFixture) -> None:
    attempt = attempts("at once", "never")
    assert await poll(attempt, deadline=deadline_in(60), interval=60, waiting_for="the server") == "at once"
    assert caplog.text == ""


async def test_it_is_repeated_until_a_verdict_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    attempt = attempts(NotDone("it is starting"), NotDone("it is busy"), "done")
    assert await poll(attempt, deadline=deadline_in(60), interval=0, waiting_for="the server") == "done"
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for the server: it is starting",
        "waiting for the server: it is busy",
    ]


async def test_after_the_deadline_the_last_reason_is_returned() -> None:
    attempt = attempts(NotDone("it is starting"), NotDone("it is busy"))
    async with asyncio.timeout(30):
        assert await poll(attempt, deadline=deadline_in(0.05), interval=0.01) == NotDone("it is busy")


async def test_a_deadline_that_has_passed_leaves_one_attempt() -> None:
    past = deadline_in(-1)
    assert has_passed(past)
    assert not has_passed(deadline_in(60))
    assert await poll(attempts("done"), deadline=past, interval=60) == "done"
    assert await poll(attempts(NotDone("no"), "done"), deadline=past, interval=60) == NotDone("no")


async def test_what_nobody_wants_to_read_about_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert await poll(attempts(NotDone("not yet"), "done"), deadline=deadline_in(60), interval=0) == "done"
    assert caplog.text == ""


async def test_an_error_of_the_attempt_ends_the_wait() -> None:
    async def attempt() -> str | NotDone:
        raise ValueError("not worth another try")

    with pytest.raises(ValueError, match="not worth another try"):
        await poll(attempt, deadline=deadline_in(60), interval=60)
