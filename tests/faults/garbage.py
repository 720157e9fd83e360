"""Garbage for every socket of a daemon, as long as a test lasts; none of it can be stored."""

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import zmq

#: Seconds between two pieces of it.
PAUSE_S: Final = 0.02


@contextmanager
def garbage(folder: Path, rng: random.Random) -> Iterator[None]:
    """Send garbage to the daemon in the folder, whether it lives or not."""
    ended = threading.Event()
    thread = threading.Thread(target=_send, args=(folder, random.Random(rng.random()), ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _send(folder: Path, rng: random.Random, ended: threading.Event) -> None:
    with zmq.Context() as context:
        context.linger = 0
        push, query, sub = (_connect(context, folder, kind) for kind in _KINDS)
        try:
            while not ended.wait(PAUSE_S):
                kind = rng.randrange(4)
                if kind == 0:
                    _send_raw(folder, rng)
                elif kind == 1:
                    _try(push, _frames(rng))
                elif kind == 2:
                    _try(query, [b"", *_frames(rng)])
                else:
                    sub.setsockopt(zmq.SUBSCRIBE, _topic(rng))
        finally:
            for each in (push, query, sub):
                each.close()


_KINDS: Final = {zmq.PUSH: "s-insert", zmq.DEALER: "s", zmq.SUB: "s-publish"}


def _connect(context: "zmq.Context[Any]", folder: Path, kind: int) -> "zmq.Socket[bytes]":
    made: zmq.Socket[bytes] = context.socket(kind)
    made.connect(f"ipc://{folder}/{_KINDS[kind]}")
    return made


def _try(to: "zmq.Socket[bytes]", frames: list[bytes]) -> None:
    with suppress(zmq.Again):
        to.send_multipart(frames, zmq.NOBLOCK)


def _send_raw(folder: Path, rng: random.Random) -> None:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(1)
        raw.connect(str(folder / rng.choice(list(_KINDS.values()))))
        raw.sendall(rng.randbytes(rng.choice((1, 20, 500))))


def _frames(rng: random.Random) -> list[bytes]:
    """A message that is no event: nothing in it is msgpack, or its crc32 is wrong."""
    bad = b"\xc1" + rng.randbytes(rng.choice((0, 3, 2_000)))
    header = struct.pack(">2sBB16sIQII", b"ZI", 1, 0, os.urandom(16), 0, 1, 1, 1)
    return rng.choice(([bad], [header, bad], [header, b"\x91\x80"], [bad, bad, bad], [header[:7]]))


def _topic(rng: random.Random) -> bytes:
    return rng.choice((b"", b"{", b'{"nokey": 1}', b"@", b"#" + rng.randbytes(5), b"x" * 5_000))
