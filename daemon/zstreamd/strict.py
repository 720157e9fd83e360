"""One element of a frame read strictly, in Python: slow, and it can say what is wrong."""

import math
from typing import Any, Final

from zstream import wire
from zstream.errors import BadTime, DecodeError, EventError, TooLarge
from zstream.limits import MAX_AHEAD_US, MAX_DEPTH, MAX_EVENT_BYTES, MAX_INTEGER


def is_array(first: int) -> bool:
    """Tell by its first byte whether a msgpack value is an array."""
    return 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)


def element(data: bytes, now: int, in_array: bool) -> tuple[int | None, dict[str, Any], bytes]:
    """Read an element.

    Args:
        data: Its bytes.
        now: The clock, in microseconds; no date may be more than 24 h ahead of it.
        in_array: Whether it stood in an array, where it may have a date.

    Returns:
        The date or None, the event, and the event's bytes.

    Raises:
        EventError, BadTime, TooLarge: What is wrong with it.
    """
    date, body = None, data
    if in_array and data and is_array(data[0]):
        parts, broken = wire.split_array(data, 2)
        if broken is not None or len(parts) != 2:
            raise EventError("an element is an event or [ts, event]")
        date, body = _date(parts[0], now), parts[1]
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(f"the event has {len(body)} bytes; at most {MAX_EVENT_BYTES} are taken")
    try:
        event = wire.unpack(body, wire.unique)
    except DecodeError as error:
        raise EventError(str(error)) from error
    if not isinstance(event, dict):
        raise EventError(f"an event is a map, not {_kind(event)}")
    _check(event, "event", 1)
    return date, event, body


def _date(data: bytes, now: int) -> int:
    try:
        date = wire.unpack(data)
    except DecodeError as error:
        raise BadTime(f"a date is an integer of microseconds: {error}") from error
    if type(date) is not int or not 0 <= date <= MAX_INTEGER:
        raise BadTime("a date is an integer of microseconds from 0 to 2^53 - 1")
    if date > now + MAX_AHEAD_US:
        raise BadTime("the date is more than 24 h ahead of the daemon's clock")
    return date


_PLAIN: Final = frozenset((str, int, bool, bytes, type(None)))


def _check(value: Any, path: str, depth: int) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EventError(f"{path} is {value}, which JSON and comparisons cannot hold")
        return
    if depth > MAX_DEPTH:
        raise EventError(f"the event is over {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise EventError(f"{path}: the key {name!r} is not text"[:300])
        inner: Any = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    else:
        raise EventError(f"{path} is a msgpack timestamp; pass text or a number")
    for name, item in inner:
        if type(item) not in _PLAIN:
            _check(item, f"{path}[{name!r}]"[:200], depth + 1)


def _kind(value: object) -> str:
    names = {type(None): "nil", bool: "a boolean", str: "text", bytes: "bytes", list: "an array"}
    return names.get(type(value), "a number")
