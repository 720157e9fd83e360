"""A seeded stream of rubbish into the live sockets, with good events and requests in between.

``ZSTREAM_FUZZ_STEPS`` makes it longer, ``ZSTREAM_FUZZ_SEED`` repeats a run that failed.
"""

import os
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from .hostile import COMMAND, GREETING, MORE, Siege, dial, frame, ready, resident_bytes, siege

pack = msgpack.packb

STEPS = int(os.environ.get("ZSTREAM_FUZZ_STEPS", "4000"))
SEED = int(os.environ.get("ZSTREAM_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))

ATOMS = [
    b"", b"\0", b"\xc0", b"\xc1", b"\xff", b"\x80", b"\x90", b"\x91", b"\x92", b"\x81",
    b"\xa4kind", b"\xa2op", b"\xa6filter", b"\xa5items", b"\xa6events", b"\xa2id",
    b"\xc7\x0c\xff" + b"\xff" * 12, b"\xd6\xff\xff\xff\xff\xff", b"\xd7\xff" + b"\xff" * 8,
    b"\xcb\x7f\xf8" + bytes(6), b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xa2\xff\xfe",
    b"\x91" * 100, b"{}", b'{"kind":', b'"', b"}", b"ZI\1\0",
]  # fmt: skip
SCALARS = [
    None, True, 0, -1, 2**64 - 1, -(2**63), 1 << 53, 0.5, float("nan"), float("inf"), "", "x", "\0",
    "x" * 300, "é" * 200, b"", b"\xff", msgpack.ExtType(3, b"x"), msgpack.Timestamp(1 << 40, 5),
]  # fmt: skip
OPS = ["ping", "info", "items", "replay", "count", "insert", "watermark", "nothing", 5, None]
FIELDS = ["filter", "limit", "start", "since", "until", "before", "after", "run", "producer", "v"]


class Rubbish:
    """Everything that is sent, as one stream of a seeded generator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def value(self, depth: int = 0) -> Any:
        kind = self.rng.randrange(8) if depth < 5 else 7
        if kind == 0:
            names = ["kind", "user", "repo", "a", "", 1, None, b"x"]
            return {
                self.rng.choice(names): self.value(depth + 1) for _ in range(self.rng.randrange(5))
            }
        if kind == 1:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(5))]
        return self.rng.choice(SCALARS)

    def mutate(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.rng.randrange(4)):
            place = self.rng.randrange(len(changed) + 1)
            changed[place : place + self.rng.randrange(3)] = self.rng.choice(ATOMS)
        return bytes(changed)

    def body(self) -> bytes:
        kind = self.rng.randrange(5)
        if kind == 0:
            return b"".join(self.rng.choices(ATOMS, k=self.rng.randrange(10)))
        if kind == 1:
            return self.rng.randbytes(self.rng.randrange(80))
        if kind == 2:
            return self.mutate(pack([self.value() for _ in range(self.rng.randrange(20))]))
        return self.mutate(pack({"kind": "fuzz", "a": self.value()}))

    def batch(self) -> list[bytes]:
        body = self.body()
        count = (body[0] & 15) if body else 0
        numbers = (
            self.rng.choice([0, 1, 1, 1, 2]), 0 if self.rng.randrange(9) else 1,
            bytes((self.rng.randrange(3),)) * 16, self.rng.randrange(3), self.rng.randrange(9),
            self.rng.choice([count, count, self.rng.randrange(20), 2**32 - 1]),
            zlib.crc32(body) if self.rng.randrange(5) else 7,
        )  # fmt: skip
        header = struct.pack(">2sBB16sIQII", b"ZI", *numbers)
        return [header if self.rng.randrange(5) else self.mutate(header), body]

    def request(self) -> bytes:
        if not self.rng.randrange(4):
            return self.body()
        request = {"op": self.rng.choice(OPS), "id": self.rng.choice([1, "x", b"x", 1.5, None])}
        for name in self.rng.sample(FIELDS, self.rng.randrange(4)):
            request[name] = self.value()
        if request["op"] == "insert":
            request["events"] = self.value()
        return self.mutate(pack(request)) if self.rng.randrange(2) else pack(request)

    def topic(self) -> bytes:
        if not self.rng.randrange(3):
            return self.body()
        parts = [
            b"{",
            b"}",
            b'"kind"',
            b":",
            b'"x"',
            b"[",
            b"]",
            b",",
            b"1",
            b"null",
            b"\\ud800",
            b" ",
        ]
        return b"".join(self.rng.choices(parts, k=self.rng.randrange(9)))

    def zmtp(self) -> bytes:
        names = [b"PING", b"PONG", b"SUBSCRIBE", b"CANCEL", b"READY", b"ERROR", b"JOIN", b"", b"X"]
        name, noise = self.rng.choice(names), self.rng.randbytes(self.rng.randrange(60))
        return self.rng.choice(
            [
                noise,
                frame(noise, self.rng.randrange(256)),
                b"\x02" + struct.pack(">Q", self.rng.choice([0, 1, 255, 1 << 22, 1 << 63])) + noise,
                frame(bytes((len(name),)) + name + noise, COMMAND),
                frame(b"", MORE) + frame(self.request()),
                frame(self.body(), self.rng.choice([0, 0, MORE])),
                frame(self.rng.choice([b"\0", b"\1", b"\2"]) + self.topic()),
                b"\x01\x00" * self.rng.randrange(100),
                ready(self.rng.choice([b"PUSH", b"REP", b"SUB", noise])[:255]),
            ]
        )

    def connection(self, kind: bytes) -> bytes:
        start = self.rng.randrange(10)
        if start == 0:
            return self.rng.randbytes(self.rng.randrange(100))
        if start == 1:
            return GREETING[: self.rng.randrange(64)]
        if start == 2:
            changed = bytearray(GREETING)
            changed[self.rng.randrange(64)] = self.rng.randrange(256)
            return bytes(changed) + ready(kind) + self.zmtp()
        name = self.rng.choice([b"", b"same", self.rng.randbytes(5)])
        return (
            GREETING
            + ready(kind, name)
            + b"".join(self.zmtp() for _ in range(self.rng.randrange(8)))
        )


class Attack:
    """The attacker's sockets, and what it does with them."""

    def __init__(self, siege: Siege, rng: random.Random) -> None:
        self.siege, self.rng, self.rubbish = siege, rng, Rubbish(rng)
        self.push = [siege.socket(zmq.PUSH, sndhwm=0) for _ in range(3)]
        self.dealer = siege.socket(zmq.DEALER)
        self.sub = siege.socket(zmq.SUB, sndhwm=0)
        self.raws: list[socket.socket] = []
        self.steps: list[Callable[[], None]] = [
            self.good, self.good, self.insert, self.insert, self.insert, self.numbered, self.frames,
            self.ask, self.ask, self.subscribe, self.connect,
        ]  # fmt: skip

    def good(self) -> None:
        self.siege.push_good(self.rng.choice(self.push))

    def insert(self) -> None:
        self.rng.choice(self.push).send(self.rubbish.body())

    def numbered(self) -> None:
        self.rng.choice(self.push).send_multipart(self.rubbish.batch())

    def frames(self) -> None:
        count = self.rng.choice([3, 4, 50])
        self.rng.choice(self.push).send_multipart([self.rubbish.body() for _ in range(count)])

    def ask(self) -> None:
        """Every request is answered, once."""
        mark = self.rng.randbytes(8)
        self.dealer.send_multipart([mark, b"", self.rubbish.request()])
        envelope, empty, reply = self.dealer.recv_multipart()
        assert (envelope, empty) == (mark, b"")
        answer = msgpack.unpackb(reply, strict_map_key=False)
        assert answer["ok"] or answer["error"]["code"] != "internal", answer

    def subscribe(self) -> None:
        topic = self.rubbish.topic()
        if self.rng.randrange(3):
            self.sub.subscribe(topic)
        else:
            self.sub.unsubscribe(topic)
        while self.sub.poll(0):
            assert len(self.sub.recv_multipart()) == 3

    def connect(self) -> None:
        kinds = (b"DEALER", b"PUSH", b"SUB")
        endpoint, kind = self.rng.choice(list(zip(self.siege.server.endpoints, kinds, strict=True)))
        raw = dial(endpoint)
        self.raws.append(raw)
        try:
            raw.sendall(self.rubbish.connection(kind))
        except OSError:  # it hung up on us, as it may
            self.raws.remove(raw)
            raw.close()
        if len(self.raws) > 20:
            self.raws.pop(self.rng.randrange(20)).close()

    def end(self) -> None:
        for raw in self.raws:
            raw.close()


@pytest.fixture(name="siege", params=["memory", "sqlite"])
def _siege(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Siege]:
    store = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/events.db"
    with siege(tmp_path, store) as running:
        running.others = True
        yield running


@pytest.mark.timeout(60 + STEPS // 20)
def test_rubbish(siege: Siege) -> None:
    print(f"ZSTREAM_FUZZ_SEED={SEED} ZSTREAM_FUZZ_STEPS={STEPS}")
    rng = random.Random(SEED)
    attack = Attack(siege, rng)
    for _ in range(STEPS):
        rng.choice(attack.steps)()
    attack.end()
    siege.wait_stored()
    assert siege.info("refused") >= len(siege.rejects()) > STEPS // 20
    assert resident_bytes(siege.server, "VmHWM") < 300 << 20
