"""Requests off the wire: what an operation may want, and not an object more."""

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream.errors import BadFilter, BadRequest, DecodeError
from zstream.limits import MAX_FILTER_VALUES, MAX_KEYS
from zstreamd import request

pack = msgpack.packb
#: Four million empty maps: 4 MB, and 280 MB as Python objects.
MAPS = b"\xdd" + (4_000_000).to_bytes(4, "big") + b"\x80" * 4_000_000


def with_maps(fields: dict[str, Any], name: str) -> bytes:
    """A request with another field, which holds four million maps."""
    packed = pack(fields)
    return bytes((packed[0] + 1,)) + packed[1:] + pack(name) + MAPS


def fields(**given: object) -> dict[str, Any]:
    return request.fields(request.decode(pack({"op": "items", **given})))


def test_what_is_known_is_read_and_the_rest_left_alone() -> None:
    known = {
        "filter": {"kind": ["a", 1, None, True, 1.5]}, "after": "c1.1.0-1", "before": "p1.1.1.1.1",
        "limit": 1, "producer": b"p" * 16, "run": 5, "since": 2**64 - 1, "start": -1, "until": None,
    }  # fmt: skip
    assert fields(**known, id=7, v=1, events=[{}], more={"a": [1]}) == known


def test_the_head_of_a_request() -> None:
    frame = request.decode(pack({"op": "insert", "v": 3, "events": [{"a": 1}]}))
    assert (frame.op, frame.v, bytes(frame.events)) == ("insert", 3, pack([{"a": 1}]))
    assert request.decode(pack({"op": "ping"})).v == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xc1", b"\x90", b"\xc0", pack("ping"), pack({}), pack({"op": 1}), pack({"op": None}),
        pack({"op": "ping", "v": "1"}), pack({"op": "ping"}) + b"\x00", pack({"op": "ping"})[:-1],
        pack({"op": "ping", 1: 2}), b"\x81\xa2op\xa2\xff\xfe", b"\x81" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_told_so(payload: bytes) -> None:
    with pytest.raises(BadRequest, match="a request is a msgpack map with an 'op' in it"):
        request.decode(payload)


@pytest.mark.parametrize("id", [0, -5, 2**64 - 1, "", "é", b"", b"\xff", True])
def test_an_id_is_an_integer_text_or_bytes(id: object) -> None:
    assert request.identity(pack({"op": "ping", "id": id})) == id
    request.decode(pack({"op": "ping", "id": id}))


@pytest.mark.parametrize("id", [1.5, [1], {"a": 1}, msgpack.Timestamp(1)])
def test_other_ids_are_refused_and_not_echoed(id: object) -> None:
    payload = pack({"op": "ping", "id": id})
    assert request.identity(payload) is None
    with pytest.raises(BadRequest, match="id"):
        request.decode(payload)


def test_a_request_without_an_id_has_none() -> None:
    assert request.identity(pack({"op": "ping"})) is None
    assert request.identity(pack({"op": "ping", "id": None})) is None
    assert request.decode(pack({"op": "ping", "id": None})).op == "ping"


def test_the_id_of_a_broken_request_is_echoed() -> None:
    assert request.identity(pack({"id": 7})) == 7
    assert request.identity(pack({"id": "x", "op": [1], "v": None})) == "x"


def test_a_field_is_no_container() -> None:
    for name in ("after", "before", "limit", "producer", "run", "since", "start", "until"):
        for value in ([], {}, [1] * 20, {"a": 1}):
            with pytest.raises(BadRequest, match=name):
                fields(**{name: value})
    with pytest.raises(DecodeError):
        fields(limit=msgpack.ExtType(1, b"x"))


def test_a_long_filter_is_read_as_a_short_one_is() -> None:
    values = ["x" * 50 + str(number) for number in range(MAX_FILTER_VALUES)]
    assert fields(filter={"kind": values, "user": [1, 2.5, None, True], "repo": 3}) == {
        "filter": {"kind": values, "user": [1, 2.5, None, True], "repo": 3}
    }


LONG = ["x" * 50] * MAX_FILTER_VALUES


@pytest.mark.parametrize(
    "filter",
    [
        [LONG],
        {"kind": [*LONG, "one more"]},
        {"kind": [LONG]},
        {"kind": LONG[1:], "user": {"a": 1}},
        {"kind": [*LONG[1:], b"bytes"]},
        {1: LONG},
        {f"{number}" + "x" * 2_000: 1 for number in range(MAX_KEYS + 1)},
    ],
)
def test_a_long_filter_that_is_none_is_told_so(filter: object) -> None:
    with pytest.raises(BadFilter):
        fields(filter=filter)


def test_a_short_filter_is_left_to_who_can_say_more() -> None:
    for filter in ([], 5, None, {"kind": {"a": 1}}, {"kind": [[1]]}):
        assert fields(filter=filter) == {"filter": filter}


@pytest.mark.parametrize("name", ["more", "filter", "id", "events", "since"])
def test_a_request_costs_little_whatever_is_in_it(name: str) -> None:
    payload = with_maps({"op": "items"}, name)
    tracemalloc.start()
    try:
        request.identity(payload)
        try:
            request.fields(request.decode(payload))
        except (BadRequest, BadFilter):
            assert name not in ("more", "events")
        assert tracemalloc.get_traced_memory()[1] < 3 * len(payload)
    finally:
        tracemalloc.stop()


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary() | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
names = st.sampled_from(["op", "id", "v", "filter", "events", "limit", "since", "after", "x"])
requests = st.dictionaries(names, values | st.just("items"), max_size=5).map(pack)
cut = st.tuples(requests, st.integers(0, 40), st.binary(max_size=3)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
)


@given(st.binary(max_size=30) | requests | cut)
def test_any_bytes_are_a_request_or_an_own_error(payload: bytes) -> None:
    assert isinstance(request.identity(payload), int | str | bytes | None)
    try:
        found = request.fields(request.decode(payload))
    except (BadRequest, BadFilter, DecodeError):
        return
    # What is passed over is not looked at: it may well be no UTF-8.
    whole = msgpack.unpackb(payload, strict_map_key=False, unicode_errors="replace")
    assert isinstance(whole["op"], str)
    for name, value in found.items():
        assert value == whole[name] or value != value or isinstance(value, dict | list)
