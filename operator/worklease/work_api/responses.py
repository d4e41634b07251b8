"""What the Work API's responses say: from a response that was read to its end to an outcome.

Owns the shapes of the responses and the words for them. Must not send anything, nor decide anything about a lease.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import from_json

from worklease.api.models import LONGEST_HEARTBEAT
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    Current,
    Exchange,
    ListedItem,
    Missing,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
)
from worklease.rules.words import one_line

LONGEST_TTL: Final = 1e9
"""Seconds, thirty years: more is a mistake, and would end after the last year that a date can have."""

LONGEST_RETRY_AFTER: Final = 86_400.0
"""Seconds for which a server can ask to wait, a day: more is a mistake, or is asked for again by then."""

NOT_FOUND: Final = "not_found_error"
"""The ``error.type`` of the API's own 404: every gateway answers 404 as well, for a path that it does not serve."""

LONGEST_QUOTE: Final = 300
"""Characters of the server's own words in a message."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    """By their names, in upper or lower case."""
    content: bytes


_State = Annotated[str, AfterValidator(one_line)]
"""The server's word for an item's state: it is shown as it is, also one that we do not know."""


class _Heartbeat(BaseModel):
    """What a 200 must have to be an answer (Record Heartbeat reference); unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    last_heartbeat: Annotated[str, Field(max_length=LONGEST_HEARTBEAT)]
    lease_extended: bool
    state: _State
    ttl_seconds: Annotated[float, Field(ge=0, le=LONGEST_TTL)]


class _Current(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    last_heartbeat: Annotated[str, Field(max_length=LONGEST_HEARTBEAT)] | None
    state: _State
    ttl_seconds: Annotated[float, Field(ge=0, le=LONGEST_TTL)] | None = None


class _Listed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    id: str
    state: _State
    started_at: str | None = None
    acknowledged_at: str | None = None
    latest_heartbeat_at: str | None = None


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    data: list[_Listed]
    next_page: str | None = None


# --- A heartbeat's response ------------------------------------------------------------------------------------------


def outcome(exchange: Exchange, response: Response, key: SecretStr) -> Outcome:
    """Return what a heartbeat's response means.

    Only the API's own answers tell its time: a gateway in front of it has another clock, which may be wrong.
    """
    match response.status:
        case HTTPStatus.OK:
            return _answer(exchange, response)
        case HTTPStatus.PRECONDITION_FAILED:
            current = _current(response)
            is_own = current is not None or _error_type(response) is not None
            return Conflicted(_dated(exchange, response) if is_own else exchange, current)
        case _:
            is_own = _error_type(response) is not None
            said = quote(response, key)
            return _refusal(_dated(exchange, response) if is_own else exchange, response, said)


def _dated(exchange: Exchange, response: Response) -> Exchange:
    """Return the exchange with the time of the server, as one of the API's own answers tells it."""
    header = response.headers.get("date")
    if header is None or (told := date(header)) is None:
        return exchange
    return Exchange(sent=exchange.sent, done=exchange.done, date=told, asked=exchange.asked, key=exchange.key)


def _error_type(response: Response) -> str | None:
    """Return ``error.type``, which every refusal of the API's own has; None: something else answered."""
    error = _json(response).get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else None


def _answer(exchange: Exchange, response: Response) -> Outcome:
    try:
        read = _Heartbeat.model_validate_json(response.content)
    except ValidationError as error:
        fields = ", ".join(sorted({str(part["loc"][0]) for part in error.errors() if part["loc"]})) or "the body"
        return Unanswered(exchange, f"the answer to a heartbeat could not be read: {fields}")
    return Answered(_dated(exchange, response), read.last_heartbeat, read.state, read.lease_extended, read.ttl_seconds)


def _current(response: Response) -> Current | None:
    """Read ``error.details.current_state``; None where a part of it is missing: then it decides nothing."""
    error = _json(response).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    try:
        read = _Current.model_validate(details.get("current_state") if isinstance(details, dict) else None)
    except ValidationError:
        return None
    return Current(read.last_heartbeat, read.state, read.ttl_seconds)


def _refusal(exchange: Exchange, response: Response, said: str) -> Outcome:
    match response.status:
        case HTTPStatus.CONFLICT:
            return NotReady(exchange, said)
        case HTTPStatus.NOT_FOUND if _error_type(response) == NOT_FOUND:
            return Missing(exchange, said)
        case HTTPStatus.NOT_FOUND:
            message = f"{said}, but not in the API's own words: something between answered; check WORKLEASE_API_URL"
            return Unanswered(exchange, message)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return Unauthorized(exchange, said)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Throttled(exchange, said, retry_after(response))
        case HTTPStatus.REQUEST_TIMEOUT:
            return Unanswered(exchange, said, retry_after(response))
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unanswered(exchange, said, retry_after(response))
        case status if HTTPStatus.OK < status < HTTPStatus.MULTIPLE_CHOICES:
            return Unanswered(exchange, f"{said}, which is no answer to a heartbeat")
        case _:
            return Rejected(exchange, said)


# --- The other responses ---------------------------------------------------------------------------------------------


def item_state(response: Response) -> str | None:
    """Return the item's state, where the response says it."""
    state = _json(response).get("state")
    return one_line(state) if isinstance(state, str) else None


def listed_items(response: Response) -> tuple[dict[str, ListedItem], str | None]:
    """Return the items of one page of a list, by id, and the token of the next page.

    Raises:
        ValidationError: The response is not such a page.
    """
    page = _Page.model_validate_json(response.content)
    found = {
        each.id: ListedItem(each.state, each.started_at, each.latest_heartbeat_at, each.acknowledged_at)
        for each in page.data
    }
    return found, page.next_page


def is_refusal_of_the_key(response: Response) -> bool:
    """Whether a list is refused to the key, in the API's own words: a gateway's 404 or login page is none.

    Some servers answer 404 to a key of another environment.
    """
    refusals = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
    return response.status in refusals and _error_type(response) is not None


def is_not_found(response: Response) -> bool:
    """Whether what a call named does not exist, in the API's own words."""
    return response.status == HTTPStatus.NOT_FOUND and _error_type(response) == NOT_FOUND


# --- The parts of any response ---------------------------------------------------------------------------------------


def quote(response: Response, key: SecretStr) -> str:
    """Quote the server: its status, its message, and the id under which its owners find the request."""
    error = _json(response).get("error")
    words = error.get("message") if isinstance(error, dict) else None
    request = response.headers.get("request-id")
    return "".join(
        (
            f"the Work API answered {response.status}",
            f" ({plain(str(words), key)[:LONGEST_QUOTE]})" if words else "",
            f", request-id {plain(request, key)[:LONGEST_QUOTE]}" if request else "",
        )
    )


def plain(words: str, key: SecretStr) -> str:
    """Write others' words in one line, without the key: some servers repeat what they were sent."""
    secret = key.get_secret_value()
    without = words.replace(secret, str(key)) if secret else words
    return " ".join(one_line(without).split())


@lru_cache(maxsize=16)  # a busy server says the same second many times
def date(header: str | None) -> float | None:
    """Read a date of HTTP's as seconds since the epoch; None if it is none."""
    if header is None:
        return None
    try:
        read = parsedate_to_datetime(header)
        # HTTP's dates are in UTC, even where their form does not say so.
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, ArithmeticError, TypeError, LookupError):
        return None  # the parser fails in all these ways, on numbers that are too large or parts that are missing


def retry_after(response: Response) -> float | None:
    """Read ``Retry-After`` in seconds: a number, or a date, which counts from the response's own ``Date``.

    What no server can mean is none, and nobody waits for longer than ``LONGEST_RETRY_AFTER``.
    """
    header = response.headers.get("retry-after")
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        until, now = date(header), date(response.headers.get("date"))
        if until is None or now is None:
            return None
        seconds = until - now
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None


def _json(response: Response) -> Mapping[str, Any]:
    try:
        body = from_json(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
