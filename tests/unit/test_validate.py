"""Admission: what is stored is what every reader can read."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream.limits import MAX_AHEAD_US, MAX_DEPTH, MAX_EVENT_BYTES, MAX_FRAME_EVENTS
from zstreamd.validate import Admitted, Validator

NOW = 1_700_000_000_000_000
GOOD = {"kind": "x", "user": 1}
pack = msgpack.packb


def validator() -> Validator:
    return Validator(["kind", "user", "a.b"])


def pairs(*parts: bytes) -> bytes:
    """A small map from packed names and values, which may break the rules."""
    return bytes((0x80 + len(parts) // 2,)) + b"".join(parts)


def nested(depth: int) -> dict[str, Any]:
    event: Any = 1
    for _ in range(depth - 1):
        event = [event]
    return {"a": event}


def codes(admitted: Admitted, frame: int = 0) -> list[tuple[int, str]]:
    return [(refusal.position, refusal.error.code) for refusal in admitted.refusals[frame]]


BAD = {
    "nan": pack({"a": math.nan}),
    "infinite": pack({"a": [math.inf]}),
    "float32 nan": pairs(pack("a"), b"\xca\x7f\xc0\x00\x00"),
    "integer key": pack({1: 2}),
    "nested integer key": pack({"a": {1: 2}}),
    "bytes key": pack({b"a": 1}),
    "nested bytes key": pack({"a": {b"b": 1}}),
    "array key": b"\x81\x90\x01",
    "extension": pack({"a": [msgpack.ExtType(5, b"x")]}),
    "timestamp": pairs(pack("x"), b"\xd6\xff\0\0\0\1"),
    "malformed timestamp": pairs(pack("x"), b"\xc7\x05\xff\0\0\0\1\1"),
    "key twice": pairs(pack("k"), pack(1), pack("k"), pack(2)),
    "nested key twice": pairs(pack("k"), pairs(pack("k"), pack(1), pack("k"), pack(1))),
    "invalid utf-8": pairs(pack("x"), b"\xa2\xff\xfe"),
    "surrogate": pairs(pack("x"), b"\xa3\xed\xa0\x80"),
    "invalid utf-8 in a name": pairs(b"\xa2\xff\xfe", pack(1)),
    "trailing byte": pack({"a": 1}) + b"\x01",
    "two maps": pack({"a": 1}) * 2,
    "truncated": pack({"a": "long enough"})[:-3],
    "reserved byte": pairs(pack("x"), b"\xc1"),
    "too deep": pack(nested(MAX_DEPTH + 1)),
    "far too deep": pairs(pack("x"), b"\x91" * 5000 + b"\x01"),
    "too large": pack({"a": "x" * MAX_EVENT_BYTES}),
    "empty": b"",
    "number": b"\x01",
    "text": pack("kind"),
    "nil": b"\xc0",
    "false length": b"\xdb\xff\xff\xff\xff",
    "false map length": b"\xdf\xff\xff\xff\xff",
}

IN_ARRAY = {
    "date too far ahead": pack([NOW + MAX_AHEAD_US + 1, GOOD]),
    "negative date": pack([-1, GOOD]),
    "date of 2^53": pack([1 << 53, GOOD]),
    "date as text": pack(["2015", GOOD]),
    "date as float": pack([1.5, GOOD]),
    "three elements": pack([NOW, GOOD, b"reserved"]),
    "one element": pack([GOOD]),
    "date without event": pack([NOW, 1]),
}


@pytest.mark.parametrize("frame", BAD.values(), ids=BAD.keys())
def test_a_bad_frame_is_refused_and_its_neighbours_are_stored(frame: bytes) -> None:
    good = pack(GOOD)
    admitted = validator().admit([good, frame, pack([GOOD, [NOW, GOOD]])], NOW)
    assert admitted.accepted == [1, 0, 2]
    assert len(admitted.refusals[1]) == 1
    assert str(admitted.refusals[1][0].error)
    assert admitted.bodies == [good] * 3
    assert admitted.dates == [None, None, NOW]


def whole(body: bytes) -> bool:
    """Whether a value's end can be found: if not, nothing behind it can be read."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    try:
        unpacker.skip()
    except (ValueError, msgpack.UnpackException):
        return False
    return unpacker.tell() == len(body)


ELEMENTS = {name: body for name, body in {**BAD, **IN_ARRAY}.items() if whole(body)}


@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_a_bad_element_takes_no_other_with_it(element: bytes) -> None:
    admitted = validator().admit([b"\x93" + pack(GOOD) + element + pack(GOOD)], NOW)
    assert admitted.accepted == [2]
    assert [position for position, _ in codes(admitted)] == [1]


def test_an_array_that_breaks_off_keeps_what_came_before() -> None:
    frame = pack([GOOD, GOOD, GOOD])
    admitted = validator().admit([frame[:-2]], NOW)
    assert admitted.accepted == [2]
    assert codes(admitted) == [(2, "bad_event")]


def test_halves_of_an_event_in_two_frames_do_not_make_one() -> None:
    body = pack({"kind": "friend", "user": 1})
    admitted = validator().admit([body[:5], body[5:] + body], NOW)
    assert admitted.accepted == [0, 0]


def test_a_frame_of_too_many_events_keeps_the_first() -> None:
    frame = b"\xdd" + struct.pack(">I", MAX_FRAME_EVENTS + 5) + b"\x80" * (MAX_FRAME_EVENTS + 5)
    admitted = validator().admit([frame], NOW)
    assert admitted.accepted == [MAX_FRAME_EVENTS]
    assert len(admitted.refusals[0]) == 1


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"a": b"\x00\xff"},
        {"a": 2**64 - 1, "b": -(2**63)},
        {"a": -0.0, "b": 1e308},
        {"a": None, "b": [[], {}, ""]},
        {"": 1, "\x00": "\x00"},
        nested(MAX_DEPTH),
    ],
)
def test_odd_but_good_events_are_stored_as_they_came(event: dict[str, Any]) -> None:
    body = pack(event)
    admitted = validator().admit([body], NOW)
    assert admitted.bodies == [body]


def test_index_values_are_extracted() -> None:
    events = [
        {"kind": "friend", "user": 291, "a": {"b": True}},
        {"kind": ["x", "y", "x", None], "user": 23.0, "a.b": None, "a": {"b": 1}},
        {"kind": "x" * 256, "user": b"23", "a": [{"b": 1}]},
        {"kind": "nul\0", "user": {"id": 1}},
    ]
    admitted = validator().admit([pack(events)], NOW)
    assert admitted.columns == [
        ["friend", ("x", "y"), None, None],
        ["291", "23", None, None],
        ["true", None, None, None],
    ]


def test_every_frame_passes_alone_as_it_passes_among_others() -> None:
    frames = [pack(GOOD), pack([GOOD] * 3), pack([[NOW, GOOD]]), b"", pack([])]
    together = validator().admit(frames, NOW)
    assert together.accepted == [1, 3, 1, 0, 0]
    for place, frame in enumerate(frames):
        assert validator().admit([frame], NOW).accepted == [together.accepted[place]]


# ---------------------------------------------------------------- differential


def rules(value: Any, depth: int = 1) -> bool:
    """The rules for an event's values, written again and without zstream."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        inside = list(value.values())
        if not all(isinstance(name, str) for name in value):
            return False
    elif isinstance(value, list):
        inside = value
    else:
        return value is None or isinstance(value, bool | int | str | bytes)
    return depth <= MAX_DEPTH and all(rules(item, depth + 1) for item in inside)


def readable(body: bytes) -> bool:
    """Whether `msgpack` reads the body as a map that keeps the rules, no key twice."""

    def once(found: list[tuple[Any, Any]]) -> dict[Any, Any]:
        if len({name for name, _ in found}) != len(found):
            raise ValueError("twice")
        return dict(found)

    try:
        value = msgpack.unpackb(body, object_pairs_hook=once)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return False
    return isinstance(value, dict) and rules(value)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**33), st.just(0)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 3), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(["kind", "user", "a", "x"]), values, max_size=4).map(pack)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                body[place] = draw(st.integers(0, 255))
            case 1 if len(body) > 1:
                del body[place]
            case _:
                body.insert(place, draw(st.sampled_from(b"\xc1\x80\x90\xff\xd6\xcb\xa1")))
    return bytes(body)


@given(st.lists(mutated(), min_size=1, max_size=6))
def test_what_passes_decodes_in_msgpack_and_what_decodes_passes(frames: list[bytes]) -> None:
    events = [frame for frame in frames if not frame or not 0x90 <= frame[0] <= 0x9F]
    events = [frame for frame in events if frame[:1] not in (b"\xdc", b"\xdd")]
    admitted = validator().admit(events, NOW)
    assert admitted.accepted == [int(readable(frame)) for frame in events]
    assert admitted.bodies == [frame for frame in events if readable(frame)]


@given(st.lists(bodies, max_size=5), st.integers(0, 40), st.binary(max_size=6))
def test_arrays_lose_nothing_readable_before_their_damage(
    events: list[bytes], place: int, noise: bytes
) -> None:
    frame = bytes((0x90 + len(events),)) + b"".join(events)
    frame = frame[:place] + noise + frame[place + len(noise) :] if place else frame
    admitted = validator().admit([frame], NOW)
    for body in admitted.bodies:
        assert readable(body)


# ---------------------------------------------------------------- published vectors


def test_the_msgpack_test_suite_round_trips_or_is_refused_by_rule(shared_data: Path) -> None:
    suite = json.loads((shared_data / "vectors" / "msgpack-test-suite.json").read_text())
    seen = 0
    for group in suite.values():
        for case in group:
            for encoding in case["msgpack"]:
                body = pairs(pack("value"), bytes.fromhex(encoding.replace("-", "")))
                admitted = validator().admit([body], NOW)
                allowed = "ext" not in case and "timestamp" not in case
                assert admitted.accepted == [int(allowed)], (case, encoding)
                seen += 1
    assert seen > 200


def test_naughty_strings_pass_as_values_and_as_names(shared_data: Path) -> None:
    strings = json.loads((shared_data / "vectors" / "blns.json").read_text())
    for text in strings:
        body = pack({"kind": text, text: text})
        admitted = validator().admit([body], NOW)
        assert admitted.bodies == [body]
        fits = len(text.encode()) <= 255 and "\0" not in text
        assert admitted.columns[0] == [text if fits else None]
