"""The daemon as a process that may die at any moment, and bare sockets to it."""

import dataclasses
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgpack
import pytest
import zmq

from .model import Filter, Row

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
#: Seconds until something that should happen at once has failed.
PATIENCE_S: Final = 30.0

#: From `docs/protocol.md`, by hand.
BATCH: Final = struct.Struct(">2sBB16sIQII")
PUBLISHED: Final = struct.Struct(">2sBBHHQQQQ")
DATA: Final = 1


class Died(Exception):
    """The daemon is gone."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where a process is to die: see `launcher`. Without a site it lives."""

    site: str | None = None
    nth: int = 1
    when: str = "before"
    #: Not at a step, but so many seconds after the load began.
    delay: float | None = None

    def __str__(self) -> str:
        return f"{self.when} {self.site}" if self.site else "at any moment"


class Process:
    """A command of `zstreamd` under the launcher."""

    #: Those that may run.
    running: ClassVar[set["Process"]] = set()

    def __init__(self, folder: Path, args: Sequence[str], plan: Plan) -> None:
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAM")}
        self._steps = folder / "steps"
        self._steps.unlink(missing_ok=True)
        told = {**dataclasses.asdict(plan), "steps": str(self._steps)}
        self.log = folder / "daemon.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCHER, *args], env={**environment, "FAULTS": json.dumps(told)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.pidfd = os.pidfd_open(self.process.pid)
        self.running.add(self)

    def wait(self, timeout: float = PATIENCE_S) -> int | None:
        """The exit code, or None if it lives on after so many seconds."""
        if not select.select([self.pidfd], [], [], timeout)[0]:
            return None
        return self.end()

    def kill_later(self, delay: float) -> threading.Timer:
        """End it with SIGKILL after so many seconds, whatever it does then."""
        timer = threading.Timer(delay, self.process.kill)
        timer.start()
        return timer

    def kill(self) -> int:
        """End it with SIGKILL, if it has not ended before."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        return self.end()

    def end(self) -> int:
        """The exit code of what has ended or is about to."""
        code = self.process.wait(PATIENCE_S)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
            self.running.discard(self)
        return code

    def steps(self) -> Counter[str]:
        """How often it has taken which step."""
        return Counter(self._steps.read_text().splitlines())


def serve(folder: Path, store: Path, plan: Plan = Plan(), *more: str) -> Process:
    """Start the daemon on a store; its sockets are in the folder."""
    listen = f"ipc://{folder}/s"
    args = ["--store", f"sqlite:///{store}", "--listen", listen, "--log-format", "json"]
    return Process(folder, [*args, *more], plan)


class Peer:
    """Bare sockets to a daemon. What waits for it raises Died when the process ends."""

    def __init__(self, process: Process, producer: bytes, topics: Sequence[bytes] = ()) -> None:
        self.process, self.producer = process, producer
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        base = f"ipc://{process.folder}/s"
        self._query = self._socket(zmq.DEALER, base)
        self._push = self._socket(zmq.PUSH, f"{base}-insert")
        self._sub = self._socket(zmq.SUB, f"{base}-publish")
        for topic in topics:
            self._sub.subscribe(topic)
        self._poller = zmq.Poller()
        self._poller.register(self._query, zmq.POLLIN)
        self._poller.register(self._sub, zmq.POLLIN)
        self._poller.register(process.pidfd, zmq.POLLIN)
        self._asked = 0
        #: What the daemon published: topic, type, id, body.
        self.published: list[tuple[bytes, int, int, Any]] = []

    def _socket(self, kind: int, endpoint: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.reconnect_ivl = 10
        socket.sndtimeo = round(PATIENCE_S * 1000)
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        self._context.destroy(linger=0)

    def wait(self, timeout: float = PATIENCE_S) -> "dict[str, Any] | None":
        """Take what comes until it is a reply; None if none comes in time."""
        while True:
            ready = dict(self._poller.poll(timeout * 1000))
            if self._sub in ready:
                self._take_published()
            if self._query in ready:
                _, body = self._query.recv_multipart()
                reply = msgpack.unpackb(body)
                assert isinstance(reply, dict)
                return reply
            if self._sub not in ready:
                if ready:  # the process ended, and all that it had sent was read
                    raise Died
                return None

    def _take_published(self) -> None:
        topic, header, body = self._sub.recv_multipart()
        _, _, kind, _, _, _, _, id, _ = PUBLISHED.unpack(header)
        self.published.append((topic, kind, id, msgpack.unpackb(body)))

    def await_published(self, kinds: set[tuple[bytes, int]]) -> None:
        """Wait until these kinds of publications have come under these topics."""
        while kinds - {(topic, kind) for topic, kind, _, _ in self.published}:
            self._poller.modify(self._query, 0)
            ready = dict(self._poller.poll(PATIENCE_S * 1000))
            self._poller.modify(self._query, zmq.POLLIN)
            if self._sub in ready:
                self._take_published()
            elif ready:
                raise Died
            else:
                pytest.fail(f"nothing was published: {kinds}")

    def send(self, op: str, **fields: Any) -> None:
        """Ask, and go on before the reply."""
        self._asked += 1
        self._query.send_multipart([b"", msgpack.packb({"op": op, "id": self._asked, **fields})])

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask; the reply must be good."""
        self.send(op, **fields)
        reply = self.wait()
        if reply is None:
            pytest.fail(f"{op}: no reply; the log:\n{self.process.log.read_text()[-3000:]}")
        assert reply["ok"], reply
        assert reply["id"] == self._asked
        return reply

    def push(self, *frames: bytes) -> None:
        self._push.send_multipart(frames)

    def push_batch(self, n: int, elements: list[Any]) -> None:
        body = msgpack.packb(elements)
        self.push(
            BATCH.pack(b"ZI", 1, 0, self.producer, 0, n, len(elements), zlib.crc32(body)), body
        )

    def watermark(self) -> int:
        return int(self.ask("watermark", producer=self.producer)["last"])

    # ------------------------------------------------------------ a Reader, see `model`

    def items(
        self, wanted: Filter, since: int | None, until: int | None, start: int, page: int, most: int
    ) -> list[Row]:
        found: list[Row] = []
        before = None
        while len(found) < most:
            limit = min(page, most - len(found))
            fields = {"since": since, "until": until, "before": before}
            reply = self.ask("items", filter=wanted, start=start, limit=limit, **fields)
            found += [(id, ts, event) for id, ts, event in reply["events"]]
            start -= reply["skipped"]
            before = reply["next"]
            if before is None:
                break
        return found

    def replay(self, wanted: Filter, after: int, page: int) -> list[Row]:
        found: list[Row] = []
        after = max(after, self.ask("info")["floor"])
        while True:
            reply = self.ask("replay", filter=wanted, after=after, limit=page)
            found += [(id, ts, event) for id, ts, event in reply["events"]]
            after = reply["upto"]
            if after == reply["head"]:
                return found

    def count(self, wanted: Filter, since: int | None, until: int | None) -> int:
        return int(self.ask("count", filter=wanted, since=since, until=until)["count"])
