"""Peers that misbehave: no ZMTP, half a handshake, names that repeat, replies never read."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from zstream.limits import PAGE_BYTES

from .hostile import MORE, Siege, dial, frame, ready, resident_bytes, siege

pack = msgpack.packb


@pytest.fixture(name="siege")
def _siege(tmp_path: Path) -> Iterator[Siege]:
    with siege(tmp_path) as running:
        yield running


def test_bytes_that_are_no_zmtp(siege: Siege) -> None:
    rng = random.Random(2)
    push = siege.socket(zmq.PUSH)
    raws = []
    for endpoint in siege.server.endpoints:
        for number in range(60):
            raw = dial(endpoint)
            raw.sendall(
                [
                    rng.randbytes(200),
                    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"\xff" + bytes(8) + b"\x7f" + bytes((number % 5,)) + rng.randbytes(80),
                    b"\xff" + bytes(8),
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
                    b"\x01\x00\x02\x00x",
                ][number % 6]
            )
            raws.append(raw)  # some are left as they are, half shaken
        siege.push_good(push)
    for number, raw in enumerate(raws):
        if number % 2:
            raw.close()
    siege.push_good(push)
    siege.wait_stored()
    for raw in raws:
        raw.close()


def test_frames_that_break_zmtp(siege: Siege) -> None:
    """Lengths that cannot be, unknown flags and commands behind a good handshake."""
    push = siege.socket(zmq.PUSH)
    good = frame(pack({"kind": "bad"}))
    kinds = (b"DEALER", b"PUSH", b"SUB")
    for endpoint, kind in zip(siege.server.endpoints, kinds, strict=True):
        for broken in (
            b"\x02" + b"\xff" * 8, b"\x02" + bytes(7) + b"\xff" + b"x", b"\x06" + b"\x7f" * 8,
            b"\x80\x01x", b"\xff\x01x", b"\x04\x00", b"\x04\x05\x04PING", b"\x05\x01\x00",
            frame(b"\x04PING\x00\x00" + b"c" * 200, 4), frame(b"\x05ERROR\xff", 4),
            frame(b"\x05READY" + b"\xff" * 30, 4), frame(b"\x09SUBSCRIBE", 4), ready(b"REP"),
        ):  # fmt: skip
            raw = dial(endpoint, kind)
            raw.sendall(broken)
            raw.close()
        siege.push_good(push)
    raw = dial(siege.server.endpoints.insert, b"PUSH")
    raw.sendall(frame(pack(siege.event())) + b"\x02" + b"\xff" * 8 + good)
    siege.wait_stored()
    raw.close()


# ---------------------------------------------------------------- requests and replies


def test_who_comes_back_under_its_own_name_is_heard(siege: Siege) -> None:
    """Also while its old connection is still there, as far as the daemon knows."""
    names = {"identity": b"worker-1"}
    for number in range(3):
        worker = siege.socket(zmq.DEALER, **names)
        worker.send_multipart([b"", pack({"op": "ping", "id": number})])
        assert msgpack.unpackb(worker.recv_multipart()[1])["id"] == number
    for name in (b"\0\0\0\0\1", b"\0", b"x" * 255):
        raw = dial(siege.server.endpoints.query, b"DEALER", name)
        raw.sendall(frame(b"", MORE) + frame(pack({"op": "ping"})))
        assert raw.recv(2) == frame(b"", MORE)
        raw.close()


def test_a_relaxed_req_gets_the_reply_to_its_newest_request(siege: Siege) -> None:
    asker = siege.socket(zmq.REQ, req_relaxed=1, req_correlate=1)
    for number in range(30):
        asker.send(pack({"op": "ping", "id": number}))
    reply = msgpack.unpackb(asker.recv())
    assert reply["id"] == 29


def test_who_asks_and_never_reads_costs_little_and_delays_nobody(siege: Siege) -> None:
    """Its replies are dropped in the end; the others' are not."""
    push = siege.socket(zmq.PUSH)
    for _ in range(20):
        push.send(pack([siege.event(x="x" * 20_000) for _ in range(5)]))
    siege.wait_stored()
    before = resident_bytes(siege.server)
    raw = dial(siege.server.endpoints.query, b"DEALER")
    request = pack({"op": "items", "limit": 1_000})
    reader = siege.socket(zmq.REQ)
    for _ in range(250):
        raw.sendall((frame(b"", MORE) + frame(request)) * 16)
        reader.send(request)
        assert len(reader.recv()) > PAGE_BYTES // 2
    assert resident_bytes(siege.server) - before < 400 * PAGE_BYTES
    raw.close()
