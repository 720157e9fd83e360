"""What comes to the insert socket and cannot be stored is counted, and kept with its reason."""

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from zstream import Client, wire
from zstream.limits import MAX_DEPTH, MAX_EVENT_BYTES, MAX_FRAME_BYTES, MAX_FRAME_EVENTS

from .hostile import MORE, Siege, dial, frame, resident_bytes, siege

pack = msgpack.packb

NOW = 1_700_000_000_000_000
FAR = 1 << 53


@pytest.fixture(name="siege")
def _siege(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Siege]:
    store = getattr(request, "param", "memory:")
    with siege(tmp_path, store.format(tmp_path)) as running:
        yield running


ON_EVERY_STORE = pytest.mark.parametrize(
    "siege", ["memory:", "sqlite:///{}/events.db"], ids=["memory", "sqlite"], indirect=True
)


def small_map(*parts: bytes) -> bytes:
    """A map of packed names and values, which may break the rules."""
    return bytes((0x80 + len(parts) // 2,)) + b"".join(parts)


def nested(levels: int) -> dict[str, Any]:
    event: Any = 1
    for _ in range(levels - 1):
        event = [event]
    return {"deep": event}


#: Frames of which nothing can be stored, and what the reason says.
BAD_FRAMES = {
    "empty": (b"", "empty"),
    "nil": (b"\xc0", "map"),
    "number": (b"\x07", "map"),
    "text": (pack("kind"), "map"),
    "never used": (b"\xc1", "msgpack"),
    "truncated": (pack({"kind": "long enough"})[:-3], "msgpack"),
    "truncated length": (b"\xdf\x00", "msgpack"),
    "half an array header": (b"\xdc\x01", "msgpack"),
    "false length": (b"\xdb\xff\xff\xff\xff", "msgpack"),
    "two maps": (pack({"a": 1}) * 2, "msgpack"),
    "integer key": (pack({1: 2}), "msgpack"),
    "nested integer key": (pack({"a": {1: 2}}), "msgpack"),
    "bytes key": (pack({b"a": 1}), "key"),
    "nil key": (b"\x81\xc0\x01", "msgpack"),
    "extension": (pack({"a": msgpack.ExtType(5, b"x")}), "extension"),
    "timestamp": (pack({"a": msgpack.Timestamp(1)}), "timestamp"),
    "malformed timestamp": (small_map(pack("a"), b"\xc7\x05\xff\0\0\0\1\1"), "timestamp"),
    "invalid utf-8": (small_map(pack("a"), b"\xa2\xff\xfe"), "utf-8"),
    "surrogate": (small_map(pack("a"), b"\xa3\xed\xa0\x80"), "utf-8"),
    "invalid utf-8 in a name": (small_map(b"\xa2\xff\xfe", pack(1)), "utf-8"),
    "nan": (pack({"a": math.nan}), "nan"),
    "infinity": (pack({"a": [math.inf]}), "inf"),
    "minus infinity as float32": (small_map(pack("a"), b"\xca\xff\x80\0\0"), "inf"),
    "key twice": (small_map(pack("k"), pack(1), pack("k"), pack(2)), "twice"),
    "long key twice": (small_map(*[pack("k" * 300_000), pack(1)] * 2), "twice"),
    "too deep": (pack(nested(MAX_DEPTH + 1)), "deep"),
    "far too deep": (small_map(pack("a"), b"\x91" * 200_000 + b"\x01"), "msgpack"),
    "maps far too deep": (b"\x81\xa1a" * 100_000 + b"\x01", "msgpack"),
    "too large": (pack({"a": "x" * MAX_EVENT_BYTES}), "bytes"),
    "as large as a frame may be": (b"\xc6" + struct.pack(">I", MAX_FRAME_BYTES - 5)
                                   + bytes(MAX_FRAME_BYTES - 5), "bytes"),
}  # fmt: skip

#: Elements of an array that cannot be stored.
BAD_ELEMENTS = {
    "date as text": (pack(["2015-01-01", {}]), "date"),
    "date as float": (pack([1.5, {}]), "date"),
    "date as nil": (pack([None, {}]), "date"),
    "date as truth": (pack([True, {}]), "date"),
    "negative date": (pack([-1, {}]), "date"),
    "date of 2^53": (pack([FAR, {}]), "date"),
    "date of 2^64-1": (pack([2**64 - 1, {}]), "date"),
    "date far ahead": (pack([FAR - 1, {}]), "24 h"),
    "date of an extension": (b"\x92" + pack(msgpack.ExtType(5, b"x")) + b"\x80", "date"),
    "date of a malformed timestamp": (b"\x92\xc7\x05\xff\0\0\0\1\1\x80", "date"),
    "date without event": (pack([NOW, 7]), "map"),
    "three elements": (pack([NOW, {}, b"key"]), "element"),
    "no element": (pack([]), "element"),
    "array in an array": (pack([[NOW, {}]]), "element"),
    "nan": (pack({"a": math.nan}), "nan"),
    "nil": (b"\xc0", "map"),
}


def test_bad_frames_among_good_ones(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    for data, _ in BAD_FRAMES.values():
        siege.push_good(push)
        push.send(data)
    siege.push_good(push)
    lines = siege.wait_refused(len(BAD_FRAMES))
    for line, (name, (data, reason)) in zip(lines, BAD_FRAMES.items(), strict=True):
        assert reason in line["reason"].lower(), (name, line["reason"])
        assert line["size"] == len(data), name
        assert base64.b64decode(line["data"]) == data[: 64 << 10], name
        assert line["code"] in ("bad_event", "too_large"), name


@ON_EVERY_STORE
def test_bad_elements_among_good_ones(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    elements = [pack(siege.event())]
    for data, _ in BAD_ELEMENTS.values():
        elements += [data, pack(siege.event())]
    push.send(wire.array_header(len(elements)) + b"".join(elements))
    for data, _ in BAD_ELEMENTS.values():
        push.send(b"\x92" + data + pack(siege.event()))
    lines = siege.wait_refused(2 * len(BAD_ELEMENTS))
    for place, (name, (data, reason)) in enumerate(BAD_ELEMENTS.items()):
        for line in (lines[place], lines[place + len(BAD_ELEMENTS)]):
            assert reason in line["reason"], (name, line["reason"])
            assert base64.b64decode(line["data"]) == data, name


def test_an_array_that_breaks_off_keeps_what_came_before(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    for behind in (b"", b"\xc1", b"\x81", b"\xd9"):
        push.send(b"\x95" + pack(siege.event()) + pack(siege.event()) + behind)
    push.send(b"\x91" + pack(siege.event()) + b"bytes behind the end")
    push.send(b"\xdd\xff\xff\xff\xff" + pack(siege.event()))
    assert len(siege.wait_refused(6)) == 6


@ON_EVERY_STORE
def test_the_largest_that_can_be_stored(siege: Siege) -> None:
    """One byte more is refused; three events of the largest size and a small one fill a frame."""
    push = siege.socket(zmq.PUSH)
    largest = {"kind": "good", "x": ""}
    largest["x"] = "x" * (MAX_EVENT_BYTES - len(pack(largest)) - 4)
    body = pack(largest)
    assert len(body) == MAX_EVENT_BYTES
    siege.expect(largest, 4)
    push.send(body)
    rest = {"x": "y" * (MAX_FRAME_BYTES - 3 * MAX_EVENT_BYTES - 1 - 8)}
    assert len(pack([largest] * 3 + [rest])) == MAX_FRAME_BYTES
    siege.expect(rest)
    push.send(pack([largest] * 3 + [rest]))
    push.send(pack(largest | {"x": largest["x"] + "x"}))
    [line] = siege.wait_refused(1)
    assert line["code"] == "too_large"


def test_a_frame_of_too_many_events_keeps_the_first(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    siege.expect({}, 2 * MAX_FRAME_EVENTS)
    push.send(wire.array_header(MAX_FRAME_EVENTS) + b"\x80" * MAX_FRAME_EVENTS)
    push.send(wire.array_header(MAX_FRAME_EVENTS + 9) + b"\x80" * (MAX_FRAME_EVENTS + 9))
    [line] = siege.wait_refused(1)
    assert line["size"] == 9
    assert str(MAX_FRAME_EVENTS) in line["reason"]


def test_frames_over_the_limit_reset_the_connection_and_take_no_other_with_them(
    siege: Siege,
) -> None:
    """What came before is stored in any case.

    What came behind is stored where the sender's kernel did not hold it already, together with
    all of the large one; of 4 MiB it does not.
    """
    push = siege.socket(zmq.PUSH)
    for size in (MAX_FRAME_BYTES + 1, 64 << 20):
        for _ in range(50):
            siege.push_good(push)
        push.send(bytes(size), copy=False)
        for _ in range(50):
            siege.push_good(push)
    siege.wait_stored()
    assert siege.info("refused") == 0, "the daemon never sees it"
    assert resident_bytes(siege.server, "VmHWM") < 200 << 20


def test_messages_of_too_many_frames(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    for count in (3, 4, 1_000):
        siege.push_good(push)
        push.send_multipart([pack({"kind": "bad"})] * count)
    siege.push_good(push)
    lines = siege.wait_refused(3)
    assert all("one frame" in line["reason"] for line in lines)
    assert [line["size"] for line in lines] == [3 * len(pack({"kind": "bad"}))] * 3


@pytest.mark.parametrize(
    ("body", "total"),
    [(b"", 600_000), (bytes(50_000), 50 << 20)],
    ids=["of empty frames", "of large frames"],
)
def test_an_endless_message_delays_nobody(siege: Siege, body: bytes, total: int) -> None:
    push = siege.socket(zmq.PUSH)
    siege.push_good(push)
    raw = dial(siege.server.endpoints.insert, b"PUSH")
    raw.sendall(frame(pack(siege.event())))
    piece = frame(body, MORE) * (60_000 // (len(body) + 9))
    for _ in range(total // len(piece)):
        raw.sendall(piece)
    siege.push_good(push)
    siege.wait_stored()  # while that message is still coming
    raw.sendall(frame(body) + frame(pack(siege.event())))
    siege.push_good(push)
    [line] = siege.wait_refused(1)
    assert line["size"] == 3 * len(body)
    siege.wait_stored()
    raw.close()


def test_half_a_message_is_none(siege: Siege) -> None:
    raw = dial(siege.server.endpoints.insert, b"PUSH")
    raw.sendall(frame(pack(siege.event())) + frame(pack({"kind": "bad"}))[:-1])
    siege.wait_stored()
    raw.close()
    raw = dial(siege.server.endpoints.insert, b"PUSH")
    raw.sendall(frame(b"header", MORE) + frame(pack({"kind": "bad"}), MORE))
    raw.close()
    siege.push_good(siege.socket(zmq.PUSH))
    siege.wait_stored()
    assert siege.info("refused") == 0


def test_a_hundred_thousand_tiny_messages(siege: Siege) -> None:
    """Half of them good, half of them garbage of one byte."""
    push = siege.socket(zmq.PUSH, sndhwm=0)
    good = pack({"a": 1})
    siege.expect({"a": 1}, 50_000)
    for _ in range(50_000):
        push.send(good)
        push.send(b"\xc1")
    assert len(siege.wait_refused(50_000)) == 50_000
    assert resident_bytes(siege.server, "VmHWM") < 300 << 20


# ---------------------------------------------------------------- numbered batches

PRODUCER = bytes(range(16))


def batch(n: int, *events: dict[str, Any], **changed: Any) -> list[bytes]:
    """The frames of a batch, with other values in its header where they are given."""
    body = changed.get("body", pack(list(events)))
    fields = {
        "magic": b"ZI", "version": 1, "flags": 0, "producer": PRODUCER, "epoch": 1, "n": n,
        "count": len(events), "crc": zlib.crc32(body), **changed,
    }  # fmt: skip
    fields.pop("body", None)
    return [struct.pack(">2sBB16sIQII", *fields.values()), body]


def test_numbered_batches_that_are_none(siege: Siege) -> None:
    """Nothing of them is stored, who can be told is told, and the good ones count on."""
    listener = siege.socket(zmq.SUB)
    listener.subscribe(b"@" + PRODUCER.hex().encode())
    assert wire.decode_header(listener.recv_multipart()[1]).type == wire.ACK
    push = siege.socket(zmq.PUSH)
    bad = {"kind": "bad"}
    told = [
        batch(2, bad, crc=1), batch(2, bad, count=2), batch(2, bad, count=2**32 - 1),
        batch(2, body=pack(bad), count=1), batch(2, body=b""), batch(2, body=b"\xc1"),
        batch(2, body=b"\x95" + pack(bad), count=5),
        batch(2, body=b"\x91" + pack(bad) * 2, count=1),
    ]  # fmt: skip
    untold = [
        batch(2, bad, magic=b"ZZ"), batch(2, bad, version=2), batch(2, bad, flags=128),
        batch(0, bad), batch(2**64 - 1, bad), [b"", b""], [b"ZI", pack([bad])],
        [b"x" * 41, pack([bad])], [pack(bad), pack(bad)],
    ]  # fmt: skip
    push.send_multipart(batch(1, siege.event(), siege.event()))
    for broken in told + untold:
        push.send_multipart(broken)
    push.send_multipart(batch(2, siege.event()))
    assert len(siege.wait_refused(len(told + untold))) == len(told + untold)
    nacks = 0
    while nacks < len(told):
        _, header, body = listener.recv_multipart()
        if wire.decode_header(header).type == wire.NACK:
            assert wire.unpack(body)["code"] == "bad_batch"
            nacks += 1
    siege.wait_stored()
    mark = siege.ask("watermark", producer=PRODUCER)
    assert (mark["last"], mark["refused"], mark["epoch"]) == (2, 0, 1)


@ON_EVERY_STORE
def test_gaps_repeats_and_lower_epochs(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    bad = {"kind": "bad"}
    first = batch(1, siege.event(), siege.event())
    push.send_multipart(first)
    push.send_multipart(first)  # again
    push.send_multipart(batch(3, bad))  # a gap
    push.send_multipart(batch(2, siege.event(), epoch=7))
    push.send_multipart(batch(3, bad, epoch=6))  # fenced
    push.send_multipart(batch(9, bad, epoch=8))  # a gap, but it fences
    push.send_multipart(batch(3, bad, epoch=7))  # fenced
    push.send_multipart(batch(3, siege.event(), epoch=8))
    siege.wait_stored()
    assert (siege.info("duplicates"), siege.info("nacked")) == (2, 4)
    mark = siege.ask("watermark", producer=PRODUCER)
    assert (mark["epoch"], mark["last"]) == (8, 3)


def test_what_is_refused_of_a_batch_is_told_by_the_watermark(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    push.send_multipart(
        batch(1, siege.event(), {"a": math.nan}, siege.event(), {"a": {1: 2}}, siege.event())
    )
    siege.wait_stored()
    mark = siege.ask("watermark", producer=PRODUCER)
    assert (mark["last"], mark["refused"]) == (1, 2)
    assert [refusal[:3] for refusal in mark["refusals"]] == [
        [1, 1, "bad_event"], [1, 3, "bad_event"],
    ]  # fmt: skip


# ---------------------------------------------------------------- readers


@ON_EVERY_STORE
def test_odd_but_good_events_come_back_equal_everywhere(siege: Siege) -> None:
    """By `items`, by `replay`, to a subscriber, and through the client."""
    odd: list[dict[str, Any]] = [
        {},
        {"": "", "\0": "\0", "kind": "nul\0"},
        {"kind": 2**64 - 1, "user": -(2**63), "repo": 2**63},
        {"kind": 1e308, "user": -0.0, "repo": 5e-324},
        {"kind": b"\xff\xfe", "user": [b"\x00", None, [], {}], "x": b""},
        {"kind": True, "user": False, "repo": None},
        {"kind": "é" * 200, "user": "x" * 256, "repo": "\U0010ffff\ufeff\u202e"},
        {"kind": ["a"] * 1_000, "user": list(range(100)), "repo": [["nested"]]},
        nested(MAX_DEPTH),
        {"kind": {"$ne": 1}, "user": "'; DROP TABLE events; --", "repo": "%_\\"},
        {"kind.with.dots": 1, "user": {"user": 1}, "__proto__": 1},
    ]
    follower = siege.socket(zmq.SUB)
    follower.subscribe(b"{}")
    assert wire.decode_header(follower.recv_multipart()[1]).type == wire.HELLO
    push = siege.socket(zmq.PUSH)
    for event in odd:
        siege.expect(event)
        push.send(pack(event))
    siege.wait_stored()
    live: list[Any] = []
    while len(live) < len(odd):
        _, header, body = follower.recv_multipart()
        if wire.decode_header(header).type == wire.DATA:
            live += [event for _, _, event in wire.unpack(body)]
    newest_first = [event for _, _, event in siege.ask("items", limit=1_000)["events"]]
    with Client(siege.server.url) as client:
        by_client = [dict(event) for event in client.items(end=1_000)]
    for found in (live, newest_first[::-1], by_client[::-1], list(siege.stored())):
        assert [json.dumps(event, default=repr) for event in found] == [
            json.dumps(event, default=repr) for event in odd
        ]


@ON_EVERY_STORE
def test_dates_at_the_edges_can_be_read(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    for date in (0, 1, NOW):
        push.send(pack([[date, siege.event(date=date)]]))
    siege.wait_stored()
    found = siege.ask("items", until=NOW + 1)["events"]
    assert [ts for _, ts, _ in found] == [NOW, 1, 0]
    assert siege.ask("count", since=0, until=1)["count"] == 1
