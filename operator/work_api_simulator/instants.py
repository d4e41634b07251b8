"""Server time as whole microseconds since the epoch, and its text formats.

This module owns the formats. It must not read a clock.
"""

from datetime import UTC, datetime, timedelta
from typing import assert_never

from work_api_simulator.profiles import ValueFormat

SECOND = 1_000_000
MILLISECOND = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write(instant: int, form: ValueFormat = ValueFormat.MICROSECONDS) -> str:
    """Return an instant as RFC 3339."""
    moment = _EPOCH + timedelta(microseconds=instant)
    seconds = moment.strftime("%Y-%m-%dT%H:%M:%S")
    match form:
        case ValueFormat.MICROSECONDS:
            return f"{seconds}.{moment.microsecond:06d}Z"
        case ValueFormat.TRIMMED:
            return f"{seconds}.{moment.microsecond:06d}".rstrip("0").rstrip(".") + "Z"
        case ValueFormat.MILLISECONDS:
            return f"{seconds}.{moment.microsecond // MILLISECOND:03d}Z"
        case ValueFormat.OFFSET:
            return f"{seconds}.{moment.microsecond:06d}+00:00"
        case _:
            assert_never(form)


def read(text: str) -> int | None:
    """Return the instant of an RFC 3339 text; None if the text is something else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def unit(form: ValueFormat) -> int:
    """Return the smallest difference that the format can show, in microseconds."""
    return MILLISECOND if form is ValueFormat.MILLISECONDS else 1
