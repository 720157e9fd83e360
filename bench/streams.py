"""A stream of all events, written and read from Python: zstream, JetStream, Redis Streams.

Each is read as its library is used for speed: zstream by iterating a tail, JetStream by an ordered
consumer with a callback (its iterators are three to five times slower), Redis by XREAD of 1,000,
with the parser in C and without. Bodies are packed and unpacked by msgpack everywhere. Producers
of throughput send what they packed before the clock started, over a bare socket.
"""

import asyncio
import importlib
import importlib.util
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import msgpack
import zmq
from common import daemon, report
from producer import plain_arrays
from servers import Absent, Peer, library, nats, redis

from zstream import Client
from zstream.testing import Server

#: Events of one message of a producer, of one step of a reader, of one XREAD.
CHUNK = 1_000

#: Is shown each event; True ends the reading.
See = Callable[[dict[str, Any]], bool]


class Stream(Protocol):
    """One system, in a process that writes or reads it.

    Attributes:
        window: Events that may be on their way at once from a producer to a reader.
    """

    window: int

    def __init__(self, address: str) -> None: ...

    def read(self, from_oldest: bool, ready: Callable[[], object], see: See) -> None:
        """Read from the oldest event, or from now on; ``ready`` is called once it follows."""

    def insert(self, sample: Sequence[dict[str, Any]], rate: float) -> float:
        """Insert one event after the other at a rate, each with its time in the field ``at``.

        Returns:
            Events a second that it came to.
        """

    def chunks(self, bodies: Sequence[bytes]) -> list[Any]:
        """Make what `send` sends of packed events, `CHUNK` at a time."""

    def send(self, chunk: Any) -> None:
        """Send a chunk, waiting where the system makes a producer wait."""


def stamped(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "at": time.monotonic_ns()}


def paced(sample: Sequence[dict[str, Any]], rate: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events, each with the seconds to wait before it."""
    due = time.perf_counter()
    for event in sample:
        due += 1 / rate
        yield max(0.0, due - time.perf_counter()), event


class Zstream:
    """The address is that of queries."""

    window = 30_000

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: zmq.Socket[bytes] | None = None

    def read(self, from_oldest: bool, ready: Callable[[], object], see: See) -> None:
        after = 0 if from_oldest else None
        with Client(self._address, timeout=30) as client, client.tail(after=after) as tail:
            ready()
            for event in tail:
                if see(event):
                    return

    def insert(self, sample: Sequence[dict[str, Any]], rate: float) -> float:
        with Client(self._address, on_full="raise") as client:
            client.ping()
            began = time.perf_counter()
            for wait, event in paced(sample, rate):
                time.sleep(wait)
                client.insert(stamped(event))
            took = time.perf_counter() - began
            client.flush(30)
        return len(sample) / took

    def chunks(self, bodies: Sequence[bytes]) -> list[Any]:
        return plain_arrays(bodies, CHUNK)

    def send(self, chunk: Any) -> None:
        if self._socket is None:
            with Client(self._address) as client:
                endpoint = client.info()["endpoints"]["insert"]
            self._socket = zmq.Context.instance().socket(zmq.PUSH)
            self._socket.linger = 0
            self._socket.sndhwm = 16
            self._socket.connect(endpoint)
        self._socket.send(chunk)


class JetStream:
    """One subject for all, which suits JetStream best."""

    #: A server drops what is published beyond 10,000 messages that it has not stored yet.
    window = 8_000

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def read(self, from_oldest: bool, ready: Callable[[], object], see: See) -> None:
        asyncio.run(self._read(from_oldest, ready, see))

    async def _read(self, from_oldest: bool, ready: Callable[[], object], see: See) -> None:
        policy = importlib.import_module("nats.js.api").DeliverPolicy
        connection = await library("nats").connect(self._address)
        done, unpack = asyncio.Event(), msgpack.unpackb

        async def take(message: Any) -> None:
            if not done.is_set() and see(unpack(message.data)):
                done.set()

        await connection.jetstream().subscribe(
            "events", cb=take, ordered_consumer=True,
            deliver_policy=policy.ALL if from_oldest else policy.NEW,
        )  # fmt: skip
        ready()
        await done.wait()
        await connection.close()

    def insert(self, sample: Sequence[dict[str, Any]], rate: float) -> float:
        return asyncio.run(self._insert(sample, rate))

    async def _insert(self, sample: Sequence[dict[str, Any]], rate: float) -> float:
        connection = await library("nats").connect(self._address)
        context = connection.jetstream()
        began = time.perf_counter()
        for wait, event in paced(sample, rate):
            await asyncio.sleep(wait)
            await context.publish_async("events", msgpack.packb(stamped(event)), wait_stall=10)
        took = time.perf_counter() - began
        await context.publish_async_completed()
        await connection.close()
        return len(sample) / took

    def chunks(self, bodies: Sequence[bytes]) -> list[Any]:
        lines = [b"PUB events %d\r\n%b\r\n" % (len(body), body) for body in bodies]
        return [b"".join(lines[at : at + CHUNK]) for at in range(0, len(lines), CHUNK)]

    def send(self, chunk: Any) -> None:
        if self._socket is None:
            host, _, port = self._address.removeprefix("nats://").partition(":")
            self._socket = socket.create_connection((host, int(port)))
            self._socket.recv(65_536)
            self._socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        if select.select([self._socket], [], [], 0)[0] and b"PING" in self._socket.recv(65_536):
            self._socket.sendall(b"PONG\r\n")
        self._socket.sendall(chunk)


class Redis:
    """The address is the path of a unix socket, which is Redis's fastest."""

    window = 30_000
    parser_in_c = True

    def __init__(self, address: str) -> None:
        if not self.parser_in_c:
            sys.modules["hiredis"] = None  # type: ignore[assignment]  # as if not installed
        self._address = address
        self._socket: socket.socket | None = None
        self._replies = 0

    def _client(self) -> Any:
        return library("redis").Redis(unix_socket_path=self._address, protocol=2)

    def read(self, from_oldest: bool, ready: Callable[[], object], see: See) -> None:
        unpack = msgpack.unpackb
        with self._client() as client:
            newest = client.xrevrange("events", count=1)
            last = newest[0][0] if newest and not from_oldest else b"0"
            ready()
            while True:
                for _, entries in client.xread({"events": last}, count=CHUNK, block=1_000) or ():
                    for _, fields in entries:
                        if see(unpack(fields[b"b"])):
                            return
                    last = entries[-1][0]

    def insert(self, sample: Sequence[dict[str, Any]], rate: float) -> float:
        with self._client() as client:
            client.ping()
            began = time.perf_counter()
            for wait, event in paced(sample, rate):
                time.sleep(wait)
                client.xadd("events", {"b": msgpack.packb(stamped(event))})
            return len(sample) / (time.perf_counter() - began)

    def chunks(self, bodies: Sequence[bytes]) -> list[Any]:
        head = b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$1\r\nb\r\n"
        lines = [head + b"$%d\r\n%b\r\n" % (len(body), body) for body in bodies]
        return [b"".join(lines[at : at + CHUNK]) for at in range(0, len(lines), CHUNK)]

    def send(self, chunk: Any) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(self._address)
        self._socket.sendall(chunk)
        # While it takes these, the replies to the chunk before are read: each has two lines.
        while self._replies > 0:
            self._replies -= self._socket.recv(1 << 20).count(b"\n")
        self._replies += 2 * chunk.count(b"\r\nXADD\r\n")


class RedisInPython(Redis):
    """As `pip install redis` gives it."""

    parser_in_c = False


# ---------------------------------------------------------------- systems


class System(NamedTuple):
    """A running system.

    Attributes:
        who: Its name in the results.
        kind: How it is written and read.
        address: Where.
        setting: How it is set, in words.
        server: The daemon, if it is zstream.
    """

    who: str
    kind: type[Stream]
    address: str
    setting: str
    server: Server | None = None


@contextmanager
def zstream(store: str) -> Iterator[System]:
    """A daemon on a new store."""
    with daemon(store) as running:
        setting = "SQLite, synchronous=FULL" if store == "sqlite" else "in memory"
        yield System("zstream", Zstream, running.url, setting, running)


@contextmanager
def jetstream(sync: str | None) -> Iterator[System]:
    """A NATS server with a stream; ``sync`` as in `servers.nats`."""

    async def make(peer: Peer) -> None:
        connection = await library("nats").connect(peer.address)
        await connection.jetstream().add_stream(name="events", subjects=["events"])
        await connection.close()

    with nats(sync) as peer:
        asyncio.run(make(peer))
        who = f"JetStream, {'synced always' if sync else 'default sync'}"
        yield System(who, JetStream, peer.address, peer.setting)


@contextmanager
def redis_stream(fsync: str) -> Iterator[System]:
    """A Redis server; ``fsync`` as in `servers.redis`."""
    with redis(fsync) as peer:
        who = f"Redis, {'synced always' if fsync == 'always' else 'synced each second'}"
        yield System(who, Redis, peer.address, peer.setting)


#: Systems to start, by their names.
Starts = Mapping[str, Callable[[], AbstractContextManager[System]]]


def started(stack: ExitStack, bench: str, starts: Starts) -> list[System]:
    """Start systems by their names, and report those that are absent."""
    found = list[System]()
    for who, start in starts.items():
        try:
            found.append(stack.enter_context(start()))
        except Absent as absent:
            report(bench, who=who, absent=str(absent))
    return found


def kinds(system: System) -> dict[str, type[Stream]]:
    """The ways to read a system, by what is added to its name."""
    if system.kind is not Redis:
        return {"": system.kind}
    if importlib.util.find_spec("hiredis") is None:
        return {", parser in Python": RedisInPython}
    return {", parser in Python": RedisInPython, ", parser in C (hiredis)": Redis}
