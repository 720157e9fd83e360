"""Stores in a real Redis server, for the tests of what only that store has."""

import threading
from collections.abc import Callable

from zstream.backends.base import Batch, Query
from zstream.backends.redis import RedisBackend
from zstream.keys import Value

from ..servers.redis import Redis


class Small(RedisBackend):
    """Seals every few rows, and has little patience."""

    SEAL_ROWS = 8
    LOCK_S = 0.0
    READ_S = 5.0


def batch(first: int, count: int = 1, body: bytes | None = None) -> Batch:
    ids = range(first, first + count)
    bodies = [b"event %d" % id if body is None else body for id in ids]
    users: list[Value] = [("u", f"u{id}") if id % 3 else f"u{id}" for id in ids]
    return Batch(first, [1_000 + id for id in ids], bodies, [["a"] * count, users], first)


def add(backend: RedisBackend, count: int = 1) -> int:
    backend.append(batch(backend.last_id() + 1, count))
    return backend.last_id()


def check(backend: RedisBackend, last: int, floor: int = 0) -> None:
    """Every event from above the floor to the last is there once, whoever asks in whatever way."""
    ids = list(range(last, floor, -1))
    assert backend.last_id() == last
    page = backend.items(Query())
    assert (list(page.ids), page.head) == (ids, last)
    assert list(page.bodies) == [b"event %d" % id for id in ids]
    assert list(page.ts) == [1_000 + id for id in ids]
    lists = [id for id in ids if id % 3]
    assert list(backend.items(Query(((1, ("u",)),))).ids) == lists
    assert list(backend.replay(Query(((0, ("a",)), (1, ("u",)))), 0).ids) == lists[::-1]
    assert backend.count(Query(((1, ("u",)),))) == len(lists)
    assert backend.count(Query(((0, ("a",)),), since=0)) == len(ids)
    for id in ids[:1] + ids[-1:]:
        assert list(backend.items(Query(((1, (f"u{id}",)),))).ids) == [id]


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to come so far."""
    pause = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came true")


def prefix_of(backend: RedisBackend) -> str:
    return backend._address.prefix


def keys_of(redis: Redis, prefix: str) -> set[str]:
    """The names of all keys of one store."""
    escaped = "".join(f"\\{each}" if each in "*?[]\\^-" else each for each in prefix)
    found = redis.ask("KEYS", f"{escaped}:*") + redis.ask("KEYS", escaped)
    return {name.decode() for name in found}


def pieces(redis: Redis, prefix: str) -> set[int]:
    """The numbers of the runs of which there are pieces."""
    begin = f"{prefix}:run:"
    names = [name for name in keys_of(redis, prefix) if name.startswith(begin)]
    return {int(name.removeprefix(begin).split(":")[0]) for name in names}


def listed(redis: Redis, prefix: str, what: str = "runs") -> set[int]:
    """The numbers of the runs that a list tells of."""
    return {int(number) for number in redis.ask("HKEYS", f"{prefix}:{what}")}


def connection(redis: Redis, backend: RedisBackend) -> str:
    """The number of the connection that holds a store's lock."""
    held: bytes = redis.ask("HGET", prefix_of(backend), "lock")
    return held.split()[1].decode()
