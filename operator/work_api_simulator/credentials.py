"""The keys, and which credentials may make which call.

This module owns the keys and the table "Who may call what". Of an item it knows the token only. No secret leaves it:
the history records the kind of credentials.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from work_api_simulator.profiles import Profile, WrongEnvironment
from work_api_simulator.refusals import RefusalKind, RequestRefusal


class Operation(StrEnum):
    """The calls of the Work API."""

    HEARTBEAT = "heartbeat"
    STOP = "stop"
    ACK = "ack"
    POLL = "poll"
    GET = "get"
    METADATA = "metadata"
    LIST = "list"
    STATS = "stats"


class CredentialsKind(StrEnum):
    """The kind of credentials that a caller sent."""

    NONE = "none"
    UNKNOWN = "unknown"
    API_KEY = "api-key"
    ENVIRONMENT_KEY = "environment-key"
    SESSIONS_TOKEN = "sessions-token"  # noqa: S105 - the name of a kind, not a token


ADMITTED: Mapping[Operation, frozenset[CredentialsKind]] = {
    Operation.HEARTBEAT: frozenset({CredentialsKind.ENVIRONMENT_KEY, CredentialsKind.SESSIONS_TOKEN}),
    Operation.STOP: frozenset(
        {CredentialsKind.API_KEY, CredentialsKind.ENVIRONMENT_KEY, CredentialsKind.SESSIONS_TOKEN}
    ),
    Operation.POLL: frozenset({CredentialsKind.ENVIRONMENT_KEY}),
    Operation.ACK: frozenset({CredentialsKind.ENVIRONMENT_KEY}),
    Operation.LIST: frozenset({CredentialsKind.ENVIRONMENT_KEY}),
    Operation.GET: frozenset({CredentialsKind.API_KEY}),
    Operation.METADATA: frozenset({CredentialsKind.API_KEY}),
    Operation.STATS: frozenset({CredentialsKind.API_KEY, CredentialsKind.ENVIRONMENT_KEY}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the kind of credentials, and what they are good for."""

    kind: CredentialsKind
    environments: frozenset[str] = frozenset()
    item_id: str | None = None


class Keyring:
    """The keys of one organization: API keys, the keys of each environment, the sessions token of each item."""

    def __init__(self) -> None:
        self._api_keys: frozenset[str] = frozenset()
        self._environment_keys: dict[str, frozenset[str]] = {}
        self._callers: dict[str, Caller] = {}
        self._tokens: dict[str, Caller] = {}
        self._expiries: dict[str, int] = {}

    @property
    def environments(self) -> tuple[str, ...]:
        """All environments, with or without a key."""
        return tuple(self._environment_keys)

    def set_api_keys(self, keys: Iterable[str]) -> None:
        """Replace the API keys. A key that is left out is revoked at once."""
        self._api_keys = frozenset(keys)

    def set_environment_keys(self, environment_id: str, keys: Iterable[str]) -> None:
        """Replace an environment's keys. A key that is left out is revoked at once."""
        self._environment_keys[environment_id] = frozenset(keys)
        environments: dict[str, set[str]] = {}
        for environment, environment_keys in self._environment_keys.items():
            for key in environment_keys:
                environments.setdefault(key, set()).add(environment)
        self._callers = {
            key: Caller(CredentialsKind.ENVIRONMENT_KEY, frozenset(names)) for key, names in environments.items()
        }

    def set_token(self, item_id: str, environment_id: str, token: str | None, *, old: str | None = None) -> None:
        """Set an item's sessions token, and revoke its old one."""
        if old is not None:
            self._tokens.pop(old, None)
        if token is not None:
            self._tokens[token] = Caller(CredentialsKind.SESSIONS_TOKEN, frozenset({environment_id}), item_id)

    def expire_token(self, token: str, at: int) -> None:
        """Let a sessions token be valid until then."""
        self._expiries[token] = at

    def identify(self, authorization: str | None, api_key: str | None, now: int) -> Caller:
        """Return the caller: `Authorization: Bearer` carries environment keys and tokens, `x-api-key` an API key.

        The public SDK also sends an API key as a bearer, so an API key is accepted there.
        """
        if authorization is not None:
            scheme, _, secret = authorization.partition(" ")
            if scheme.lower() != "bearer":
                return Caller(CredentialsKind.UNKNOWN)
            if now >= self._expiries.get(secret, now + 1):
                return Caller(CredentialsKind.UNKNOWN)
            return self._callers.get(secret) or self._tokens.get(secret) or self._owner(secret)
        return Caller(CredentialsKind.NONE) if api_key is None else self._owner(api_key)

    def _owner(self, api_key: str) -> Caller:
        """Return the caller of an API key, which is valid for every environment of the organization."""
        if api_key not in self._api_keys:
            return Caller(CredentialsKind.UNKNOWN)
        return Caller(CredentialsKind.API_KEY, frozenset(self._environment_keys))

    def admit(
        self, call: Operation, caller: Caller, environment_id: str, item_id: str | None, profile: Profile
    ) -> RequestRefusal | None:
        """Return why the caller may not make this call; None if it may.

        "401 the key is garbage or revoked (checked on every request)"; "403 `permission_error`: the key is of another
        environment, or the environment does not exist (not told apart)".
        """
        if caller.kind is CredentialsKind.NONE:
            return RequestRefusal(RefusalKind.UNAUTHENTICATED, "Authentication is required: no credentials were sent")
        if caller.kind is CredentialsKind.UNKNOWN:
            return RequestRefusal(RefusalKind.UNAUTHENTICATED, "Invalid credentials")
        if environment_id not in caller.environments:
            return _wrong_environment(environment_id, profile)
        if caller.kind not in ADMITTED[call]:
            return RequestRefusal(
                RefusalKind.FORBIDDEN, f"The call {call} does not accept credentials of kind {caller.kind}"
            )
        if caller.item_id is not None and caller.item_id != item_id:
            return RequestRefusal(RefusalKind.FORBIDDEN, f"This sessions token does not belong to work item {item_id}")
        return None


def _wrong_environment(environment_id: str, profile: Profile) -> RequestRefusal:
    message = f"These credentials have no access to environment {environment_id}"
    match profile.wrong_environment:
        case WrongEnvironment.FORBIDDEN:
            return RequestRefusal(RefusalKind.FORBIDDEN, message)
        case WrongEnvironment.UNAUTHENTICATED:
            return RequestRefusal(RefusalKind.UNAUTHENTICATED, message)
        case WrongEnvironment.NOT_FOUND:
            return RequestRefusal(RefusalKind.NOT_FOUND, f"Environment {environment_id} was not found")
        case _:
            assert_never(profile.wrong_environment)
