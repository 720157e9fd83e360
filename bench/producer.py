"""Producers in processes of their own, and how far the daemon has come with what they push.

A producer packs its messages before the clock starts and only sends while it runs, so that the
daemon is what is measured. It repeats a pool of events when it is asked for more than that.
"""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

import msgpack
import zmq
from common import events

POOL = 1_000_000
EVERY_S = 0.02
STUCK_S = 60.0

#: Makes the messages of a producer: each call gives the next ones to send.
Messages = Callable[[int], Iterator[Sequence[bytes]]]


def packed(count: int, seed: int = 1) -> list[bytes]:
    """``count`` events, each packed."""
    pack, found = msgpack.packb, list[bytes]()
    while len(found) < count:
        some = min(50_000, count - len(found))
        found += map(pack, events(some, seed * 1_000 + len(found) // 50_000))
    return found


def single(pool: Sequence[bytes]) -> Messages:
    """One event a message."""

    def messages(count: int) -> Iterator[Sequence[bytes]]:
        while count > 0:
            yield pool if count >= len(pool) else pool[:count]
            count -= len(pool)

    return messages


def arrays(pool: Sequence[bytes], size: int, times: Iterator[int]) -> Messages:
    """``size`` events a message, each with a time of its own."""

    def messages(count: int) -> Iterator[Sequence[bytes]]:
        for first in range(0, count, size):
            bodies = [pool[place % len(pool)] for place in range(first, min(first + size, count))]
            head = b"\xdc" + len(bodies).to_bytes(2, "big")
            stamps = (b"\x92\xcf" + next(times).to_bytes(8, "big") for _ in bodies)
            parts = [each for pair in zip(stamps, bodies, strict=True) for each in pair]
            yield (head + b"".join(parts),)

    return messages


def plain_arrays(pool: Sequence[bytes], size: int) -> list[bytes]:
    """The pool as messages of ``size`` events without a time, as a client's batches are."""
    return [
        b"\xdc" + len(some).to_bytes(2, "big") + b"".join(some)
        for some in (pool[first : first + size] for first in range(0, len(pool), size))
    ]


def spread(first: int, step: int, late_share: float = 0.0, late_us: int = 0) -> Iterator[int]:
    """Times in µs, ``step`` apart; ``late_share`` of them are up to ``late_us`` too early."""
    chance = random.Random(3)
    place = first
    while True:
        late = late_share and chance.random() < late_share
        yield place - chance.randrange(late_us) if late else place
        place += step


def serve(endpoint: str, make: Callable[..., Messages], given: Any, orders: Connection) -> None:
    """The life of a producer's process: pack, then send as often as it is told to."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.linger = 60_000
    socket.connect(endpoint)
    messages = make(*given)
    orders.send("packed")
    while (count := orders.recv()) is not None:
        began, send = time.perf_counter(), socket.send
        for some in messages(count):
            for message in some:
                send(message)
        orders.send(time.perf_counter() - began)
    socket.close()
    context.term()


class Producer:
    """A producer's process, as `pushing` gives it."""

    def __init__(self, orders: Connection) -> None:
        self._orders = orders

    def push(self, count: int) -> None:
        """Begin to send ``count`` events; returns at once."""
        self._orders.send(count)

    def pushed(self) -> float:
        """Wait until all is sent; the seconds that it took."""
        return float(self._orders.recv())

    def is_pushing(self) -> bool:
        """Whether it is at it still; once False, `pushed` gives the seconds."""
        return not self._orders.poll()


@contextmanager
def pushing(endpoint: str, make: Callable[..., Messages], *given: Any) -> Iterator[Producer]:
    """A producer in a process of its own, its messages packed.

    Args:
        endpoint: The daemon's insert endpoint.
        make: Called there with ``given``; makes the messages. It must be a module's function.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(endpoint, make, given, there), daemon=True)
    process.start()
    try:
        if here.recv() != "packed":
            raise RuntimeError("the producer did not start")
        yield Producer(here)
        here.send(None)
        process.join(60)
    finally:
        process.kill()
        process.join()


def single_pool(pool: int = POOL, seed: int = 1) -> Messages:
    """For `pushing`: one event a message, out of a pool of so many."""
    return single(packed(pool, seed))


class Seen(NamedTuple):
    """A look at the daemon: when it answered, and the last id committed then."""

    at: float
    head: int


class Ask:
    """A bare query socket: one request, one reply, a page at a time.

    Args:
        url: The daemon's query endpoint.
    """

    def __init__(self, url: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.rcvtimeo = int(STUCK_S * 1e3)
        self._socket.connect(url)

    def __call__(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask, and give the reply; an error of the daemon is raised."""
        self._socket.send(msgpack.packb({"op": op, **fields}))
        reply: dict[str, Any] = msgpack.unpackb(self._socket.recv())
        if not reply["ok"]:
            raise RuntimeError(f"{op}: {reply['error']}")
        return reply

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watch(Ask):
    """Asks a daemon how far it has committed, as any client may."""

    def look(self) -> Seen:
        """The last committed id, now."""
        head = self("ping")["head"]
        return Seen(time.perf_counter(), head)

    def follow(self, until: int, every: float = EVERY_S) -> list[Seen]:
        """Look again and again until an id is committed.

        Args:
            until: The id.
            every: Seconds between two looks.

        Returns:
            The looks that saw something new, the first one included.

        Raises:
            TimeoutError: Nothing was committed for a minute.
        """
        seen = [self.look()]
        while seen[-1].head < until:
            time.sleep(every)
            now = self.look()
            if now.head != seen[-1].head:
                seen.append(now)
            elif now.at - seen[-1].at > STUCK_S:
                raise TimeoutError(f"the daemon stands at {now.head:,}, {until:,} were sent")
        return seen


def longest_stop(seen: Sequence[Seen]) -> float:
    """The longest time between two looks that saw something new, in seconds."""
    return max((b.at - a.at for a, b in pairwise(seen)), default=0.0)


def times_at(seen: Sequence[Seen], heads: Sequence[int]) -> list[float]:
    """When each of these ids was committed, between two looks by proportion.

    Args:
        seen: The looks, in their order.
        heads: Ids in rising order, none beyond the last look.
    """
    found, place = list[float](), 0
    for head in heads:
        while place + 1 < len(seen) and seen[place + 1].head < head:
            place += 1
        a, b = seen[place], seen[min(place + 1, len(seen) - 1)]
        share = (head - a.head) / (b.head - a.head) if b.head > a.head else 0.0
        found.append(a.at + max(0.0, share) * (b.at - a.at))
    return found
