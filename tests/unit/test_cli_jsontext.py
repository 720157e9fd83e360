import json

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zstream.cli import jsontext

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=20)
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["$bytes", "$$bytes", "$$$bytes", "bytes", "$"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
@example({"$bytes": "aGk="})
@example({"a": {"$bytes": b"hi"}})
@example({"a": {"$bytes": {"$$bytes": [b"", {"$bytes": None}]}}})
@example({"a": -0.0, "b": 1e300, "c": 5e-324, "d": 1.0, "e": 2**64 - 1})
def test_what_is_written_reads_back_equal_and_of_the_same_types(event):
    text = jsontext.encode(event)

    back = jsontext.decode_event(text.encode())

    assert msgpack.packb(back) == msgpack.packb(event)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\x7f\x80\x9b\u2028\u2029 \x00\n\r\x1b[31m")
def test_the_text_is_one_line_without_control_characters(text):
    line = jsontext.encode({text: text})

    assert len(line.splitlines()) == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)
    assert json.loads(line) == {text: text}


def test_bytes_have_a_documented_form():
    assert jsontext.encode({"a": b"\xff\x00"}) == '{"a":{"$bytes":"/wA="}}'
    assert jsontext.encode({"a": {"$bytes": "x"}}) == '{"a":{"$$bytes":"x"}}'
    assert jsontext.encode({"a": {"$bytes": "x", "b": 1}}) == '{"a":{"$bytes":"x","b":1}}'


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"", "not JSON", "column 1"),
        (b'{"a":', "not JSON", "column 6"),
        (b'{"a":1} {"b":2}', "not JSON", "Extra data at column 9"),
        (b"{'a': 1}", "not JSON", "column 2"),
        (b'{"a":NaN}', "a number out of range", "NaN"),
        (b'{"a":-Infinity}', "a number out of range", "-Infinity"),
        (b'{"a":1e999}', "a number out of range", "1e999"),
        (b'{"a":' + b"1" * 5000 + b"}", "a number out of range", "4300"),
        (b'{"a":1,"b":2,"a":3}', "a key stands twice", "'a'"),
        (b'{"o":{"a":1,"a":1}}', "a key stands twice", "'a'"),
        (b'{"a":{"$bytes":"?"}}', "$bytes is not base64", "$$bytes"),
        (b'{"a":{"$bytes":1}}', "$bytes is not base64", "$$bytes"),
        (b'{"a":"\xff"}', "not UTF-8", "0xff at column 7"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8", "column 1"),
        (b"[" * 100_000, "not an event", "deep"),
        (b"[1]", "not an object", "a list; if the file is one JSON array"),
        (b'"a"', "not an object", "a text"),
        (b"null", "not an object", "null"),
        (b"12", "not an object", "a number"),
        (b"true", "not an object", "a boolean"),
        (b'{"$bytes":"aGk="}', "not an object", "bytes"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line, reason, detail):
    with pytest.raises(jsontext.BadLine) as caught:
        jsontext.decode_event(line)

    assert caught.value.reason == reason
    assert detail in caught.value.detail
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_event_or_a_bad_line(line):
    try:
        event = jsontext.decode_event(line)
    except jsontext.BadLine:
        return
    assert type(event) is dict


def test_what_cannot_be_in_an_event_is_not_written():
    with pytest.raises(TypeError, match="set"):
        jsontext.encode({"a": {1}})
