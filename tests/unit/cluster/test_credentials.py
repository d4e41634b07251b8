"""Which key is used, when its Secret is read, and what the operator says if there is none."""

import asyncio
import base64
import gc
import logging
from collections.abc import AsyncIterator

import pytest

from support.scripted_server import Answer, Fault, ScriptedServer, always, in_turn, kubernetes_at, serving, until
from worklease.cluster.client import KubernetesApi
from worklease.cluster.credentials import CACHE_SECONDS, UNUSED_SECONDS, Credentials, Key, NoKey

KEY = "sk-ant-oat01-environment"
TOKEN = "sk-ant-oat01-session"
SECRET = ("sandboxes", "worklease-credentials")
NAMED = "Secret sandboxes/worklease-credentials"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def kubernetes(server: ScriptedServer) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(server.url) as api:
        yield api


@pytest.fixture
def credentials(kubernetes: KubernetesApi, clock: Clock) -> Credentials:
    return Credentials(kubernetes, clock)


def secret(**entries: str | bytes) -> Answer:
    encoded = {
        name.replace("_", "-"): base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode()
        for name, value in entries.items()
    }
    return Answer(body={"kind": "Secret", "data": encoded})


def refused(status: int, message: str = "in the server's words") -> Answer:
    return Answer(status=status, body={"kind": "Status", "message": message, "code": status})


async def key_of(credentials: Credentials) -> Key:
    found = await credentials.key(*SECRET)
    assert isinstance(found, Key), found
    return found


async def problem_of(credentials: Credentials) -> str:
    found = await credentials.key(*SECRET)
    assert isinstance(found, NoKey), found
    return found.message


# --- Which key -----------------------------------------------------------------------------------------------------


async def test_a_secret_is_read_by_its_name(server: ScriptedServer, credentials: Credentials) -> None:
    server.script = always(secret(environment_key=KEY))
    assert (await key_of(credentials)).value.get_secret_value() == KEY
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("GET", "/api/v1/namespaces/sandboxes/secrets/worklease-credentials")


async def test_the_items_own_token_is_preferred(server: ScriptedServer, credentials: Credentials) -> None:
    server.script = always(secret(environment_key=KEY, sessions_token=TOKEN))
    key = await key_of(credentials)
    assert key.value.get_secret_value() == TOKEN
    assert key.origin == f"key sessions-token of {NAMED}"


async def test_an_empty_token_is_as_good_as_none(server: ScriptedServer, credentials: Credentials) -> None:
    server.script = always(secret(environment_key=KEY, sessions_token="\n"))
    assert (await key_of(credentials)).value.get_secret_value() == KEY


@pytest.mark.parametrize("written", [f"{KEY}\n", f"{KEY}\r\n", f"  {KEY}\t"])
async def test_the_newline_that_an_editor_leaves_is_no_part_of_a_key(
    server: ScriptedServer, credentials: Credentials, written: str
) -> None:
    server.script = always(secret(environment_key=written))
    assert (await key_of(credentials)).value.get_secret_value() == KEY


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (refused(404), (NAMED, "does not exist", "create it", "environment-key")),
        (refused(403), (NAMED, "may not read", "grant")),
        (refused(401), (NAMED, "could not be read", "in the server's words")),
        (refused(500), (NAMED, "could not be read", "in the server's words")),
        (Answer(fault=Fault.RESET), (NAMED, "could not be read", "did not answer")),
        (Answer(body=b"<html>"), (NAMED, "could not be read", "not the Kubernetes API")),
        (Answer(body={"kind": "Secret"}), (NAMED, "no key environment-key")),
        (Answer(body={"kind": "Secret", "data": None}), (NAMED, "no key environment-key")),
        (secret(other="x"), (NAMED, "no key environment-key", "put")),
        (secret(environment_key=""), (NAMED, "empty", "put")),
        (secret(environment_key=" \n"), (NAMED, "empty", "put")),
        (secret(environment_key="schlüssel"), ("environment-key", NAMED, "ASCII", "put")),
        (secret(environment_key=b"\xff\xfe"), ("environment-key", NAMED, "ASCII", "put")),
        (secret(environment_key="one\ntwo"), ("environment-key", NAMED, "one line", "put")),
        (secret(environment_key=KEY, sessions_token="one\ntwo"), ("sessions-token", NAMED, "one line", "put")),
        (secret(environment_key="a\x00b"), ("environment-key", NAMED, "one line", "put")),
        (Answer(body={"data": {"environment-key": "not base64!"}}), ("environment-key", NAMED, "put")),
    ],
)
async def test_where_there_is_no_key_the_message_says_which_and_what_to_do(
    server: ScriptedServer, credentials: Credentials, answer: Answer, parts: tuple[str, ...]
) -> None:
    server.script = always(answer)
    message = await problem_of(credentials)
    assert not [part for part in parts if part not in message], message


async def test_no_key_is_in_a_repr_a_message_or_a_log(
    server: ScriptedServer, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = in_turn(secret(environment_key=KEY), secret(environment_key=f"{KEY}\n{KEY}"))
    key = await key_of(credentials)
    problem = await credentials.key_after_refusal(*SECRET, key)
    assert isinstance(problem, NoKey)
    assert KEY not in f"{key!r} {key} {problem!r} {vars(credentials)!r} {caplog.text}"


# --- When it is read -----------------------------------------------------------------------------------------------


async def test_a_key_in_hand_is_given_without_asking(
    server: ScriptedServer, credentials: Credentials, clock: Clock
) -> None:
    server.script = always(secret(environment_key=KEY))
    first = await key_of(credentials)
    clock.now += CACHE_SECONDS / 3
    assert await key_of(credentials) is first
    assert len(server.seen) == 1


@pytest.mark.parametrize("gap", [7.0, 10.0, 20.0, 30.0])
async def test_no_beat_uses_a_key_that_was_read_longer_than_thirty_seconds_ago(
    gap: float, server: ScriptedServer, credentials: Credentials, clock: Clock
) -> None:
    server.script = lambda _: secret(environment_key=f"sk-{clock.now}")
    for _ in range(12):
        key = await key_of(credentials)
        assert clock.now - float(key.value.get_secret_value().removeprefix("sk-")) <= CACHE_SECONDS
        await asyncio.gather(*(each for each in asyncio.all_tasks() if each.get_name().startswith("secret ")))
        clock.now += gap


async def test_a_key_in_hand_is_looked_after_in_the_background(
    server: ScriptedServer, credentials: Credentials, clock: Clock
) -> None:
    held = asyncio.Event()
    changed = Answer(body=secret(environment_key="sk-new").body, until=held)
    server.script = in_turn(secret(environment_key=KEY), changed)
    first = await key_of(credentials)
    clock.now += CACHE_SECONDS + 1
    assert await key_of(credentials) is first, "a beat does not wait for Kubernetes"
    await server.until_seen(2)
    assert await key_of(credentials) is first
    held.set()

    async def is_new() -> bool:
        return (await key_of(credentials)).value.get_secret_value() == "sk-new"

    await until(is_new, "the new key")
    assert len(server.seen) == 2


async def test_the_same_key_read_again_is_the_same_object(
    server: ScriptedServer, credentials: Credentials, clock: Clock
) -> None:
    server.script = always(secret(environment_key=KEY))
    first = await key_of(credentials)

    async def has_been_read_again() -> bool:
        clock.now += CACHE_SECONDS + 1
        assert await key_of(credentials) is first
        return len(server.seen) > 3

    await until(has_been_read_again, "a reading after those in the background")


async def test_many_who_ask_at_once_share_one_reading(server: ScriptedServer, credentials: Credentials) -> None:
    held = asyncio.Event()
    server.script = always(Answer(body=secret(environment_key=KEY).body, until=held))
    asking = [asyncio.create_task(credentials.key(*SECRET)) for _ in range(100)]
    await server.until_seen(1)
    held.set()
    found = await asyncio.gather(*asking)
    assert len({id(key) for key in found}) == 1
    assert len(server.seen) == 1


async def test_one_who_is_cancelled_does_not_end_the_reading_for_the_others(
    server: ScriptedServer, credentials: Credentials
) -> None:
    held = asyncio.Event()
    server.script = always(Answer(body=secret(environment_key=KEY).body, until=held))
    first, second = (asyncio.create_task(credentials.key(*SECRET)) for _ in range(2))
    await server.until_seen(1)
    first.cancel()
    held.set()
    assert isinstance(await second, Key)


async def test_one_secret_that_hangs_does_not_hold_back_another(
    server: ScriptedServer, credentials: Credentials
) -> None:
    hanging = Answer(fault=Fault.HANG)
    server.script = lambda seen: hanging if seen.path.endswith("slow") else secret(environment_key=KEY)
    stuck = asyncio.create_task(credentials.key("sandboxes", "slow"))
    await server.until_seen(1)
    await key_of(credentials)
    assert not stuck.done()
    stuck.cancel()


async def test_where_there_was_no_key_the_next_who_asks_has_it_read_again(
    server: ScriptedServer, credentials: Credentials
) -> None:
    server.script = in_turn(refused(404), secret(environment_key=KEY))
    await problem_of(credentials)
    await key_of(credentials)


async def test_a_refused_key_is_read_again_at_once(server: ScriptedServer, credentials: Credentials) -> None:
    server.script = in_turn(secret(environment_key=KEY), secret(environment_key="sk-new"))
    first = await key_of(credentials)
    second = await credentials.key_after_refusal(*SECRET, first)
    assert isinstance(second, Key)
    assert second.value.get_secret_value() == "sk-new"
    assert await key_of(credentials) is second


async def test_a_refused_key_that_somebody_has_replaced_meanwhile_is_not_read_again(
    server: ScriptedServer, credentials: Credentials
) -> None:
    server.script = in_turn(secret(environment_key=KEY), secret(environment_key="sk-new"))
    first = await key_of(credentials)
    second = await credentials.key_after_refusal(*SECRET, first)
    assert await credentials.key_after_refusal(*SECRET, first) is second
    assert len(server.seen) == 2


async def test_a_refused_key_that_is_still_the_secrets_is_given_back_as_the_same(
    server: ScriptedServer, credentials: Credentials
) -> None:
    server.script = always(secret(environment_key=KEY))
    first = await key_of(credentials)
    assert await credentials.key_after_refusal(*SECRET, first) is first


# --- Outages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outage", [*map(refused, (401, 429, 500, 503)), Answer(fault=Fault.RESET), Answer(body=b"<html>")]
)
async def test_an_outage_of_the_api_server_takes_no_key_away(
    server: ScriptedServer, credentials: Credentials, outage: Answer
) -> None:
    server.script = in_turn(secret(environment_key=KEY), outage)
    first = await key_of(credentials)
    assert await credentials.key_after_refusal(*SECRET, first) is first
    assert await key_of(credentials) is first


@pytest.mark.parametrize("verdict", [refused(404), refused(403), secret(other="x")])
async def test_a_secret_that_is_gone_is_noticed(
    server: ScriptedServer, credentials: Credentials, clock: Clock, verdict: Answer
) -> None:
    server.script = in_turn(secret(environment_key=KEY), verdict)
    await key_of(credentials)
    clock.now += CACHE_SECONDS + 1

    async def is_noticed() -> bool:
        return isinstance(await credentials.key(*SECRET), NoKey)

    await until(is_noticed, "the end of the key")
    assert NAMED in await problem_of(credentials)


async def test_what_was_missing_is_not_said_of_a_server_that_does_not_answer(
    server: ScriptedServer, credentials: Credentials
) -> None:
    server.script = in_turn(refused(404), refused(503, "overloaded"))
    assert "does not exist" in await problem_of(credentials)
    assert "overloaded" in await problem_of(credentials)


async def test_keys_of_secrets_that_nobody_asks_about_any_more_are_not_kept_in_memory(
    server: ScriptedServer, credentials: Credentials, clock: Clock
) -> None:
    def keys_in_memory() -> int:
        gc.collect()
        return sum(isinstance(each, Key) and KEY in each.value.get_secret_value() for each in gc.get_objects())

    server.script = lambda seen: secret(environment_key=f"{KEY} of {seen.path}")
    for number in range(1000):
        assert isinstance(await credentials.key("sandboxes", f"secret-{number}"), Key)
    assert keys_in_memory() == 1000
    clock.now += UNUSED_SECONDS / 2
    assert isinstance(await credentials.key_within(*SECRET, 0.0), Key)
    clock.now += UNUSED_SECONDS / 2 + 1
    server.script = always(refused(404))
    assert isinstance(await credentials.key_within("sandboxes", "another", 0.0), NoKey)
    assert keys_in_memory() == 1
    assert isinstance(credentials.last_key(*SECRET), Key), "it was asked about since"
