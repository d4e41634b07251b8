"""The keys for the Work API: read from Secrets by name, kept for a short time, read again when a key is refused.

Owns the reading of Secrets and the rule which key is used. Must not log, show or keep a key anywhere else.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from pydantic import SecretStr

from worklease.cluster.client import Done, KubernetesApi, NoAnswer, Refused, Reply

ENVIRONMENT_KEY: Final = "environment-key"
SESSIONS_TOKEN: Final = "sessions-token"  # noqa: S105 (the name of a Secret's key)
WORK_SECRET: Final = "work-secret"  # noqa: S105 (as above)
"""Of these the operator reads the first two; the last is for a worker behind the proxy."""

CACHE_SECONDS: Final = 30.0
"""Seconds after which no key is used unless its Secret was read again; after a refused key it is read at once."""

UNUSED_SECONDS: Final = 12 * 3600.0
"""Seconds after which a Secret that nobody asks about is forgotten, and its keys with it. A held lease asks at each
beat, three times within a TTL, and no TTL is longer than a day."""

TIDY_GAP: Final = 60.0
"""Seconds between two looks for Secrets that nobody asks about."""


@dataclass(frozen=True, slots=True)
class Key:
    """What authenticates a call, and, for messages, which key of which Secret it is."""

    value: SecretStr
    origin: str
    environment: SecretStr | None = None
    """The environment's key, where there is one: the list accepts no other."""
    other: "Key | None" = None
    """The key of the same Secret to try where this one is refused."""


@dataclass(frozen=True, slots=True)
class NoKey:
    """There is no key: what is missing, and what to do."""

    message: str


@dataclass(frozen=True, slots=True)
class _CachedKey:
    found: Key | NoKey
    at: float


Name = tuple[str, str]
"""A Secret's namespace and name."""


class Credentials:
    """The keys read so far. A Secret is read once at a time, and all that wait for it share the read."""

    def __init__(self, api: KubernetesApi, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._known: dict[Name, _CachedKey] = {}
        self._last: dict[Name, Key] = {}
        self._refused: dict[Name, Key] = {}
        """The first keys that were refused, each until its Secret changes or its other key is refused too."""
        self._reading: dict[Name, asyncio.Task[Key | NoKey]] = {}
        self._asked: dict[Name, float] = {}
        """When somebody asked for a key last."""
        self._tidied = clock()

    async def key(self, namespace: str, name: str) -> Key | NoKey:
        """Return the key of a Secret.

        A key that is known is returned at once, and its Secret read again in the background: a beat that has a key
        never waits for Kubernetes. So that comes early: when the key would be too old for who asks next, if that is as
        long from now as the last time.
        """
        now = self._clock()
        known, asked = self._known.get((namespace, name)), self._asked.get((namespace, name), now)
        self._asked[namespace, name] = now
        if known is None or isinstance(known.found, NoKey):
            return self._chosen((namespace, name), await self._read(namespace, name))
        if now - known.at + (now - asked) > CACHE_SECONDS:
            self._start(namespace, name)
        return self._chosen((namespace, name), known.found)

    def learn(self, namespace: str, name: str) -> None:
        """Begin to read a Secret, unless it was read before: if Kubernetes goes away, the first beat has a key."""
        if (namespace, name) not in self._known:
            self._start(namespace, name)

    async def key_within(self, namespace: str, name: str, seconds: float) -> Key | NoKey:
        """Return the key of a Secret as it was read ``seconds`` ago at most."""
        at = (namespace, name)
        known = self._known.get(at)
        if known is not None and self._clock() - known.at <= seconds:
            return self._chosen(at, known.found)
        return self._chosen(at, await self._read(namespace, name))

    async def key_after_refusal(self, namespace: str, name: str, refused: Key) -> Key | NoKey:
        """Read the Secret again, unless that was done since ``refused`` was returned; return the key to try next.

        That is the Secret's new key, else its other one, and ``refused`` itself if it has no other. Which of two was
        refused is remembered until the Secret changes.
        """
        at = (namespace, name)
        known = self._known.get(at)
        if known is None or _has(known.found, refused):
            await self._read(namespace, name)
        found = self._known[at].found
        if isinstance(found, Key) and found.other is not None and _has(found, refused):
            if found is refused:
                self._refused[at] = found
            else:
                self._refused.pop(at, None)
        return self._chosen(at, found)

    def last_key(self, namespace: str, name: str) -> Key | None:
        """Return the last key that a Secret had, though it may have none now."""
        last = self._last.get((namespace, name))
        return last.other if last is not None and self._refused.get((namespace, name)) is last else last

    def known_key(self, namespace: str, name: str) -> Key | None:
        """Return the key that a Secret had when it was read last, without reading it."""
        known = self._known.get((namespace, name))
        found = None if known is None else self._chosen((namespace, name), known.found)
        return found if isinstance(found, Key) else None

    def _chosen(self, at: Name, found: Key | NoKey) -> Key | NoKey:
        """Return which key of a Secret to try: the first, unless that was refused and there is another."""
        if isinstance(found, Key) and found.other is not None and self._refused.get(at) is found:
            return found.other
        return found

    async def _read(self, namespace: str, name: str) -> Key | NoKey:
        # Shielded: the read is shared, and goes on when one that waits for it is cancelled.
        return await asyncio.shield(self._start(namespace, name))

    def _start(self, namespace: str, name: str) -> asyncio.Task[Key | NoKey]:
        at = (namespace, name)
        task = self._reading.get(at)
        if task is None:
            task = asyncio.create_task(self._fetch(namespace, name), name=f"secret {namespace}/{name}")
            self._reading[at] = task
            task.add_done_callback(lambda _: self._reading.pop(at, None))
        return task

    async def _fetch(self, namespace: str, name: str) -> Key | NoKey:
        at = (namespace, name)
        reply = await self._api.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        found = _found(f"{namespace}/{name}", reply)
        known = self._known.get(at)
        if isinstance(found, Key) and known is not None and isinstance(known.found, Key):
            # An equal key stays the same object: so a refusal shows whether the Secret has another key by now.
            found = known.found if known.found == found else found
        if (
            known is not None
            and isinstance(known.found, Key)
            and not isinstance(reply, Done)
            and not _is_verdict(reply)
        ):
            # The API server gave no verdict just now: the last key stays in use.
            found = known.found
        self._known[at] = _CachedKey(found, self._clock())
        if isinstance(found, Key):
            self._last[at] = found
        self._forget_unused()
        return found

    def _forget_unused(self) -> None:
        """Forget the Secrets that nobody asked about for long: who asks has one read that was not read lately."""
        now = self._clock()
        if now - self._tidied < TIDY_GAP:
            return
        self._tidied = now
        for at in [each for each, known in self._known.items() if now - known.at > UNUSED_SECONDS]:
            del self._known[at]
            self._last.pop(at, None)
            self._refused.pop(at, None)
            self._asked.pop(at, None)


def _has(found: Key | NoKey, key: Key) -> bool:
    """Whether a Secret, as it was read last, still has this very key."""
    return isinstance(found, Key) and (found is key or found.other is key)


def _is_verdict(reply: Reply) -> bool:
    """Whether a refusal is about the Secret, not about the API server's own state."""
    return isinstance(reply, Refused) and reply.status in {403, 404}


def _found(secret: str, reply: Reply) -> Key | NoKey:
    match reply:
        case Done(body):
            return _choose(secret, body.get("data") or {})
        case Refused(status=404):
            return NoKey(f"Secret {secret} does not exist: create it with the key {ENVIRONMENT_KEY}")
        case Refused(status=403):
            return NoKey(f"the operator may not read Secret {secret}: grant it get on that Secret by name")
        case Refused(status, message):
            return NoKey(f"Secret {secret} could not be read: {status} {message}")
        case NoAnswer(message):
            return NoKey(f"Secret {secret} could not be read: {message}")


def _choose(secret: str, entries: Mapping[str, Any]) -> Key | NoKey:
    """Prefer the item's own token: it works for this item only."""
    read = {entry: _decoded(secret, entry, entries.get(entry)) for entry in (SESSIONS_TOKEN, ENVIRONMENT_KEY)}
    environment = read[ENVIRONMENT_KEY]
    known = environment if isinstance(environment, SecretStr) else None
    found: list[Key] = []
    for entry, value in read.items():
        match value:
            case NoKey() if not found:
                return value
            case SecretStr():
                found.append(Key(value, f"key {entry} of Secret {secret}", known))
            case NoKey() | None:
                pass
            case _:
                assert_never(value)
    if found:
        return replace(found[0], other=found[1]) if len(found) > 1 else found[0]
    return NoKey(f"Secret {secret} has no key {ENVIRONMENT_KEY}, or it is empty: put the environment's key there")


def _decoded(secret: str, entry: str, encoded: object) -> SecretStr | NoKey | None:
    """Return the value of one entry; None if it is missing or empty."""
    if not isinstance(encoded, str) or not encoded:
        return None
    try:
        # A file from an editor ends with a newline; no key does.
        value = base64.b64decode(encoded, validate=True).decode("ascii").strip()
    except (binascii.Error, UnicodeDecodeError):
        return NoKey(f"key {entry} of Secret {secret} is not ASCII text: put the key there as it was issued")
    if not value.isprintable():
        return NoKey(f"key {entry} of Secret {secret} is not one line of text: put the key there as it was issued")
    return SecretStr(value) if value else None
