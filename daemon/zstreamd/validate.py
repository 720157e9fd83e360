"""Admission: which events of a frame can be stored, and what is indexed of them.

What is stored, every client must be able to read, so the whole event is validated. The fast
path decodes with msgspec against a type that allows just what the rules allow, and encodes the
result again: equal bytes prove that no key stood twice. Whatever fails there is walked event by
event in Python, so that one poison event takes no other with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from zstream import wire
from zstream.errors import BadTime, DecodeError, Error, EventError, TooLarge
from zstream.keys import Value, getter, index_value
from zstream.limits import (
    MAX_AHEAD_US,
    MAX_DEPTH,
    MAX_EVENT_BYTES,
    MAX_FRAME_EVENTS,
    MAX_INTEGER,
)

#: Levels that the typed decoder knows; deeper events are rare and take the slow path.
_TYPED_LEVELS: Final = 8

_Finite = Annotated[float, msgspec.Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)]
_Scalar = None | bool | int | _Finite | str
_Date = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]


def _map_type() -> Any:
    inner: Any = _Scalar
    for _ in range(_TYPED_LEVELS - 1):
        inner = _Scalar | list[inner] | dict[str, inner]
    return dict[str, inner]


_Map = _map_type()
_decode = msgspec.msgpack.Decoder(list[_Map | tuple[_Date, _Map]]).decode  # type: ignore[valid-type]
_encode = msgspec.msgpack.Encoder().encode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Refusal(NamedTuple):
    """An event, or what was meant as one, that cannot be stored.

    Attributes:
        position: Its place in the frame, from 0.
        error: Why.
        data: Its bytes.
    """

    position: int
    error: Error
    data: bytes


@dataclass(slots=True)
class Admitted:
    """The events of one or more frames that can be stored, as columns.

    Attributes:
        bodies: The events, packed, as they came.
        dates: The date that came with each, in microseconds, or None.
        columns: For each key each event's index value.
        accepted: How many events of each frame.
        refusals: What was refused of each frame.
    """

    columns: list[list[Value]]
    bodies: list[bytes] = field(default_factory=list)
    dates: list[int | None] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    refusals: list[list[Refusal]] = field(default_factory=list)

    def extend(self, other: "Admitted") -> None:
        """Put another's events and frames behind one's own."""
        self.bodies += other.bodies
        self.dates += other.dates
        self.accepted += other.accepted
        self.refusals += other.refusals
        for column, more in zip(self.columns, other.columns, strict=True):
            column += more


class Validator:
    """Admits events and extracts their index values, for one declaration of keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._getters = [getter(key) for key in keys]

    def nothing(self) -> Admitted:
        """Nothing yet: what others can be put behind."""
        return Admitted([[] for _ in self._getters])

    def admit(self, frames: Sequence[bytes], now: int) -> Admitted:
        """Validate frames, each one event (a map) or an array of elements.

        Args:
            frames: As they came; together small enough that decoding them at once does not
                hold up the other threads (some hundred KiB).
            now: The clock, in microseconds; no date may be more than 24 h ahead of it.
        """
        admitted = self._fast(frames, now)
        if admitted is None:
            admitted = self.nothing()
            for frame in frames:
                admitted.extend(self._fast([frame], now) or self._slow(frame, now))
        return admitted

    def _fast(self, frames: Sequence[bytes], now: int) -> Admitted | None:
        contents, counts = [], []
        for frame in frames:
            content, count = _content(frame)
            contents.append(content)
            counts.append(count)
        if max(counts, default=0) > MAX_FRAME_EVENTS:
            return None
        joined = b"".join((wire.array_header(sum(counts)), *contents))
        try:
            raws = _split(joined)
            if not _aligned(raws, contents, counts):
                return None
            if max(map(len, raws), default=0) > MAX_EVENT_BYTES:
                return None
            elements = _decode(joined)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None
        if _encode(elements) != joined:
            return None
        events, dates, bodies = _undate(elements, raws)
        if any(date is not None and date > now + MAX_AHEAD_US for date in set(dates)):
            return None
        columns = self._columns(events)
        return Admitted(columns, bodies, dates, counts, [[] for _ in counts])

    def _slow(self, frame: bytes, now: int) -> Admitted:
        admitted = Admitted([[] for _ in self._getters], accepted=[0], refusals=[[]])
        parts, broken = [frame], None
        if not frame:
            parts, broken = [], "an empty frame"
        elif _is_array(frame[0]):
            parts, broken = wire.split_array(frame, MAX_FRAME_EVENTS)
        for position, data in enumerate(parts):
            try:
                date, event, body = _element(data, now, _is_array(frame[0]))
            except Error as error:
                # A traceback holds this frame, which holds the refusals, which hold the error.
                error.__traceback__ = error.__cause__ = error.__context__ = None
                admitted.refusals[0].append(Refusal(position, error, data))
                continue
            admitted.bodies.append(body)
            admitted.dates.append(date)
            for column, values in zip(admitted.columns, self._columns([event]), strict=True):
                column += values
        if broken is not None:
            rest = _content(frame)[0][sum(map(len, parts)) :]
            admitted.refusals[0].append(Refusal(len(parts), EventError(broken), rest))
        admitted.accepted[0] = len(admitted.bodies)
        return admitted

    def _columns(self, events: Sequence[dict[str, Any]]) -> list[list[Value]]:
        # The two common cases stand here, spelled out: a call for each value costs too much.
        return [
            [
                value
                if type(value) is str and len(value) < 64 and "\0" not in value
                else repr(value)
                if type(value) is int
                else index_value(value)
                for value in map(find, events)
            ]
            for find in self._getters
        ]


def elements(frame: bytes) -> int | None:
    """How many elements a frame says that it has; None if it does not begin as an array."""
    first = frame[0] if frame else 0
    if 0x90 <= first <= 0x9F:
        return first & 15
    if first == 0xDC and len(frame) >= 3:
        return int.from_bytes(frame[1:3], "big")
    if first == 0xDD and len(frame) >= 5:
        # A count beyond the bytes cannot be true; the slow path finds out what is there.
        return min(int.from_bytes(frame[1:5], "big"), len(frame))
    return None


def _is_array(first: int) -> bool:
    return 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)


def _content(frame: bytes) -> tuple[bytes, int]:
    """A frame without its array header, and the elements that it claims to have."""
    count = elements(frame)
    if count is None:
        return frame, 1
    return frame[{0xDC: 3, 0xDD: 5}.get(frame[0], 1) :], count


def _aligned(raws: list[msgspec.Raw], contents: list[bytes], counts: list[int]) -> bool:
    """Tell whether each frame ends where one of its elements does.

    Without this, the first half of an event in one frame and the second in the next would pass.
    """
    lengths = list(map(len, raws))
    if len(counts) == len(lengths):
        return lengths == list(map(len, contents))
    place = 0
    for content, count in zip(contents, counts, strict=True):
        if sum(lengths[place : place + count]) != len(content):
            return False
        place += count
    return True


def _undate(
    elements: list[Any], raws: list[msgspec.Raw]
) -> tuple[list[dict[str, Any]], list[int | None], list[bytes]]:
    if tuple not in set(map(type, elements)):
        return elements, [None] * len(elements), list(map(bytes, raws))
    events, dates, bodies = [], [], []
    for element, raw in zip(elements, raws, strict=True):
        if type(element) is tuple:
            date, event = element
            dates.append(date)
            bodies.append(bytes(raw)[1 + len(_encode(date)) :])
        else:
            event = element
            dates.append(None)
            bodies.append(bytes(raw))
        events.append(event)
    return events, dates, bodies


def _element(data: bytes, now: int, in_array: bool) -> tuple[int | None, dict[str, Any], bytes]:
    """Read one element strictly; an Error says what is wrong with it."""
    date, body = None, data
    if in_array and data and _is_array(data[0]):
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
