"""What comes to the query socket and cannot be answered well is answered with a clear error."""

import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from zstream.cursor import Cursor, Token
from zstream.limits import MAX_FILTER_VALUES, MAX_FRAME_BYTES
from zstream.testing import server

from .hostile import MORE, Siege, dial, frame, resident_bytes, siege
from .support import ask, ask_well

pack = msgpack.packb


@pytest.fixture(name="siege")
def _siege(tmp_path: Path) -> Iterator[Siege]:
    with siege(tmp_path) as running:
        yield running


def answer(socket: "zmq.Socket[bytes]", payload: bytes) -> dict[str, Any]:
    socket.send(payload)
    reply = msgpack.unpackb(socket.recv(), strict_map_key=False)
    assert isinstance(reply, dict)
    return reply


def error(socket: "zmq.Socket[bytes]", payload: bytes) -> tuple[str, str]:
    reply = answer(socket, payload)
    assert reply["ok"] is False, reply
    assert reply["error"]["message"]
    return reply["error"]["code"], reply["error"]["message"]


#: Four million empty maps: 4 MB, and 280 MB as Python objects.
MAPS = b"\xdd" + (4_000_000).to_bytes(4, "big") + b"\x80" * 4_000_000


def with_maps(name: str, **fields: object) -> bytes:
    packed = pack({"op": "items", **fields})
    return bytes((packed[0] + 1,)) + packed[1:] + pack(name) + MAPS


BAD_REQUESTS: dict[str, bytes] = {
    "empty": b"",
    "never used": b"\xc1",
    "nil": b"\xc0",
    "array": pack(["op", "ping"]),
    "no op": pack({}),
    "op is no text": pack({"op": 1}),
    "unknown op": pack({"op": "drop"}),
    "op in upper case": pack({"op": "PING"}),
    "op of 1 MB": pack({"op": "x" * 1_000_000}),
    "op is no utf-8": b"\x81\xa2op\xa2\xff\xfe",
    "truncated": pack({"op": "ping", "more": "x" * 20})[:-5],
    "bytes behind": pack({"op": "ping"}) + b"\x00",
    "two requests": pack({"op": "ping"}) * 2,
    "integer key": pack({"op": "ping", 1: 2}),
    "nil key": b"\x82\xa2op\xa4ping\xc0\x01",
    "far too deep": b"\x81\xa2op" + b"\x91" * 200_000,
    "maps far too deep": b"\x81\xa2op" * 100_000,
    "id is a float": pack({"op": "ping", "id": 1.5}),
    "id is a list": pack({"op": "ping", "id": [1]}),
    "id is a map": pack({"op": "ping", "id": {}}),
    "id is an extension": pack({"op": "ping", "id": msgpack.ExtType(1, b"x")}),
    "version is text": pack({"op": "ping", "v": "1"}),
    "limit is none": pack({"op": "items", "limit": None}),
    "limit of 0": pack({"op": "items", "limit": 0}),
    "limit is too high": pack({"op": "items", "limit": 1_001}),
    "limit is text": pack({"op": "items", "limit": "20"}),
    "limit is a truth": pack({"op": "items", "limit": True}),
    "limit is a float": pack({"op": "items", "limit": 20.0}),
    "limit of 2^64-1": pack({"op": "items", "limit": 2**64 - 1}),
    "limit is a list": pack({"op": "items", "limit": [20]}),
    "negative start": pack({"op": "items", "start": -1}),
    "since in the negative": pack({"op": "items", "since": -1}),
    "since of 2^53": pack({"op": "items", "since": 1 << 53}),
    "since is text": pack({"op": "items", "since": "2015-01-01"}),
    "since is nan": pack({"op": "items", "since": math.nan}),
    "until is infinite": pack({"op": "count", "until": math.inf}),
    "until is a timestamp": pack({"op": "count", "until": msgpack.Timestamp(5)}),
    "malformed timestamp": b"\x82\xa2op\xa5count\xa5until\xc7\x05\xff\0\0\0\1\1",
    "after is a map": pack({"op": "replay", "after": {}}),
    "after is a float": pack({"op": "replay", "after": 1.0}),
    "after is below 0": pack({"op": "replay", "after": -1}),
    "after and since": pack({"op": "replay", "after": 0, "since": 0}),
    "run is text": pack({"op": "replay", "after": 0, "run": "x"}),
    "producer is text": pack({"op": "watermark", "producer": "x" * 16}),
    "producer is too short": pack({"op": "watermark", "producer": b"x" * 15}),
    "no producer": pack({"op": "watermark"}),
    "no events": pack({"op": "insert"}),
    "a map of maps in since": with_maps("since"),
    "a map of maps in id": with_maps("id"),
}

BAD_FILTERS: dict[str, object] = {
    "nil": None,
    "list": [],
    "text": "kind=x",
    "number": 5,
    "pairs": [["kind", "x"]],
    "unknown key": {"nokey": 1},
    "key in upper case": {"Kind": 1},
    "empty key": {"": 1},
    "nil as value": {"kind": None},
    "nil among values": {"kind": ["x", None]},
    "bytes": {"kind": b"x"},
    "map": {"kind": {"$in": [1]}},
    "list of lists": {"kind": [["x"]]},
    "nan": {"kind": math.nan},
    "infinity": {"kind": [math.inf]},
    "nul": {"kind": "x\0"},
    "too long": {"kind": "x" * 256},
    "too long in utf-8": {"kind": "é" * 128},
    "key of 1 MB": {"k" * 1_000_000: 1},
    "too many values": {"kind": list(range(MAX_FILTER_VALUES + 1))},
    "too many long values": {"kind": ["x" * 200] * (MAX_FILTER_VALUES + 1)},
    "one bad value among many": {"kind": [*["x" * 200] * 5_000, None]},
    "many keys": {f"key{number}": 1 for number in range(100_000)},
    "a deep value": {"kind": [[[[[[[[[]]]]]]]]]},
}


def test_bad_requests_are_answered_on_the_socket_that_asked(siege: Siege) -> None:
    asker = siege.socket(zmq.REQ)
    for name, payload in BAD_REQUESTS.items():
        code, message = error(asker, payload)
        assert code == "bad_request", (name, code)
        assert len(message) < 1_000, name
        assert answer(asker, pack({"op": "ping", "id": name}))["id"] == name
    code, _ = error(asker, pack({"op": "ping", "v": 2}))
    assert code == "version"
    for start, limit in ((9_999, 2), (10_000, 1), (10_000, 1_000)):
        assert error(asker, pack({"op": "items", "start": start, "limit": limit}))[0] == "too_large"


def test_filters_that_are_none(siege: Siege) -> None:
    asker = siege.socket(zmq.REQ)
    for name, filter in BAD_FILTERS.items():
        for op in ("items", "replay", "count"):
            code, message = error(asker, pack({"op": op, "filter": filter}))
            assert code == "bad_filter", (name, code)
            assert len(message) < 1_000, name
    assert error(asker, with_maps("filter"))[0] == "bad_filter"
    # Deep enough for one recursive function and too deep for another.
    for deep in (b"\x91", b"\x81\xa1a"):
        for levels in (*range(950, 1_030), 10_000):
            payload = b"\x82\xa2op\xa5count\xa6filter\x81\xa4kind" + deep * levels + b"\x01"
            assert error(asker, payload)[0] in ("bad_request", "bad_filter"), levels
    for broken in (b"\x81\x01\x02", b"\x81\xa4kind\xa2\xff\xfe", b"\x81\xa4kind\xd4\x05x"):
        payload = b"\x82\xa2op\xa5count\xa6filter" + broken
        assert error(asker, payload)[0] in ("bad_request", "bad_filter")


def test_large_but_good_filters(siege: Siege) -> None:
    push = siege.socket(zmq.PUSH)
    for _ in range(10):
        siege.push_good(push)
    siege.wait_stored()
    values = [f"{number:0255d}" for number in range(MAX_FILTER_VALUES - 10)]
    for filter, found in (
        ({"kind": ["good", *values]}, 10),
        ({"user": list(range(1, MAX_FILTER_VALUES + 1))}, 10),
        ({"user": list(range(1, MAX_FILTER_VALUES + 1)), "kind": ["good", *values[:5_000]]}, 10),
        ({"kind": []}, 0),
        ({"kind": [True, 1.5, 2**64 - 1, -(2**63), 5e-324, ""]}, 0),
    ):
        assert siege.ask("count", filter=filter)["count"] == found
        assert len(siege.ask("items", filter=filter)["events"]) == found
        assert len(siege.ask("replay", filter=filter)["events"]) == found


def test_huge_unknown_fields_are_passed_over_and_cost_little(siege: Siege) -> None:
    dealer = siege.socket(zmq.DEALER)
    for number in range(12):
        dealer.send_multipart([b"", with_maps("more", id=number)])
    ids = {msgpack.unpackb(dealer.recv_multipart()[1])["id"] for _ in range(12)}
    assert ids == set(range(12))
    assert resident_bytes(siege.server, "VmHWM") < 400 << 20


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_ids_of_every_type_come_back(siege: Siege, kind: int) -> None:
    socket = siege.socket(kind)
    envelope = [b""] if kind == zmq.DEALER else []
    ids = [0, -1, 2**64 - 1, -(2**63), "", "é", "x" * 100_000, b"", b"\xff" * 1_000, True, False]
    for id in ids:
        for payload in (
            pack({"op": "ping", "id": id}), pack({"id": id, "op": "no such"}), pack({"id": id}),
            pack({"id": id, "op": "items", "filter": 5}), pack({"op": 7, "id": id}),
            pack({"op": "insert", "events": [1], "id": id}), pack({"op": "ping", "id": id, "v": 9}),
        ):  # fmt: skip
            socket.send_multipart([*envelope, payload])
            assert msgpack.unpackb(socket.recv_multipart()[-1])["id"] == id
    socket.send_multipart([*envelope, pack({"op": "ping", "id": None})])
    assert "id" not in msgpack.unpackb(socket.recv_multipart()[-1])


def test_random_bytes_are_answered_one_by_one(siege: Siege) -> None:
    rng = random.Random(3)
    asker = siege.socket(zmq.REQ)
    good = pack({"op": "items", "filter": {"kind": "x"}, "limit": 5, "id": 3})
    for number in range(500):
        data = bytearray(good if number % 2 else rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        reply = answer(asker, bytes(data))
        assert reply["ok"] or reply["error"]["code"] in ("bad_request", "bad_filter", "version")


# ---------------------------------------------------------------- envelopes


def test_frames_around_a_request(siege: Siege) -> None:
    """The envelope ends with an empty frame, comes back whole, and one frame follows it."""
    dealer = siege.socket(zmq.DEALER)
    ping = pack({"op": "ping"})
    hops = [b"%d" % number for number in range(15)]
    for frames in ([b"", ping], [b"hop", b"", ping], [*hops, b"", ping]):
        dealer.send_multipart(frames)
        reply = dealer.recv_multipart()
        assert reply[:-1] == frames[:-1]
        assert msgpack.unpackb(reply[-1])["ok"] is True
    for frames in (
        [ping], [b""], [b"", b""], [b"", b"", ping], [b"", ping, ping], [b"a", b"b", b"c"],
        [*hops, b"one too many", b"", ping], [b"x"] * 3_000, [b""] * 3_000, [b"", ping] * 3_000,
    ):  # fmt: skip
        dealer.send_multipart(frames)
        reply = dealer.recv_multipart()
        assert b"" in reply[:-1]
        assert msgpack.unpackb(reply[-1])["error"]["code"] in ("bad_request",)
    dealer.send_multipart([b"", ping])
    assert msgpack.unpackb(dealer.recv_multipart()[-1])["ok"] is True


def test_an_endless_request_is_answered_once(siege: Siege) -> None:
    raw = dial(siege.server.endpoints.query, b"DEALER")
    raw.sendall(frame(b"", MORE))
    for _ in range(10):
        raw.sendall(frame(b"x", MORE) * 2_000)
    raw.sendall(frame(b"x") + frame(b"", MORE) + frame(pack({"op": "ping", "id": 5})))
    reader, replies = raw.makefile("rb"), []
    for _ in range(2):
        assert reader.read(2) == frame(b"", MORE)
        replies.append(msgpack.unpackb(reader.read(reader.read(2)[1])))
    assert replies[0]["error"]["code"] == "bad_request"
    assert replies[1]["id"] == 5
    reader.close()
    raw.close()


def test_requests_over_the_limit_reset_the_connection_and_nothing_else(siege: Siege) -> None:
    """The reply is what cannot be had: a REQ has to give up and ask again."""
    dealer = siege.socket(zmq.DEALER)
    relaxed = siege.socket(zmq.REQ, req_relaxed=1, req_correlate=1)
    for size in (MAX_FRAME_BYTES + 1, 64 << 20):
        dealer.send_multipart([b"", bytes(size)], copy=False)
        dealer.send_multipart([b"", pack({"op": "ping", "id": size})])
        assert msgpack.unpackb(dealer.recv_multipart()[1])["id"] == size
        relaxed.send(bytes(size), copy=False)
        assert answer(relaxed, pack({"op": "ping", "id": size}))["id"] == size
    assert resident_bytes(siege.server, "VmHWM") < 200 << 20


def test_more_requests_than_are_taken_are_told_so_with_their_ids(siege: Siege) -> None:
    dealer = siege.socket(zmq.DEALER, sndhwm=0, rcvhwm=0)
    for number in range(200):
        dealer.send_multipart([b"", pack({"op": "count", "id": number})])
    seen: Counter[int] = Counter()
    for _ in range(200):
        reply = msgpack.unpackb(dealer.recv_multipart()[1])
        seen[reply["id"]] += 1
        if not reply["ok"]:
            assert reply["error"]["code"] == "busy"
            assert reply["error"]["retry_ms"] > 0
    assert seen == Counter(range(200))


# ---------------------------------------------------------------- inserts that want an answer


def test_an_insert_is_stored_whole_or_not_at_all(siege: Siege) -> None:
    asker = siege.socket(zmq.REQ)
    bad: list[Any] = [
        5, None, "x", [], [1], [[5, {}], {}, {}], {"a": math.nan}, {"a": {1: 2}}, {1: 2},
        {"a": msgpack.Timestamp(1)}, ["now", {}], [-1, {}], [1 << 53, {}], [2**64 - 1, {}],
        [(1 << 53) - 1, {}], {"a": msgpack.ExtType(7, b"")}, [msgpack.ExtType(7, b""), {}],
        {"a": "x" * (1 << 20)},
    ]  # fmt: skip
    for element in bad:
        code, message = error(
            asker, pack({"op": "insert", "events": [{"kind": "bad"}, element, {"kind": "bad"}]})
        )
        assert code in ("bad_event", "bad_request", "too_large"), (element, code)
        assert "event 1:" in message
        reply = answer(asker, pack({"op": "insert", "events": [siege.event()]}))
        assert len(reply["ids"]) == 1
    for events in ({}, 5, None, b"x", "x"):
        assert error(asker, pack({"op": "insert", "events": events}))[0] == "bad_event"
    assert answer(asker, pack({"op": "insert", "events": []}))["ids"] == []
    assert siege.rejects() == [], "who was told needs no file"


# ---------------------------------------------------------------- tokens and cursors


def test_tokens_and_cursors_from_elsewhere(siege: Siege) -> None:
    """Of another store, of an earlier life of this one, and forged."""
    with server() as other:
        for number in range(5):
            ask_well(other.url, "insert", events=[{"kind": number}])
        page = ask_well(other.url, "items", limit=2)
        foreign = [
            pack({"op": "items", "before": page["next"]}),
            pack({"op": "replay", "after": f"c1.{page['run']:x}.0-3"}),
            pack({"op": "replay", "after": 3, "run": page["run"]}),
        ]
    push = siege.socket(zmq.PUSH)
    siege.push_good(push)
    siege.wait_stored()
    run, asker = siege.ask("ping")["run"], siege.socket(zmq.REQ)
    forged = [
        {"op": "items", "before": str(Token(run, 5, 5, 1 << 40))},
        {"op": "items", "before": str(Token(run ^ 1, 5, 5, 1))},
        {"op": "items", "before": str(Token(0, 0, 0, 0))},
        {"op": "replay", "after": str(Cursor(run, {0: 1 << 40}))},
        {"op": "replay", "after": str(Cursor(run, {3: 1}))},
        {"op": "replay", "after": str(Cursor(run, {0: 1, 1: 1}))},
        {"op": "replay", "after": str(Cursor(run ^ 1, {0: 1}))},
        {"op": "replay", "after": 2},
        {"op": "replay", "after": (1 << 53) - 1},
        {"op": "replay", "after": 1, "run": run ^ 1},
    ]
    for payload in foreign + [pack(each) for each in forged]:
        assert error(asker, payload)[0] == "cursor_lost", payload
    malformed = [
        "", "p", "p1", "p1.", "p1.1.2.3", "p1.1.2.3.4.5", "p2.1.1.1.1", "p1.g.1.1.1", "p1.1.1.1.-1",
        "p1.20000000000000.1.1.1", "P1.1.1.1.1", "p1.1.1.1.1\n", "p1.\uff11.1.1.1", "x" * 100_000,
        "c1.1", "c1.1.0-", "c1.1.0-1.0-2", "c1.1.80-1", "c1..0-1", "c1.1.0-1.",
        "c1.1" + ".0-1" * 129,
        b"p1.1.1.1.1", 5.5, True, "c1.1.0-1\0",
    ]  # fmt: skip
    for text in malformed:
        assert error(asker, pack({"op": "items", "before": text}))[0] == "bad_request", text
        if text is not True:
            assert error(asker, pack({"op": "replay", "after": text}))[0] == "bad_request", text
    good = [
        {"op": "items", "before": str(Token(run, (1 << 53) - 1, (1 << 53) - 1, 1))},
        {"op": "items", "before": str(Token(run, 0, 0, 0))},
        {"op": "replay", "after": str(Cursor(run, {0: 1}))},
        {"op": "replay", "after": 1, "run": run},
    ]
    for each in good:
        assert answer(asker, pack(each))["ok"] is True, each


def test_places_in_a_life_that_was_lost(tmp_path: Path) -> None:
    """A copy of the store is put back: what was seen after it was made is never misread."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    store.mkdir()
    with server(store=f"sqlite:///{store}/events.db") as running:
        ask_well(running.url, "insert", events=[{"n": 1}, {"n": 2}])
        kept = ask_well(running.url, "items", limit=1)
        running.stop()
        shutil.copytree(store, copy)
        running.start()
        ask_well(running.url, "insert", events=[{"n": 3}, {"n": 4}])
        lost = ask_well(running.url, "items", limit=1)
        running.stop()
        shutil.rmtree(store)
        copy.rename(store)
        running.start()
        ask_well(running.url, "insert", events=[{"n": 5}, {"n": 6}, {"n": 7}])
        for request in (
            {"op": "items", "before": lost["next"]},
            {"op": "replay", "after": f"c1.{lost['run']:x}.0-4"},
            {"op": "replay", "after": 3, "run": lost["run"]},
            {"op": "replay", "after": 3, "run": kept["run"]},
        ):
            assert ask(running.url, **request)["error"]["code"] == "cursor_lost", request
        page = ask_well(running.url, "items", before=kept["next"])
        assert [event["n"] for _, _, event in page["events"]] == [1]
        replay = ask_well(running.url, "replay", after=2, run=kept["run"])
        assert [event["n"] for _, _, event in replay["events"]] == [5, 6, 7]
