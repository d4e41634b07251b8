"""The Secret with an item's own token: whether it is there, and when the poll was sent that brought it.

Owns this reading. Must not keep or show the token: only pods get it, by reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from worklease.api.names import POLLED_ANNOTATION
from worklease.cluster.client import Done, KubernetesApi, NoAnswer, Refused
from worklease.cluster.credentials import SESSIONS_TOKEN


@dataclass(frozen=True, slots=True)
class TokenFound:
    """The token is there; ``polled``: when the poll was sent that brought it, None if nobody wrote that."""

    polled: datetime | None


@dataclass(frozen=True, slots=True)
class NoToken:
    """It is not there, or could not be read, and why."""

    message: str
    is_sure: bool = True
    """Whether the API server said so; else it may be there."""


async def look_for_token(api: KubernetesApi, namespace: str, name: str) -> TokenFound | NoToken:
    """Look for the token in a Secret."""
    match await api.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}"):
        case Done(body):
            return _found(body, f"{namespace}/{name}")
        case Refused() as refused if refused.is_absence:
            return NoToken(f"Secret {namespace}/{name} does not exist: create it with the key {SESSIONS_TOKEN}")
        case Refused(_, message) | NoAnswer(message):
            return NoToken(f"Secret {namespace}/{name} could not be read: {message}", is_sure=False)
        case reply:
            assert_never(reply)


def _found(body: Mapping[str, Any], secret: str) -> TokenFound | NoToken:
    if not (body.get("data") or {}).get(SESSIONS_TOKEN):
        return NoToken(f"Secret {secret} has no key {SESSIONS_TOKEN}, or it is empty: put the item's token there")
    written = ((body.get("metadata") or {}).get("annotations") or {}).get(POLLED_ANNOTATION)
    try:
        polled = None if written is None else datetime.fromisoformat(written)
    except ValueError:
        return TokenFound(None)
    return TokenFound(polled if polled is None or polled.tzinfo is not None else None)
