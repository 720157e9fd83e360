"""Packing events: everything that cannot be stored is told to the caller, with its place.

Most events are small maps of plain values. They are recognised by their types alone, a whole map
at a time, and packed at once; whatever else comes is rebuilt from plain values on a walk that
knows where it is.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import tzinfo
from typing import Any, Final

from zstream import wire
from zstream.errors import EventError
from zstream.limits import MAX_DEPTH, MAX_EVENT_BYTES
from zstream.times import Time, micros

#: Turns a value that cannot be packed into one that can, as in ``json.dumps``.
Default = Callable[[Any], Any]
#: An event as callers give it.
Fields = Mapping[str, Any]

_TEXT: Final = frozenset((str,))
_SIMPLE: Final = frozenset((str, int, bool, type(None), bytes))
_PLAIN: Final = _SIMPLE | {float}
_NESTED: Final = _PLAIN | {dict, list}
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
#: Values of an event that is recognised at once. The bound keeps an event that shares parts of
#: itself, which is small in memory and endless when packed, away from there.
_MOST_VALUES: Final = 4096


class Packer:
    """Packs events. Threads may share it.

    Args:
        default: Called with each value that cannot be packed (a datetime, a UUID, a Decimal, a
            set); what it returns is packed instead. A TypeError from it becomes an EventError.
        tz: The zone of dates that name none.
    """

    def __init__(self, default: Default | None = None, tz: tzinfo | None = None) -> None:
        self._default = default
        self._tz = tz

    def element(self, event: Fields, date: Time | None = None) -> bytes:
        """Pack one element of a batch: the event, with its date if it has one.

        Raises:
            EventError: The event cannot be stored; the message names the place in it.
            BadTime: The date cannot be used.
        """
        body = self.pack(event)
        return body if date is None else wire.element(body, micros(date, tz=self._tz))

    def elements(self, events: Iterable[Fields]) -> Iterator[bytes]:
        """Pack elements one by one; an EventError names the event's place, from 0."""
        for place, event in enumerate(events):
            yield self.nth(place, event)

    def nth(self, place: int, event: Fields) -> bytes:
        """Pack one element of many; an EventError names its place."""
        try:
            return self.element(event)
        except EventError as error:
            raise EventError(f"events[{place}]: {error}") from None

    def pack(self, event: Fields) -> bytes:
        """Pack one event.

        Raises:
            EventError: It cannot be stored; the message names the place in it.
        """
        # The first conditions are those of nearly all events, and cost no call.
        if type(event) is dict and (
            (
                len(event) <= _MOST_VALUES
                and _TEXT.issuperset(map(type, event))
                and _SIMPLE.issuperset(map(type, event.values()))
            )
            or _count_plain(event, _MOST_VALUES, 1) >= 0
        ):
            try:
                body = wire.pack(event)
            except (ValueError, OverflowError):
                return self._walk(event)
            if len(body) > MAX_EVENT_BYTES:
                raise _too_large()
            return body
        return self._walk(event)

    def _walk(self, event: object) -> bytes:
        if not isinstance(event, Mapping):
            raise EventError(f"an event is a map, not {_type(event)}")
        body = wire.pack(_Walk(self._default).map(event, "event", 1))
        if len(body) > MAX_EVENT_BYTES:
            raise _too_large()
        return body


class _Walk:
    """One walk through one event."""

    def __init__(self, default: Default | None) -> None:
        self._default = default
        self._left = MAX_EVENT_BYTES

    def map(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        self._enter(len(value), path, depth)
        result: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise EventError(f"{path} has the key {_show(key)}: keys are text")
            place = f"{path}[{_show(key)}]"
            key = self._text(key, f"the key {_show(key)} of {path}")
            if key in result:
                raise EventError(f"{place} stands twice")
            result[key] = self._value(item, place, depth)
        return result

    def _list(self, value: list[Any] | tuple[Any, ...], path: str, depth: int) -> list[Any]:
        self._enter(len(value), path, depth)
        return [self._value(item, f"{path}[{at}]", depth) for at, item in enumerate(value)]

    def _value(self, value: Any, path: str, depth: int, converted: bool = False) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, int):
            if not _LEAST <= value <= _MOST:
                raise EventError(f"{path} is {_show(value)}: integers are from -2^63 to 2^64 - 1")
            return int(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise EventError(f"{path} is {float(value)!r}: floats must be finite")
            return float(value)
        if isinstance(value, Mapping):
            return self.map(value, path, depth + 1)
        if isinstance(value, list | tuple):
            return self._list(value, path, depth + 1)
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value)
            self._spend(len(data))
            return data
        return self._convert(value, path, depth, converted)

    def _convert(self, value: Any, path: str, depth: int, converted: bool) -> Any:
        if self._default is None:
            raise EventError(
                f"{path} is {_type(value)}, which cannot be packed; convert it, or give the"
                " client default="
            )
        if converted:
            raise EventError(f"{path}: default= returned {_type(value)}, which cannot be packed")
        try:
            value = self._default(value)
        except TypeError as error:
            raise EventError(f"{path}: default= could not convert it: {error}") from error
        return self._value(value, path, depth, converted=True)

    def _text(self, value: str, path: str) -> str:
        text = str.__str__(value)
        self._spend(len(text))
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EventError(
                f"{path} has a lone surrogate at {error.start}: text must be valid Unicode"
            ) from None
        return text

    def _enter(self, size: int, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            # A map or list that contains itself ends here, too.
            place = path if len(path) <= 60 else path[:57] + "..."
            raise EventError(f"{place} is nested deeper than {MAX_DEPTH} levels")
        self._spend(size)

    def _spend(self, size: int) -> None:
        # Packed, it is at least as large; a small event that shares parts of itself may be huge.
        self._left -= size
        if self._left < 0:
            raise _too_large()


def _count_plain(map_: dict[Any, Any], left: int, depth: int) -> int:
    """How many of ``left`` values remain after this map, or below 0 if it is not plain."""
    left -= len(map_)
    if left < 0 or not set(map(type, map_)) <= _TEXT:
        return -1
    return _count_values(map_.values(), left, depth)


def _count_values(values: Collection[Any], left: int, depth: int) -> int:
    types = set(map(type, values))
    if float in types and not all(math.isfinite(each) for each in values if type(each) is float):
        return -1
    if types <= _PLAIN:
        return left
    if not types <= _NESTED or depth >= MAX_DEPTH:
        return -1
    for value in values:
        if type(value) is dict:
            left = _count_plain(value, left, depth + 1)
        elif type(value) is list:
            left = _count_values(value, left - len(value), depth + 1)
        if left < 0:
            return -1
    return left


def _too_large() -> EventError:
    return EventError(f"the event is over {MAX_EVENT_BYTES} bytes packed")


def _type(value: object) -> str:
    return f"a {type(value).__name__}"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
