import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstream.cli import dates, loading
from zstream.cli.jsontext import BadLine
from zstream.cli.reading import ReadError
from zstream.errors import EventError
from zstream.packing import Packer

HEADER = b'{"zstream":1,"keys":["kind","user"],"run":5,"head":9,"filter":{}}'
ENVELOPE = b'{"id":7,"ts":1420070400000001,"event":{"kind":"friend"}}'
AT = dates.from_micros(1_420_070_400_000_001)


def parse(*lines, **options):
    parser = loading.Parser(**options)
    return [parser.parse(line) for line in lines]


def test_bare_events_have_no_date():
    assert parse(b'{"a":1}', b"", b" \r", b'{"b":2}\r') == [
        ({"a": 1}, None), None, None, ({"b": 2}, None),
    ]  # fmt: skip


def test_an_export_is_restored_with_its_times():
    parser = loading.Parser()

    assert parser.parse(HEADER) is None
    assert parser.parse(ENVELOPE) == ({"kind": "friend"}, AT)
    assert parser.keys == ("kind", "user")


def test_a_header_may_follow_blank_lines_and_another_export():
    assert parse(b"", HEADER, ENVELOPE, HEADER, ENVELOPE) == [
        None, None, ({"kind": "friend"}, AT), None, ({"kind": "friend"}, AT),
    ]  # fmt: skip


def test_what_looks_like_an_envelope_is_one_only_when_said_so():
    assert parse(ENVELOPE) == [(json.loads(ENVELOPE), None)]
    assert parse(ENVELOPE, meta=True) == [({"kind": "friend"}, AT)]


def test_what_looks_like_a_header_behind_bare_events_is_an_event():
    assert parse(b'{"a":1}', HEADER)[1] == (json.loads(HEADER), None)
    assert parse(b'{"zstream":1}') == [({"zstream": 1}, None)]


def test_an_exported_event_may_look_like_a_header():
    envelope = {"id": 1, "ts": 5, "event": json.loads(HEADER)}

    found = parse(HEADER, json.dumps(envelope).encode())

    assert found[1] == (json.loads(HEADER), dates.from_micros(5))


def test_an_export_of_another_form_is_not_misread():
    with pytest.raises(ReadError, match="form 2; this reads form 1"):
        parse(HEADER.replace(b'"zstream":1', b'"zstream":2'))


def test_the_date_field_goes_before_the_envelope():
    date = dates.field_date("at", "s", None)
    line = b'{"id":7,"ts":5,"event":{"at":2}}'

    assert parse(b'{"at":1}', date=date) == [({"at": 1}, dates.from_micros(1_000_000))]
    assert parse(HEADER, line, date=date)[1] == ({"at": 2}, dates.from_micros(2_000_000))
    with pytest.raises(BadLine, match="no date"):
        parse(b'{"a":1}', date=date)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (None, "too large"),
        (b"[1]", "not an object"),
        (b'{"a":1}', "not an envelope"),
        (b'{"id":7,"ts":"now","event":{}}', "not an envelope"),
        (b'{"id":7,"ts":true,"event":{}}', "not an envelope"),
        (b'{"id":7,"ts":5,"event":[]}', "not an envelope"),
        (b'{"id":7,"ts":-1,"event":{}}', "a bad date"),
        (b'{"id":7,"ts":9007199254740992,"event":{}}', "a bad date"),
    ],
)
def test_a_bad_line_of_an_export_says_what_is_wrong(line, reason):
    with pytest.raises(BadLine) as caught:
        parse(HEADER, line)

    assert caught.value.reason == reason


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([HEADER, ENVELOPE, b"", b"{", b"[]", b'{"a":1}', None])
        | st.binary(max_size=30),
        max_size=8,
    )
)
def test_any_lines_give_events_blanks_or_bad_lines(lines):
    parser = loading.Parser()
    for line in lines:
        try:
            found = parser.parse(line)
        except BadLine:
            continue
        assert found is None or type(found[0]) is dict


def test_refusals_are_told_by_reason():
    refusals = loading.Refusals()
    assert list(refusals.report()) == []

    refusals.add("not UTF-8", "3", "byte 0xff at column 1")
    for number in range(10, 1210):
        refusals.add("not JSON", str(number), f"column {number}")

    assert refusals.count == 1201
    assert list(refusals.report()) == [
        "refused 1,201:",
        "  1,200  not JSON: line 10, 11, 12, 13, 14, ... (column 10)",
        "      1  not UTF-8: line 3 (byte 0xff at column 1)",
    ]


def test_refusals_of_unknown_place():
    refusals = loading.Refusals()
    refusals.add("by the daemon", "", "too old", count=3)

    assert list(refusals.report()) == ["refused 3:", "  3  by the daemon (too old)"]


@pytest.mark.parametrize(
    ("event", "reason", "place"),
    [
        ({"a": 2**64}, "integers are from -2^63 to 2^64 - 1", "event['a'] is 18446744073709551616"),
        ({"a: b": "\ud800"}, "text must be valid Unicode",
         "event['a: b'] has a lone surrogate at 0"),
        ({"a": "x" * (1 << 20)}, "the event is over 1048576 bytes packed", ""),
        ({"\udfff": 1}, "text must be valid Unicode",
         "the key '\\udfff' of event has a lone surrogate at 0"),
    ],
)  # fmt: skip
def test_errors_are_grouped_whatever_their_place(event, reason, place):
    with pytest.raises(EventError) as caught:
        Packer().pack(event)

    assert loading.split_reason(str(caught.value)) == (reason, place)


def test_depth_is_a_reason_of_its_own():
    event = {}
    for _ in range(70):
        event = {"a": event}
    with pytest.raises(EventError) as caught:
        Packer().pack(event)

    reason, place = loading.split_reason(str(caught.value))

    assert reason == "is nested deeper than 64 levels"
    assert place.startswith("event['a']['a']")
