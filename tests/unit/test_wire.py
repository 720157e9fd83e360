"""The wire as properties: what is encoded comes back, and no bytes do worse than an own error.

The vectors that bind other languages too are in test_protocol_vectors.py.
"""

import zlib

import msgpack
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from zstream import errors, topics, wire
from zstream.errors import BadFilter, DecodeError, Error, TooLarge, VersionMismatch

numbers = st.integers(0, (1 << 53) - 1)
scalars = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text()
values = st.recursive(
    scalars | st.floats(allow_nan=False) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
maps = st.dictionaries(st.text(), values, max_size=5)
small_maps = st.dictionaries(st.text(max_size=5), scalars, max_size=3)
hostile = st.binary(max_size=200) | values.map(wire.pack).flatmap(
    lambda data: st.integers(0, len(data)).map(lambda end: data[:end] + b"\xc1" * (end % 2))
)


@given(values)
def test_values_come_back(value):
    assert wire.unpack(wire.pack(value)) == value


@given(hostile)
def test_unpack_gives_one_value_or_a_decode_error(data):
    try:
        value = wire.unpack(data)
    except DecodeError:
        return
    assert wire.unpack(wire.pack(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x81\x01\x02", b"\x81\xc0\x02", b"\x81\x90\x02", b"\x01\x01",
        b"\xd4\x05\x00", b"\xc7\x05\xff\x00\x00\x00\x01\x01", b"\xa2\xff\xfe",
        b"\xa3\xed\xa0\x80", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ],
)  # fmt: skip
def test_unpack_is_strict(data):
    with pytest.raises(DecodeError):
        wire.unpack(data)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536, (1 << 32) - 1])
def test_array_headers_are_msgpacks(count):
    assert wire.array_header(count) == msgpack.Packer().pack_array_header(count)


@given(st.lists(st.tuples(numbers, numbers, small_maps), max_size=20))
def test_entries_are_arrays_of_id_ts_and_event(entries):
    packed = wire.pack_entries(
        [id for id, _, _ in entries],
        [ts for _, ts, _ in entries],
        [wire.pack(event) for _, _, event in entries],
    )
    assert wire.unpack(packed) == [list(entry) for entry in entries]


@given(st.lists(values, max_size=20), st.binary(max_size=3))
def test_arrays_are_cut_into_their_elements(elements, behind):
    packed = [wire.pack(each) for each in elements]
    frame = wire.array_header(len(packed)) + b"".join(packed)
    assert wire.split_array(frame, 100) == (packed, None)
    found, why = wire.split_array(frame + behind, 100)
    assert found == packed
    assert (why is None) == (behind == b"")
    if packed:
        assert wire.split_array(frame, len(packed) - 1)[0] == packed[:-1]


@given(hostile)
def test_cutting_any_bytes_gives_elements_or_a_reason(data):
    elements, why = wire.split_array(data, 10)
    assert isinstance(why, str | None)
    for each in elements:
        assert each in data


@pytest.mark.parametrize("extra", [0, 9, 10, 11, 20])
def test_requests_are_maps_of_any_size(extra):
    fields = {f"f{n}": n for n in range(extra)}
    request = wire.unpack(wire.encode_request("op", 7, fields, {"events": wire.pack([1])}))
    assert request == {"op": "op", "id": 7, "v": wire.VERSION, **fields, "events": [1]}


@given(maps)
def test_good_replies_come_back(fields):
    assume("ok" not in fields)
    reply = wire.decode_reply(wire.encode_reply(fields, {"\0packed": wire.pack([1])}))
    assert reply == {"ok": True, **fields, "\0packed": [1]}
    assert wire.reply_error(reply) is None


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_errors_come_back_as_their_class(code):
    error = errors.from_wire(code, "why", 250)
    found = wire.reply_error(wire.decode_reply(wire.encode_error(error, 7)))
    assert type(found) is errors.BY_CODE[code]
    assert (str(found), getattr(found, "retry_s", None)) == (
        "why", getattr(error, "retry_s", None),
    )  # fmt: skip


@given(hostile | maps.map(wire.pack) | maps.map(lambda fields: wire.pack({**fields, "ok": False})))
@example(wire.pack({"ok": False}))
@example(wire.pack({"ok": False, "error": {"code": None, "retry_ms": "soon"}}))
@example(wire.pack({"ok": 1}))
def test_any_bytes_are_a_reply_or_a_decode_error(data):
    try:
        reply = wire.decode_reply(data)
    except DecodeError:
        return
    assert isinstance(wire.reply_error(reply), Error | None)


producers = st.binary(min_size=16, max_size=16)


@given(
    producers, st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 53) - 1), st.lists(small_maps)
)
def test_batches_come_back(producer, epoch, n, events):
    header, body = wire.encode_batch(producer, epoch, n, [wire.pack(each) for each in events])
    assert wire.unpack(body) == events
    assert wire.decode_batch_header(header) == (
        producer, epoch, n, len(events), zlib.crc32(body),
    )  # fmt: skip


@given(st.binary(max_size=60) | st.binary(min_size=38, max_size=38).map(lambda data: b"ZI" + data))
def test_any_bytes_are_a_batch_header_or_an_own_error(data):
    try:
        header = wire.decode_batch_header(data)
    except (DecodeError, VersionMismatch):
        return
    assert 1 <= header.n < 1 << 53


def test_a_date_stands_before_the_event():
    assert wire.unpack(wire.element(wire.pack({"a": 1}), None)) == {"a": 1}
    assert wire.unpack(wire.element(wire.pack({"a": 1}), 0)) == [0, {"a": 1}]


headers = st.builds(
    wire.Header, st.integers(1, 8), st.integers(0, 127), numbers, numbers, numbers, numbers
)


@given(headers)
def test_headers_come_back(header):
    assert wire.decode_header(wire.encode_header(header)) == header


@given(st.binary(max_size=60) | st.binary(min_size=38, max_size=38).map(lambda data: b"ZT" + data))
def test_any_bytes_are_a_header_or_an_own_error(data):
    try:
        header = wire.decode_header(data)
    except (DecodeError, VersionMismatch):
        return
    assert len(wire.encode_header(header)) == len(data)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
filters = st.dictionaries(texts, scalars | st.lists(texts, max_size=3), max_size=4)


@given(filters)
def test_topics_come_back(filter):
    assume("\ud800" not in str(filter))
    try:
        topic = topics.encode(filter)
    except BadFilter:
        assume(False)
    assert topics.decode(topic) == filter
    assert topics.encode(dict(reversed(filter.items()))) == topic, "the order does not matter"


@given(hostile | texts.map(str.encode) | texts.map(lambda text: f'{{"a": {text}}}'.encode()))
@example(b"{" * 4_000)
@example(b"")
@example(b'{"a": NaN}')
@example(b'{"a": 1, "a": 2}')
@example(b" {}")
@example(b"{} ")
@example(b"{}" * 3_000)
def test_any_bytes_are_a_topic_or_an_own_error(data):
    try:
        filter = topics.decode(data)
    except (BadFilter, TooLarge):
        return
    assert isinstance(filter, dict)


@given(producers)
def test_a_producers_topic_is_no_prefix_of_another(producer):
    topic = topics.of_producer(producer)
    assert (len(topic), topic[:1]) == (33, b"@")
    assert bytes.fromhex(topic[1:].decode()) == producer
