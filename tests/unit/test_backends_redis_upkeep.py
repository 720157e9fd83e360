"""Operators' jobs on a Redis store: other keys, checks."""

import json
import struct
from collections.abc import Callable, Iterator, Sequence

import pytest

from zstream import errors
from zstream.backends import redis_link, redis_sealing
from zstream.backends.base import Batch, Query
from zstream.backends.redis import RedisBackend
from zstream.keys import Value

from ..servers.redis import Redis


class QuickRedis(RedisBackend):
    LOCK_S = 2.0
    SEAL_ROWS = 8


@pytest.fixture
def backend(redis: Redis) -> Iterator[RedisBackend]:
    prefix = redis.prefix()
    backend = QuickRedis(redis.url(prefix))
    backend.open(["kind", "user"])
    yield backend
    backend.close()
    redis.drop(prefix)


def extract(bodies: Sequence[bytes], keys: Sequence[str]) -> Sequence[Sequence[Value]]:
    events = [json.loads(body) for body in bodies]
    columns: list[list[Value]] = [[event.get(key) for event in events] for key in keys]
    return [[tuple(v) if isinstance(v, list) else v for v in column] for column in columns]


def fill(backend: RedisBackend, count: int = 25) -> None:
    """Events whose bodies say what a third key would have."""
    first = backend.last_id() + 1
    events = [
        {
            "kind": f"k{id % 3}",
            "user": ["both", f"u{id}"] if id % 2 else f"u{id}",
            "repo": None if id % 5 == 0 else ["any", f"r{id % 5}"],
        }
        for id in range(first, first + count)
    ]
    bodies = [json.dumps(event).encode() for event in events]
    columns = extract(bodies, ["kind", "user"])
    ts = [100 - id for id in range(first, first + count)]
    backend.append(Batch(first, ts, bodies, columns, first))


def quietly(what: str, done: int, total: int) -> None:
    assert done <= total


def found(backend: RedisBackend, key: int, value: str) -> list[int]:
    query = Query(((key, (value,)),))
    assert sorted(backend.items(query).ids) == list(backend.replay(query, 0).ids)
    return list(backend.replay(query, 0).ids)


def orphans(redis: Redis, backend: RedisBackend) -> set[str]:
    """Pieces of runs that no list of runs tells of."""
    prefix = backend._address.prefix
    listed = {int(number) for number in redis.ask("HKEYS", f"{prefix}:runs")}
    names = [name.decode() for name in redis.ask("KEYS", f"{prefix}:run:*")]
    return {name for name in names if int(name.removeprefix(f"{prefix}:run:").split(":")[0]) not in
            listed}  # fmt: skip


def test_keys_are_added_dropped_and_moved(redis: Redis, backend: RedisBackend) -> None:
    fill(backend)
    fill(backend, 7)
    backend.trim(2)
    with pytest.raises(errors.StoreLocked):
        QuickRedis(backend.url).reindex(["user"], extract, quietly)
    before = backend.items(Query())
    backend.close()
    backend.reindex(["user", "repo"], extract, quietly)
    assert not orphans(redis, backend)
    head = backend.open(None)
    assert (head.keys, head.id, head.floor) == (("user", "repo"), 32, 2)
    after = backend.items(Query())
    assert (after.ids, after.ts, after.bodies) == (before.ids, before.ts, before.bodies)
    assert found(backend, 0, "both") == list(range(3, 33, 2))
    assert found(backend, 0, "u8") == [8]
    assert found(backend, 1, "any") == [id for id in range(3, 33) if id % 5]
    assert found(backend, 1, "r1") == [6, 11, 16, 21, 26, 31]
    fill(backend, 1)
    backend.close()
    assert backend.check(quietly) == []
    backend.reindex(["user"], extract, quietly)
    assert backend.open(["user"]).runs[-1][1] == 33
    assert found(backend, 0, "both") == list(range(3, 34, 2))


def test_a_change_that_was_cut_off_goes_on(redis: Redis, backend: RedisBackend) -> None:
    fill(backend)
    backend.close()
    seen: list[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.reindex(["kind", "repo"], extract, interrupt)
    assert backend.open(None).keys == ("kind", "user")  # nothing of it is seen
    fill(backend, 5)
    assert backend.settle(20)
    backend.close()
    begun: list[int] = []
    backend.reindex(["kind", "repo"], extract, lambda what, done, total: begun.append(done))
    assert next(done for done in begun if done) == seen[2] > 0
    assert backend.open(None).keys == ("kind", "repo")
    assert found(backend, 1, "any") == [id for id in range(1, 31) if id % 5]
    assert found(backend, 0, "k1") == list(range(1, 31, 3))
    backend.close()
    # Another one begins anew.
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        backend.reindex(["user"], extract, interrupt)
    backend.reindex(["repo"], extract, quietly)
    assert backend.check(quietly) == []
    assert not orphans(redis, backend)
    assert backend.open(None).keys == ("repo",)
    assert found(backend, 0, "any") == [id for id in range(1, 31) if id % 5]


@pytest.mark.parametrize("step", range(0, 40, 2))
def test_a_change_is_cut_off_at_any_step(
    redis: Redis, backend: RedisBackend, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    fill(backend)
    backend.close()
    monkeypatch.setattr(redis_sealing, "STEP_KEYS", 5)
    run = redis_link.Session.run
    left = [step]

    def interrupted(self: redis_link.Session, script: redis_link.Script, *args: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return run(self, script, *args)

    with monkeypatch.context() as patch:
        patch.setattr(redis_link.Session, "run", interrupted)
        try:
            backend.reindex(["kind", "repo"], extract, quietly)
        except KeyboardInterrupt:
            pass
        else:
            assert left[0] > 0, "more steps than are tried"
    keys = backend.open(None).keys
    assert found(backend, 0, "k1") == list(range(1, 26, 3))
    fill(backend, 3)
    if keys == ("kind", "user"):
        assert found(backend, 1, "both") == list(range(1, 29, 2))
        backend.close()
    else:
        assert found(backend, 1, "any") == [id for id in range(1, 26) if id % 5]
        assert backend.settle(20)
        backend.close()
        assert not orphans(redis, backend)
    assert backend.check(quietly) == []
    backend.reindex(["kind", "repo"], extract, quietly)
    assert not orphans(redis, backend)
    assert backend.open(None).keys == ("kind", "repo")
    assert found(backend, 1, "any") == [id for id in range(1, 29) if id % 5]


def test_the_same_keys_build_the_index_anew(redis: Redis, backend: RedisBackend) -> None:
    fill(backend)
    backend.close()
    prefix = backend._address.prefix
    redis.ask("DEL", f"{prefix}:run:1:1:0")
    assert backend.check(quietly) == []  # it has no values to compare the index with ...
    backend.reindex(None, extract, quietly)
    backend.open(None)
    assert found(backend, 1, "both") == list(range(1, 26, 2))


Harm = Callable[[Redis, str], object]
HARMS: list[tuple[Harm, str]] = [
    (lambda redis, p: redis.ask("RPOP", f"{p}:rows:0"), "of the events from 1 to 25 there are 24"),
    (lambda redis, p: redis.ask("RPUSH", f"{p}:rows:1", "x"), "above the last id"),
    (lambda redis, p: redis.ask("LPUSH", f"{p}:marks", "5000 9"), "marks of arrival"),
    (lambda redis, p: redis.ask("RPUSH", f"{p}:openings", "77 25"), "its last opening"),
    (lambda redis, p: redis.ask("HSET", p, "floor", "99"), "above the last id"),
    (lambda redis, p: redis.ask("HDEL", f"{p}:runs", "1"), "are indexed up to 0"),
    (lambda redis, p: redis.ask("DEL", f"{p}:run:1:ts:0"), "cannot be read"),
    (lambda redis, p: redis.ask("DEL", f"{p}:run:1:ids:0"), "cannot be read"),
    (lambda redis, p: redis.ask("HSET", f"{p}:run:1:0:0", "k1", struct.pack("<I", 99)), "b'k1'"),
    (lambda redis, p: redis.ask("HSET", f"{p}:run:1:0:0", "k1", b"123"), "b'k1'"),
    (lambda redis, p: redis.ask("HSET", f"{p}:run:1:0:0", "k7", struct.pack("<I", 0)), "several"),
    (lambda redis, p: redis.ask("DEL", f"{p}:run:1:1:0=both"), "b'both'"),
]


@pytest.mark.parametrize(("harm", "what"), HARMS, ids=[what for _, what in HARMS])
def test_damage_is_found(redis: Redis, backend: RedisBackend, harm: Harm, what: str) -> None:
    fill(backend, 25)
    for _ in range(20):
        fill(backend, 0)
    assert backend.settle(20)
    backend.close()
    assert backend.check(quietly) == []
    if "both" in what:  # a value of many rows has a string of its own
        backend.open(None)
        fill(backend, 60)
        assert backend.settle(20)
        backend.close()
        assert backend.check(quietly) == []
        harm = lambda redis, p: redis.ask("DEL", f"{p}:run:2:1:0=both")  # noqa: E731
    harm(redis, backend._address.prefix)
    assert what in " ".join(backend.check(quietly))


def test_where_no_store_is(redis: Redis, backend: RedisBackend) -> None:
    prefix = redis.prefix()
    for job in (
        lambda: QuickRedis(redis.url(prefix)).check(quietly),
        lambda: QuickRedis(redis.url(prefix)).reindex(["a"], extract, quietly),
    ):
        with pytest.raises(errors.ConfigError, match="no store"):
            job()
    assert redis.ask("KEYS", f"{prefix}*") == []
    for copy in (backend.backup, backend.restore):
        with pytest.raises(errors.ConfigError, match="its own tools"):
            copy("/nowhere", quietly)
