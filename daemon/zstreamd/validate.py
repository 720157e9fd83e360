"""Admission: which events of a frame can be stored, and what is indexed of them.

What is stored, every client must be able to read, so the whole event is validated. The fast
path decodes with msgspec against a type that allows just what the rules allow, and encodes the
result again: equal bytes prove that no key stood twice. What fails there is halved until a frame
stands alone, and that one is walked event by event in Python, so that one poison event takes no
other with it and costs the others little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from zstream import wire
from zstream.errors import Error, EventError
from zstream.keys import Value, getter, index_value
from zstream.limits import MAX_AHEAD_US, MAX_EVENT_BYTES, MAX_FRAME_EVENTS, MAX_INTEGER
from zstreamd.strict import element, is_array

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
_decode_maps = msgspec.msgpack.Decoder(list[_Map]).decode  # type: ignore[valid-type]
_encode = msgspec.msgpack.Encoder().encode
_digits = msgspec.json.Encoder().encode
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
    refusals: list[Sequence[Refusal]] = field(default_factory=list)

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
        self._readers = [_reader(key) for key in keys]

    def nothing(self) -> Admitted:
        """Nothing yet: what others can be put behind."""
        return Admitted([[] for _ in self._readers])

    def admit(self, frames: Sequence[bytes], now: int) -> Admitted:
        """Validate frames, each one event (a map) or an array of elements.

        Args:
            frames: As they came; together small enough that decoding them at once does not
                hold up the other threads (some hundred KiB).
            now: The clock, in microseconds; no date may be more than 24 h ahead of it.
        """
        admitted = self._plain(frames) or self._fast(frames, now)
        if admitted is None and len(frames) == 1:
            admitted = self._slow(frames[0], now)
        if admitted is None:
            half = len(frames) // 2
            admitted = self.admit(frames[:half], now)
            admitted.extend(self.admit(frames[half:], now))
        return admitted

    def _plain(self, frames: Sequence[bytes]) -> Admitted | None:
        """Frames of one event each, or one array of events without dates: what is usual."""
        bodies, count = list(frames), len(frames)
        is_one_array = count == 1 and elements(bodies[0]) is not None
        joined = bodies[0] if is_one_array else b"".join((wire.array_header(count), *bodies))
        if len(joined) > MAX_EVENT_BYTES and max(map(len, bodies)) > MAX_EVENT_BYTES:
            return None
        try:
            events = _decode_maps(joined)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None
        # Each frame is compared with its own event: no two halves of one in two frames pass.
        packed = list(map(_encode, events))
        if is_one_array:
            if len(packed) > MAX_FRAME_EVENTS or b"".join(packed) != _content(joined)[0]:
                return None
            counts = [len(packed)]
        elif packed != bodies:
            return None
        else:
            counts = [1] * count
        dates: list[int | None] = [None] * len(packed)
        return Admitted(self._columns(events), packed, dates, counts, [()] * count)

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
        return Admitted(columns, bodies, dates, counts, [()] * len(counts))

    def _slow(self, frame: bytes, now: int) -> Admitted:
        admitted = self.nothing()
        refusals: list[Refusal] = []
        parts, broken = [frame], None
        if not frame:
            parts, broken = [], "an empty frame"
        elif is_array(frame[0]):
            parts, broken = wire.split_array(frame, MAX_FRAME_EVENTS)
        for position, data in enumerate(parts):
            try:
                date, event, body = element(data, now, is_array(frame[0]))
            except Error as error:
                # A traceback holds this frame, which holds the refusals, which hold the error.
                error.__traceback__ = error.__cause__ = error.__context__ = None
                refusals.append(Refusal(position, error, data))
                continue
            admitted.bodies.append(body)
            admitted.dates.append(date)
            for column, values in zip(admitted.columns, self._columns([event]), strict=True):
                column += values
        if broken is not None:
            rest = _content(frame)[0][sum(map(len, parts)) :]
            refusals.append(Refusal(len(parts), EventError(broken), rest))
        admitted.accepted.append(len(admitted.bodies))
        admitted.refusals.append(refusals)
        return admitted

    def _columns(self, events: Sequence[dict[str, Any]]) -> list[list[Value]]:
        return [_texts(read(events)) for read in self._readers]


def _reader(key: str) -> Callable[[Sequence[dict[str, Any]]], list[Any]]:
    """Make the function that finds a key's field in each of some events."""
    if "." not in key:
        return lambda events: [event.get(key) for event in events]
    find = getter(key)
    return lambda events: list(map(find, events))


def _texts(values: list[Any]) -> list[Value]:
    """The index values of one key's fields; the usual ones without a call for each."""
    if set(map(type, values)) == {int}:
        return str(_digits(values)[1:-1], "ascii").split(",")  # type: ignore[return-value]
    return [
        value
        if type(value) is str and len(value) < 64 and "\0" not in value
        else repr(value)
        if type(value) is int
        else index_value(value)
        for value in values
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
    for each, raw in zip(elements, raws, strict=True):
        if type(each) is tuple:
            date, event = each
            dates.append(date)
            bodies.append(bytes(raw)[1 + len(_encode(date)) :])
        else:
            event = each
            dates.append(None)
            bodies.append(bytes(raw))
        events.append(event)
    return events, dates, bodies
