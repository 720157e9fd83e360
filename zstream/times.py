"""Times as callers give them, turned into microseconds since 1970 UTC."""

import re
import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation

from zstream.errors import BadTime
from zstream.limits import MAX_INTEGER

#: What a caller may pass for a time.
Time = int | float | Decimal | str | datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_AGE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(us|ms|s|m|h|d|w)\s*", re.ASCII)
_UNITS = {
    "us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000,
    "d": 86_400_000_000, "w": 604_800_000_000,
}  # fmt: skip


def now() -> int:
    """The wall clock, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def micros(value: Time, *, tz: tzinfo | None = None, name: str = "date") -> int:
    """Turn a time into microseconds since 1970 UTC.

    Args:
        value: A number of seconds since 1970; ISO 8601 text; an age such as ``"90s"``, ``"1h"``
            or ``"2d"`` (units us, ms, s, m, h, d, w), which is that long before now; or a
            datetime.
        tz: The zone of a datetime or text that names none.
        name: What the error calls the value.

    Returns:
        An integer from 0 to 2^53 - 1.

    Raises:
        BadTime: It is none of these, has no zone, or is out of range. A number so large that
            it can only be milli- or microseconds is told what to pass instead.
    """
    if isinstance(value, datetime):
        result = _aware(value, tz, name, repr(value.isoformat()))
    elif isinstance(value, str):
        result = _from_text(value, tz, name)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        result = _from_number(value, name)
    else:
        kind = "a date without a time" if isinstance(value, date) else type(value).__name__
        raise BadTime(f"{name}: {kind} is no time; pass seconds, ISO 8601 text or a datetime")
    if not 0 <= result <= MAX_INTEGER:
        shown = str(value) if isinstance(value, datetime | Decimal) else repr(value)
        raise BadTime(f"{name}: {shown} is out of range (1970 to 2255)")
    return result


def _aware(value: datetime, tz: tzinfo | None, name: str, shown: str) -> int:
    if value.utcoffset() is None:
        if tz is None:
            raise BadTime(
                f"{name}: {shown} has no time zone; write one, as in"
                f" {value.isoformat()}Z for UTC, or give the client tz="
            )
        value = value.replace(tzinfo=tz)
    return (value - _EPOCH) // _MICROSECOND


def age(text: str) -> int | None:
    """The microseconds of an age such as ``"90s"``, ``"1h"`` or ``"2d"``; None if it is none."""
    match = _AGE.fullmatch(text)
    return int(Decimal(match[1]) * _UNITS[match[2]]) if match else None


def _from_text(value: str, tz: tzinfo | None, name: str) -> int:
    old = age(value)
    if old is not None:
        return now() - old
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise BadTime(
            f"{name}: {value[:60]!r} is neither ISO 8601 (2015-01-01T12:00:00Z) nor an age"
            f" (1h; units {', '.join(_UNITS)})"
        ) from None
    return _aware(moment, tz, name, repr(value))


def _from_number(value: int | float | Decimal, name: str) -> int:
    try:
        exact = Decimal(float.__repr__(value)) if isinstance(value, float) else Decimal(value)
        result = round(exact * 1_000_000)
    except (InvalidOperation, ValueError, OverflowError):
        raise BadTime(f"{name}: {value} is no time") from None
    if result > MAX_INTEGER:
        unit, factor = (
            ("milliseconds", "1e3") if exact < Decimal("1e14") else ("microseconds", "1e6")
        )
        raise BadTime(
            f"{name}: {value} seconds is beyond the year 2255; it looks like {unit}:"
            f" divide by {factor}"
        )
    return result
