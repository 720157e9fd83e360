"""Times on the command line and dates inside events, in microseconds since 1970 UTC."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from zstream import errors, keys, times
from zstream.cli.jsontext import BadLine, kind
from zstream.limits import MAX_INTEGER

_NUMBER: Final = re.compile(r"[+-]?\d{1,20}(?:\.\d{0,20})?", re.ASCII)
#: Seconds below this are taken for a slip: 2015 is a year, 20150131 is a day.
_EARLY: Final = 100_000_000
#: Microseconds of the units that a field's numbers may have.
_UNITS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
#: What ``--date-unit`` takes.
UNITS: Final = ("auto", *_UNITS, "iso")

_ZONELESS: Final = "or give the client tz="
_ADD_ZONE: Final = "or give --tz UTC"


def parse_zone(
    ctx: click.Context | None, param: click.Parameter | None, value: str | None
) -> tzinfo | None:
    """Find a time zone by its name: the callback of ``--tz``."""
    if value is None:
        return None
    if value.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.BadParameter(
            f"{value!r} is no time zone; write UTC or Europe/Berlin", ctx, param
        ) from None


def parse_time(text: str | None, tz: tzinfo | None, option: str) -> datetime | None:
    """Read a time as an option has it: seconds since 1970, ISO 8601, or an age such as ``1h``.

    Args:
        text: As it was written; None gives None.
        tz: The zone of a text that names none.
        option: What the error calls it, as in ``--since``.

    Raises:
        click.UsageError: It is no time.
    """
    if text is None:
        return None
    try:
        return from_micros(_option_micros(text.strip(), tz, option))
    except errors.BadTime as error:
        raise click.UsageError(str(error).replace(_ZONELESS, _ADD_ZONE)) from None


def _option_micros(text: str, tz: tzinfo | None, option: str) -> int:
    if not _NUMBER.fullmatch(text):
        return times.micros(text, tz=tz, name=option)
    seconds = Decimal(text)
    if 0 < seconds < _EARLY:
        raise errors.BadTime(
            f"{option}: {text} would be seconds since 1970; a day is written 2015-01-31"
        )
    return times.micros(seconds, name=option)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_micros(micros: int) -> datetime:
    """Turn microseconds since 1970 UTC, 0 to 2^53 - 1, into a datetime, exactly."""
    return _EPOCH + micros * datetime.resolution


# ---------------------------------------------------------------- dates inside events


def field_date(field: str, unit: str, tz: tzinfo | None) -> Callable[[Mapping[str, Any]], int]:
    """Make the function that finds an event's date in one of its fields.

    Args:
        field: A field or a dotted path to one.
        unit: Of ``UNITS``. With "auto" a text is ISO 8601 and a number is seconds; "s", "ms"
            and "us" take numbers, also as text; "iso" takes text only.
        tz: The zone of a text that names none.

    Returns:
        A function from an event to microseconds since 1970 UTC; it raises BadLine.
    """
    find = keys.getter(field)

    def date(event: Mapping[str, Any]) -> int:
        value = find(event)
        if value is None:
            raise BadLine("no date", f"{field!r} is missing or null")
        try:
            return _micros(value, unit, tz, field)
        except errors.BadTime as error:
            detail = str(error).replace(_ZONELESS, _ADD_ZONE)
            raise BadLine("a bad date", detail) from None

    return date


def _micros(value: Any, unit: str, tz: tzinfo | None, field: str) -> int:
    if unit in ("auto", "iso") and isinstance(value, str):
        try:  # no ages here: "5m" in an event is not five minutes before now
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise errors.BadTime(
                f"{field}: {value[:60]!r} is not ISO 8601 (2015-01-01T12:00:00Z)"
                + ("; numbers in text need --date-unit" if _NUMBER.fullmatch(value) else "")
            ) from None
        return times.micros(moment, tz=tz, name=field)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or unit == "iso":
        raise errors.BadTime(f"{field}: {kind(value)} is no date in {unit}")
    if unit == "auto":
        return _seconds(value, field)
    exact = Decimal(repr(value)) if isinstance(value, float) else value
    micros = round(exact * _UNITS[unit])
    if not 0 <= micros <= MAX_INTEGER:
        raise errors.BadTime(f"{field}: {str(value)[:40]} {unit} is out of range (1970 to 2255)")
    return micros


def _seconds(value: int | float | Decimal, field: str) -> int:
    try:
        return times.micros(value, name=field)
    except errors.BadTime as error:
        if "looks like" not in str(error):
            raise
        unit = "ms" if "milli" in str(error) else "us"
        raise errors.BadTime(
            f"{field}: {value} seconds is beyond the year 2255; with --date-unit {unit} it is"
            " a date"
        ) from None
