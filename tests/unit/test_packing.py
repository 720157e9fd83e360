import datetime
import decimal
import enum
import math
import uuid
from collections import OrderedDict, namedtuple
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream import wire
from zstream.errors import BadTime, EventError
from zstream.event import Event
from zstream.limits import MAX_DEPTH, MAX_EVENT_BYTES
from zstream.packing import Packer
from zstreamd.validate import Validator

pack = Packer().pack

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(st.dictionaries(st.text(), values))
def test_what_is_packed_comes_back_and_is_admitted(event):
    packed = pack(event)
    assert wire.unpack(packed) == event
    assert admitted(packed)


def admitted(packed):
    """Whether the daemon would store it."""
    found = Validator(["a"]).admit([wire.array_header(1) + packed], 0)
    return found.bodies == [packed]


class Text(str):
    pass


class Number(int):
    pass


class Colour(enum.IntEnum):
    RED = 3


class Share(float):
    pass


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, 2), [1, 2]),
        (Pair(1, (2,)), [1, [2]]),
        (Text("x"), "x"),
        (Number(7), 7),
        (Colour.RED, 3),
        (Share(0.5), 0.5),
        (bytearray(b"x"), b"x"),
        (memoryview(b"xy")[1:], b"y"),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        ({Text("k"): 1}, {"k": 1}),
        (Event({"a": 1}, 5, 6), {"a": 1}),
        ([[]] * 3, [[], [], []]),
    ],
)
def test_kin_of_plain_values_come_back_plain(value, back):
    found = wire.unpack(pack({"v": value}))["v"]
    assert found == back
    assert type(found) is type(back)


def test_an_event_may_be_any_mapping():
    assert wire.unpack(pack(MappingProxyType({"a": 1}))) == {"a": 1}
    assert wire.unpack(pack(Event({"a": 1}, 5, 6))) == {"a": 1}


@pytest.mark.parametrize(
    ("event", "place"),
    [
        ({"when": datetime.datetime(2020, 1, 1)}, "event['when'] is a datetime"),
        ({"a": [1, 2, 3, {"b": {1}}]}, "event['a'][3]['b'] is a set"),
        ({"a": {"b": object()}}, "event['a']['b'] is a object"),
        ({"x": 1, 5: 1}, "event has the key 5"),
        ({"x": {b"k": 1}}, "event['x'] has the key b'k'"),
        ({None: 1}, "event has the key None"),
        ({"x": math.nan}, "event['x'] is nan"),
        ({"x": [0.5, math.inf]}, "event['x'][1] is inf"),
        ({"x": {"y": -math.inf}}, "event['x']['y'] is -inf"),
        ({"x": 1 << 64}, "event['x'] is 18446744073709551616"),
        ({"x": [-(1 << 63) - 1]}, "event['x'][0] is -9223372036854775809"),
        ({"x": "a\ud800"}, "event['x'] has a lone surrogate at 1"),
        ({"x": {"\udfff": 1}}, "lone surrogate"),
        ({"a": {"k": 1, Text("k2"): complex(1)}}, "event['a']['k2'] is a complex"),
    ],
)
def test_what_cannot_be_stored_is_named_with_its_place(event, place):
    with pytest.raises(EventError) as caught:
        pack(event)
    assert place in str(caught.value)


@pytest.mark.parametrize("event", [None, [], "text", 5, b"\x80", [("a", 1)]])
def test_an_event_is_a_map(event):
    with pytest.raises(EventError, match="an event is a map"):
        pack(event)


def nested(levels, kind):
    event = inner = {}
    for _ in range(levels - 1):
        new = {} if kind is dict else []
        if isinstance(inner, dict):
            inner["x"] = new
        else:
            inner.append(new)
        inner = new
    return event


@pytest.mark.parametrize("kind", [dict, list])
def test_depth_is_bounded(kind):
    event = nested(MAX_DEPTH, kind)
    assert wire.unpack(pack(event)) == event
    assert admitted(pack(event))
    with pytest.raises(EventError, match="deeper than 64"):
        pack(nested(MAX_DEPTH + 1, kind))


def test_an_event_that_contains_itself_is_refused():
    event = {"a": 1}
    event["self"] = [event]
    with pytest.raises(EventError, match="deeper than 64"):
        pack(event)


def test_a_small_event_that_is_endless_when_packed_is_refused_soon():
    layer = ["x"]
    for _ in range(50):
        layer = [layer, layer]
    with pytest.raises(EventError, match="bytes packed"):
        pack({"a": layer})
    with pytest.raises(EventError, match="bytes packed"):
        pack({"a": ["y" * 1000] * 5000})


def test_size_is_bounded():
    overhead = len(pack({"x": "y" * 70_000})) - 70_000
    fits = {"x": "y" * (MAX_EVENT_BYTES - overhead)}
    assert len(pack(fits)) == MAX_EVENT_BYTES
    assert admitted(pack(fits))
    for event in ({"x": fits["x"] + "y"}, {"x": [fits["x"]]}, {"x": "é" * 600_000}):
        with pytest.raises(EventError, match="over 1048576 bytes"):
            pack(event)
    assert wire.unpack(pack({"x": 1})) == {"x": 1}


def test_a_later_change_does_not_show():
    event = {"a": [1]}
    packed = pack(event)
    event["a"].append(2)
    assert wire.unpack(packed) == {"a": [1]}


def test_default_converts_what_cannot_be_packed():
    when, key = datetime.datetime(2020, 1, 1), uuid.uuid4()
    event = {"when": when, "ids": [key], "sum": decimal.Decimal("1.5"), "plain": (1,)}
    assert wire.unpack(Packer(str).pack(event)) == {
        "when": str(when), "ids": [str(key)], "sum": "1.5", "plain": [1],
    }  # fmt: skip
    assert wire.unpack(Packer(sorted).pack({"s": {2, 1}})) == {"s": [1, 2]}


@pytest.mark.parametrize(
    ("default", "why"),
    [(lambda value: value, "default= returned a set"), (lambda value: value + 1, "could not")],
)
def test_a_default_that_does_not_convert_is_named_with_the_place(default, why):
    with pytest.raises(EventError, match=why) as caught:
        Packer(default).pack({"a": [{1}]})
    assert "event['a'][0]" in str(caught.value)


def test_default_is_not_asked_about_values_that_are_out_of_range():
    for value in (math.nan, 1 << 70, "\ud800"):
        with pytest.raises(EventError):
            Packer(str).pack({"x": value})


def test_an_error_of_default_is_the_callers_own():
    def default(value):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        Packer(default).pack({"x": {1}})


def test_a_date_stands_before_the_event():
    packer = Packer(tz=datetime.UTC)
    assert packer.element({"a": 1}) == pack({"a": 1})
    assert wire.unpack(packer.element({"a": 1}, 1.5)) == [1_500_000, {"a": 1}]
    date = datetime.datetime(1970, 1, 1, 0, 0, 2)
    assert wire.unpack(packer.element({"a": 1}, date)) == [2_000_000, {"a": 1}]
    with pytest.raises(BadTime):
        Packer().element({"a": 1}, date)


def test_many_name_the_place_of_the_bad_one():
    elements = Packer().elements([{"a": 1}, {"b": {2}}])
    assert next(elements) == pack({"a": 1})
    with pytest.raises(EventError, match=r"events\[1\]: event\['b'\]"):
        next(elements)
