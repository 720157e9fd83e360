"""docs/vectors.json and the tables of docs/protocol.md against the code, and against themselves."""

import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zstream import errors, limits, topics, wire
from zstream.cursor import Cursor, Token, parse_cursor, parse_token
from zstream.keys import getter, index_text, index_value, normalize
from zstreamd import router
from zstreamd.producers import KEPT_REFUSALS
from zstreamd.validate import Validator

DOCS = Path(__file__).resolve().parents[2] / "docs"
VECTORS: dict[str, Any] = json.loads((DOCS / "vectors.json").read_text(encoding="utf-8"))
KEYS: list[str] = VECTORS["keys"]
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")

Case = dict[str, Any]


def cases(section: str) -> pytest.MarkDecorator:
    """One test for each vector of a section, by its name."""
    found = VECTORS[section]
    assert found
    names = [each.get("name") or each.get("type") or str(n) for n, each in enumerate(found)]
    return pytest.mark.parametrize("case", found, ids=names)


def texts(value: object) -> list[str]:
    found = index_value(value)
    return [] if found is None else [found] if isinstance(found, str) else list(found)


# ---------------------------------------------------------------- headers


@cases("batches")
def test_batches(case: Case) -> None:
    header, body = bytes.fromhex(case["header"]), bytes.fromhex(case["body"])
    fields = (bytes.fromhex(case["producer"]), *(case[n] for n in ("epoch", "n", "count", "crc32")))
    assert struct.unpack(">2sBB16sIQII", header) == (b"ZI", 1, 0, *fields)
    assert zlib.crc32(body) == case["crc32"]
    assert wire.decode_batch_header(header) == fields
    elements, broken = wire.split_array(body, case["count"])
    assert broken is None
    assert wire.encode_batch(*fields[:3], elements) == [header, body]


@cases("bad_batch_headers")
def test_bad_batch_headers(case: Case) -> None:
    expected = errors.VersionMismatch if case["name"].startswith("version") else errors.DecodeError
    with pytest.raises(expected):
        wire.decode_batch_header(bytes.fromhex(case["header"]))


@cases("publications")
def test_publications(case: Case) -> None:
    encoded, body = bytes.fromhex(case["header"]), bytes.fromhex(case["body"])
    kind = next(number for number, name in wire.TYPE_NAMES.items() if name == case["type"])
    header = wire.Header(kind, *(case[n] for n in ("node", "run", "prev", "id", "ts")))
    assert wire.decode_header(encoded) == header
    assert wire.encode_header(header) == encoded
    assert struct.unpack(">2sBBHHQQQQ", encoded) == (b"ZT", 1, kind, case["node"], 0, *header[2:])
    assert wire.unpack(body) == case["value"]
    if kind == wire.DATA:
        ids, times, events = zip(*case["value"], strict=True)
        assert wire.pack_entries(ids, times, [msgpack.packb(event) for event in events]) == body


@cases("bad_publication_headers")
def test_bad_publication_headers(case: Case) -> None:
    expected = errors.VersionMismatch if case["name"].startswith("version") else errors.DecodeError
    with pytest.raises(expected):
        wire.decode_header(bytes.fromhex(case["header"]))


# ---------------------------------------------------------------- values


@cases("index_values")
def test_index_values(case: Case) -> None:
    value = wire.unpack(bytes.fromhex(case["value"]))
    assert texts(value) == case["texts"]
    admitted = Validator(["key"]).admit([wire.pack({"key": value})], 0)
    assert texts(value) == [] or admitted.columns == [[index_value(value)]]


def documented_float_text(value: float) -> str:
    """The rule of docs/protocol.md, without Python's repr."""
    if value == math.floor(value):
        return f"{value:.0f}" if value else "0"
    for places in range(17):
        mantissa, exponent = f"{abs(value):.{places}e}".split("e")
        # The nearest number of so many digits may lie just outside a float's uneven surroundings.
        digits = int(mantissa.replace(".", ""))
        near = [f"{d}e{int(exponent) - places}" for d in (digits, digits - 1, digits + 1)]
        found = next((text for text in near if float(text) == abs(value)), None)
        if found is not None:
            break
    assert found is not None
    number, power = found.split("e")
    sign = "-" if value < 0 else ""
    if abs(value) >= 0.0001:
        whole = f"{'0' * -int(power)}{number}"
        return sign + (whole[: int(power)].lstrip("0") or "0") + "." + whole[int(power) :]
    point = f".{number[1:]}" if number[1:] else ""
    return f"{sign}{number[0]}{point}e-{-(int(power) + len(number) - 1):02}"


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(2.0**-44)
@example(9007199254740993.0)
@example(5e-324)
@example(0.0001)
@example(9.999999999999999e-05)
@example(1.5e-7)
def test_the_text_of_a_float_is_as_documented(value: float) -> None:
    text = documented_float_text(value)
    assert index_text(value) == (text if len(text) <= 255 else None)


@cases("fields")
def test_fields(case: Case) -> None:
    event = wire.unpack(bytes.fromhex(case["event"]))
    assert texts(getter(case["key"])(event)) == case["texts"]


def terms(filter: object) -> Mapping[str, list[str]]:
    return {KEYS[place]: list(values) for place, values in normalize(filter, KEYS)}


@cases("filters")
def test_filters(case: Case) -> None:
    filter = wire.unpack(bytes.fromhex(case["filter"]))
    if "code" in case:
        with pytest.raises(errors.BY_CODE[case["code"]]):
            terms(filter)
    else:
        assert terms(filter) == case["terms"]


@cases("topics")
def test_topics(case: Case) -> None:
    topic = bytes.fromhex(case["topic"])
    if "code" in case:
        with pytest.raises(errors.BY_CODE[case["code"]]):
            terms(topics.decode(topic))
    else:
        assert terms(topics.decode(topic)) == case["terms"]


@cases("producer_topics")
def test_producer_topics(case: Case) -> None:
    assert topics.of_producer(bytes.fromhex(case["producer"])).hex() == case["topic"]


@cases("registrations")
def test_registrations(case: Case) -> None:
    text = topics.canonical(normalize(wire.unpack(bytes.fromhex(case["filter"])), KEYS), KEYS)
    assert text == case["canonical"]
    topic = "#" + sha256(text.encode()).hexdigest()[:32]
    assert (case["topic"], topics.of_registered(topics.name_of(text)).decode()) == (topic, topic)
    assert topics.hash_of(topic.encode()) == topics.name_of(text)
    again = topics.canonical(normalize(topics.read(text), KEYS), KEYS)
    assert again == text, "the canonical form of the canonical form is itself"


@cases("frames")
def test_frames(case: Case) -> None:
    admitted = Validator(KEYS).admit([bytes.fromhex(case["frame"])], VECTORS["now"])
    stored = [
        [date, body.hex()] for date, body in zip(admitted.dates, admitted.bodies, strict=True)
    ]
    assert stored == case["stored"]
    refused = [[refusal.position, refusal.error.code] for refusal in admitted.refusals[0]]
    assert refused == case["refused"]
    assert admitted.accepted == [len(stored)]


# ---------------------------------------------------------------- replies


@cases("replies")
def test_replies(case: Case) -> None:
    reply = wire.decode_reply(bytes.fromhex(case["reply"]))
    error = wire.reply_error(reply)
    if "value" in case:
        assert reply == case["value"]
        assert error is None
        return
    assert isinstance(error, errors.BY_CODE[case["code"]])
    assert str(error) == case["message"]
    if case["retry_ms"] is not None:
        assert error.retry_s * 1000 == case["retry_ms"]
    if case["code"] == reply["error"]["code"]:
        assert wire.encode_error(error, reply.get("id")).hex() == case["reply"]


@cases("bad_replies")
def test_bad_replies(case: Case) -> None:
    with pytest.raises(errors.DecodeError):
        wire.decode_reply(bytes.fromhex(case["reply"]))


# ---------------------------------------------------------------- places


@cases("cursors")
def test_cursors(case: Case) -> None:
    cursor = Cursor(case["run"], {int(node): id for node, id in case["ids"].items()})
    assert parse_cursor(case["text"]) == cursor
    assert str(cursor) == case["text"]


@cases("tokens")
def test_tokens(case: Case) -> None:
    token = Token(case["run"], case["ts"], case["id"], case["head"])
    assert parse_token(case["text"]) == token
    assert str(token) == case["text"]


@pytest.mark.parametrize("text", VECTORS["bad_cursors"])
def test_bad_cursors(text: str) -> None:
    with pytest.raises(errors.BadRequest):
        parse_cursor(text)


@pytest.mark.parametrize("text", VECTORS["bad_tokens"])
def test_bad_tokens(text: str) -> None:
    with pytest.raises(errors.BadRequest):
        parse_token(text)


# ---------------------------------------------------------------- the document's tables


def table(section: str, first: str) -> list[list[str]]:
    """The rows of the table with this first heading in a section of the document."""
    _, _, text = PROTOCOL.partition(f"\n{section}\n")
    text = re.split(r"\n## ", text)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()
    ]
    return rows[2:]


def test_the_table_of_limits_is_that_of_the_code() -> None:
    documented = {row[0]: row[1] for row in table("## Limits", "what")}
    assert documented == {
        "bytes of an event": f"{limits.MAX_EVENT_BYTES:,}",
        "levels of maps and arrays in an event": str(limits.MAX_DEPTH),
        "bytes of a frame to query or insert": f"{limits.MAX_FRAME_BYTES:,}",
        "events in a frame or an `insert`": f"{limits.MAX_FRAME_EVENTS:,}",
        "events in a batch, recommended": f"{limits.BATCH_EVENTS:,}",
        "hours that a time may be ahead": str(limits.MAX_AHEAD_US // 3_600_000_000),
        "bytes of an index value": str(limits.MAX_TEXT_BYTES),
        "texts of one array that are indexed": str(limits.MAX_LIST_VALUES),
        "values of one key in a filter": f"{limits.MAX_FILTER_VALUES:,}",
        "keys of a store": str(limits.MAX_KEYS),
        "`start + limit` of `items`": f"{limits.MAX_END:,}",
        "events of a page": f"{limits.PAGE_EVENTS:,}",
        "bytes of the events of a page": f"{limits.PAGE_BYTES:,}",
        "bytes of the entries of a publication": f"{limits.PUBLICATION_BYTES:,}",
        "bytes of a topic": f"{limits.MAX_TOPIC_BYTES:,}",
        "bytes of a registered filter": f"{limits.MAX_REGISTERED_BYTES:,}",
        "bytes of a subscription": f"{limits.MAX_SUBSCRIPTION_BYTES:,}",
        "requests of one peer under way": str(router._PEER_REQUESTS),
        "refusals kept for a producer": str(KEPT_REFUSALS),
    }


def test_the_table_of_error_codes_is_that_of_the_code() -> None:
    documented = [
        row[0].strip("`") for row in table("## Queries (REQ or DEALER to ROUTER)", "code")
    ]
    assert sorted(documented) == sorted(errors.BY_CODE)


def test_the_types_of_publications_are_those_of_the_code() -> None:
    rows = table("## Publications (SUB to XPUB)", "offset")
    listed = next(row[3] for row in rows if row[2] == "type")
    assert listed == ", ".join(f"{number} {name}" for number, name in wire.TYPE_NAMES.items())


@pytest.mark.parametrize(
    ("section", "size"),
    [("## Insert (PUSH to PULL)", 40), ("## Publications (SUB to XPUB)", 40)],
)
def test_the_offsets_of_a_header_add_up(section: str, size: int) -> None:
    place = 0
    for offset, length, *_ in table(section, "offset"):
        assert int(offset) == place
        place += int(length)
    assert place == size


def test_every_section_of_the_vectors_is_described() -> None:
    named = " ".join(row[0] for row in table("## Test vectors", "name"))
    for section in VECTORS.keys() - {"about", "keys", "now"}:
        wanted = "bad_…" if section in ("bad_cursors", "bad_tokens") else section
        assert f"`{wanted}`" in named
