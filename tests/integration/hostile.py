"""A daemon under attack, and what the tests of bad input attack it with.

`siege` runs a daemon and checks, when the test is done with it, what must hold whatever came in:
it answers, every good event is there exactly once and can be read, nothing else is, no thread
failed, SIGTERM ends it with exit 0, and received = stored + refused.
"""

import itertools
import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from zstream import wire
from zstream.testing import Server, server

from .support import PATIENCE_S, wait_until

pack = msgpack.packb

#: What stands before a connection of ZMTP 3.0 with the mechanism NULL.
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame as ZMTP has it on the wire."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


def ready(kind: bytes, identity: bytes = b"") -> bytes:
    """The command that ends a handshake."""

    def one(name: bytes, value: bytes) -> bytes:
        return bytes((len(name),)) + name + struct.pack(">I", len(value)) + value

    return frame(b"\x05READY" + one(b"Socket-Type", kind) + one(b"Identity", identity), COMMAND)


def dial(endpoint: str, kind: bytes | None = None, identity: bytes = b"") -> socket.socket:
    """Connect by TCP, and with a kind shake hands as such a ZeroMQ socket."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    raw = socket.create_connection((host, int(port)), PATIENCE_S)
    if kind is not None:
        raw.sendall(GREETING + ready(kind, identity))
        wanted = len(GREETING) + 1
        while wanted > 0:
            wanted -= len(raw.recv(wanted))
        size = raw.recv(1)[0]
        while size > 0:
            size -= len(raw.recv(size))
    return raw


def resident_bytes(server: Server, what: str = "VmRSS") -> int:
    """The memory that a daemon occupies, or with VmHWM did at its height; 0 if unknown here."""
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
    except OSError:
        return 0
    [line] = [line for line in status.splitlines() if line.startswith(what)]
    return int(line.split()[1]) << 10


class Siege:
    """A daemon under attack.

    Attributes:
        server: The daemon.
        expected: Every event that is to be in the store at the end, packed, and how often.
        others: Whether the attack may have brought other events into the store.
    """

    def __init__(self, server: Server, context: "zmq.Context[Any]", rejects: Path) -> None:
        self.server, self._context, self._rejects = server, context, rejects
        self._labels = itertools.count(1)
        self.expected: Counter[bytes] = Counter()
        self.others = False
        self._sockets: list[zmq.Socket[bytes]] = []
        self._asker = self.socket(zmq.REQ)

    def socket(self, kind: int, **options: Any) -> "zmq.Socket[bytes]":
        """A socket connected to where its kind belongs."""
        ends = self.server.endpoints
        made: zmq.Socket[bytes] = self._context.socket(kind)
        self._sockets.append(made)
        made.linger = 0
        made.rcvtimeo = made.sndtimeo = round(PATIENCE_S * 1000)
        for name, value in options.items():
            setattr(made, name, value)
        publish = (zmq.SUB, zmq.XSUB)
        made.connect(
            ends.insert if kind == zmq.PUSH else ends.publish if kind in publish else ends.query
        )
        return made

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Ask the daemon over a socket that nobody misuses."""
        self._asker.send(pack({"op": op, **fields}))
        reply = msgpack.unpackb(self._asker.recv(), strict_map_key=False)
        assert reply["ok"], reply
        return dict(reply)

    def info(self, name: str) -> int:
        """A figure of `info`."""
        return int(self.ask("info")[name])

    def event(self, **more: object) -> dict[str, Any]:
        """Make a good event that will be in the store at the end."""
        event = {"kind": "good", "user": next(self._labels), **more}
        self.expect(event)
        return event

    def expect(self, event: dict[str, Any], times: int = 1) -> None:
        """Say that an event will be in the store at the end."""
        self.expected[pack(event)] += times

    def push_good(self, push: "zmq.Socket[bytes]") -> None:
        """Send a good event as a frame of its own."""
        push.send(pack(self.event()))

    def wait_stored(self) -> None:
        """Wait until all that was expected so far is stored."""
        wanted = self.expected.total()
        if self.others:
            filter = {"kind": "good"}
            wait_until(lambda: self.ask("count", filter=filter)["count"] >= wanted, "all is stored")
        else:
            wait_until(lambda: self.info("stored") >= wanted, f"{wanted} events are stored")

    def wait_refused(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many were refused; gives the lines of the reject file."""
        wait_until(lambda: self.info("refused") >= count, f"{count} are refused")
        assert self.info("refused") == count
        return self.rejects()

    def rejects(self) -> list[dict[str, Any]]:
        """The lines of the reject file."""
        if not self._rejects.exists():
            return []
        return [json.loads(line) for line in self._rejects.read_text("ascii").splitlines()]

    def stored(self) -> Iterator[dict[str, Any]]:
        """Every event in the store, by ``replay``, as a strict reader reads it."""
        after = 0
        while True:
            self._asker.send(pack({"op": "replay", "after": after}))
            reply = wire.unpack(self._asker.recv())
            for _, _, event in reply["events"]:
                yield event
            after = reply["upto"]
            if after == reply["head"]:
                return

    def check(self) -> None:
        """Check what must hold, whatever came in."""
        self.wait_stored()
        assert self.ask("ping")["ok"]
        stored = Counter(map(pack, self.stored()))
        lost, added = self.expected - stored, stored - self.expected
        assert not lost, f"{lost.total()} good events are not stored: {list(lost)[:5]}"
        assert self.others or not added, (
            f"{added.total()} events too many are stored: {list(added)[:5]}"
        )
        total = stored.total()
        assert self.ask("count")["count"] == total == self.info("stored")
        found, before = 0, None
        while True:  # newest first, too, every reader gets all of them
            reply = self.ask("items", limit=1000, **({"before": before} if before else {}))
            found += len(reply["events"])
            before = reply["next"]
            if before is None:
                break
        assert found == total

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets:
            each.close()

    def check_end(self) -> None:
        """Stop the daemon, and check what it says of itself."""
        assert self.server.stop() == 0
        lines = [json.loads(line) for line in self.server.log]  # libzmq prints what it asserts
        last = lines[-1]
        assert last["event"] == "stopped"
        assert last["received"] == last["stored"] + last["refused"]
        assert not [line for line in lines if line["level"] in ("error", "critical")]


@contextmanager
def siege(folder: Path, store: str = "memory:") -> Iterator[Siege]:
    """Run a daemon to be attacked, and check in the end that it stood.

    Args:
        folder: For its reject file.
        store: The URL of its store.
    """
    rejects = folder / "rejects.jsonl"
    options = ["--rejects", str(rejects)]
    with zmq.Context() as context, server(store=store, options=options) as running:
        attacked = Siege(running, context, rejects)
        with closing(attacked):
            yield attacked
            attacked.check()
        attacked.check_end()
