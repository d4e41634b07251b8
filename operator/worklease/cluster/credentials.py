"""The keys of the Work API: Secrets, read by name, cached shortly, read again when a key is refused.

Owns the reading of Secrets and the rule which key is used. Must not log, show or keep a key anywhere else.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from pydantic import SecretStr

from worklease.cluster.client import Done, KubernetesApi, NoAnswer, Refused, Reply

ENVIRONMENT_KEY: Final = "environment-key"
SESSIONS_TOKEN: Final = "sessions-token"  # noqa: S105 (the name of a Secret's key)

FRESH: Final = 30.0
"""Seconds for which a Secret that was read is used without another look; a refused key is read again at once."""


@dataclass(frozen=True, slots=True)
class Key:
    """What authenticates a call, and which key of which Secret it is, for messages."""

    value: SecretStr
    origin: str
    environment: SecretStr | None = None
    """The environment's key, where there is one: the list takes no other."""


@dataclass(frozen=True, slots=True)
class NoKey:
    """There is none: what is missing, and what to do."""

    message: str


@dataclass(frozen=True, slots=True)
class _CachedKey:
    found: Key | NoKey
    at: float


Name = tuple[str, str]
"""A Secret's namespace and name."""


class Credentials:
    """The keys read so far. One read of a Secret at a time, shared by all who wait for it."""

    def __init__(self, api: KubernetesApi, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._known: dict[Name, _CachedKey] = {}
        self._last: dict[Name, Key] = {}
        self._reading: dict[Name, asyncio.Task[Key | NoKey]] = {}

    async def key(self, namespace: str, name: str) -> Key | NoKey:
        """Give the key of a Secret.

        A key in hand is given at once and looked after in the background: a beat never waits for Kubernetes while
        there is something to send.
        """
        known = self._known.get((namespace, name))
        if known is None or isinstance(known.found, NoKey):
            return await self._read(namespace, name)
        if self._clock() - known.at > FRESH:
            self._start(namespace, name)
        return known.found

    async def key_after_refusal(self, namespace: str, name: str, refused: Key) -> Key | NoKey:
        """Read the Secret again, unless somebody has done so since ``refused`` was given."""
        known = self._known.get((namespace, name))
        if known is not None and known.found is not refused:
            return known.found
        return await self._read(namespace, name)

    def last_key(self, namespace: str, name: str) -> Key | None:
        """Give the key that a Secret had when it last had one."""
        return self._last.get((namespace, name))

    async def _read(self, namespace: str, name: str) -> Key | NoKey:
        # Shielded: the read is shared, and outlives a caller who is cancelled.
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
            # The same key stays the same object: by that a refusal knows whether another one is to be had.
            found = known.found if known.found == found else found
        if (
            known is not None
            and isinstance(known.found, Key)
            and not isinstance(reply, Done)
            and not _is_verdict(reply)
        ):
            # The API server has nothing to say just now; the key that was good stays in use.
            found = known.found
        self._known[at] = _CachedKey(found, self._clock())
        if isinstance(found, Key):
            self._last[at] = found
        return found


def _is_verdict(reply: Reply) -> bool:
    """Tell whether a refusal is about the Secret, not about the API server's own state."""
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
    """Prefer the item's own token: it is good for this item only."""
    read = {entry: _decoded(secret, entry, entries.get(entry)) for entry in (SESSIONS_TOKEN, ENVIRONMENT_KEY)}
    environment = read[ENVIRONMENT_KEY]
    for entry, value in read.items():
        match value:
            case NoKey():
                return value
            case SecretStr():
                known = environment if isinstance(environment, SecretStr) else None
                return Key(value, f"key {entry} of Secret {secret}", known)
            case None:
                pass
            case _:
                assert_never(value)
    return NoKey(f"Secret {secret} has no key {ENVIRONMENT_KEY}, or it is empty: put the environment's key there")


def _decoded(secret: str, entry: str, encoded: object) -> SecretStr | NoKey | None:
    """Read one entry; None if it is not there, or empty."""
    if not isinstance(encoded, str) or not encoded:
        return None
    try:
        # A file made by an editor ends in a newline; no key does.
        value = base64.b64decode(encoded, validate=True).decode("ascii").strip()
    except (binascii.Error, UnicodeDecodeError):
        return NoKey(f"key {entry} of Secret {secret} is no text in ASCII: put the key there as it was issued")
    if not value.isprintable():
        return NoKey(f"key {entry} of Secret {secret} is not one line of text: put the key there as it was issued")
    return SecretStr(value) if value else None
