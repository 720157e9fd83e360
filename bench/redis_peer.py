"""The index that people write with redis-py: a key an event, and a sorted set a value."""

import time
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Any

from common import KEYS
from servers import library

#: Events that are sent at once.
PIPELINED = 1_000
NEWEST = 20

#: An event's number, its values in the order of the keys, and its body.
Numbered = tuple[int, Sequence[object], bytes]


def store(client: Any, events: Iterable[Numbered]) -> None:
    """SET + 4 ZADD an event, in one pipeline."""
    pipe = client.pipeline(transaction=False)
    for number, values, body in events:
        pipe.set(f"e:{number}", body)
        pipe.zadd("all", {number: number})
        for key, value in zip(KEYS, values, strict=True):
            pipe.zadd(f"{key}:{value}", {number: number})
    pipe.execute()


class Index:
    """Such an index on a server.

    Args:
        address: The server's socket.
        pool: Values and bodies of events, which are stored in this order, again and again.
    """

    def __init__(self, address: str, pool: Sequence[tuple[Sequence[object], bytes]]) -> None:
        self.client = library("redis").Redis(unix_socket_path=address)
        self.stored = 0
        self._pool = pool

    def store(self, count: int) -> float:
        """Store so many events; the seconds that it took."""
        began, pool = time.perf_counter(), self._pool
        for first in range(self.stored, self.stored + count, PIPELINED):
            numbers = range(first, min(first + PIPELINED, self.stored + count))
            store(self.client, [(number, *pool[number % len(pool)]) for number in numbers])
        self.stored += count
        return time.perf_counter() - began

    def feed(self, key: str, values: Sequence[object]) -> list[bytes]:
        """The newest events of all these values: the newest of each, merged, and their bodies."""
        pipe = self.client.pipeline(transaction=False)
        for value in values:
            pipe.zrevrange(f"{key}:{value}", 0, NEWEST - 1)
        numbers = (int(number) for found in pipe.execute() for number in found)
        newest = nlargest(NEWEST, numbers)
        return list(self.client.mget([f"e:{number}" for number in newest])) if newest else []

    def count(self) -> int:
        """How many events it has."""
        return int(self.client.zcard("all"))

    def close(self) -> None:
        self.client.close()


def parser() -> str:
    """What redis-py reads answers with."""
    in_c = library("redis.utils").HIREDIS_AVAILABLE
    return "parser in C (hiredis)" if in_c else "parser in Python"


def used_memory(address: str) -> int:
    """What a server says that it uses, in bytes."""
    with library("redis").Redis(unix_socket_path=address) as client:
        return int(client.info("memory")["used_memory"])
