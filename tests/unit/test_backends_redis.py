"""What the Redis store adds to the contract: its URL, the server's settings, its lock, its keys."""

import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from zstream import errors
from zstream.backends import redis_link, redis_scripts, redis_server
from zstream.backends.base import Batch, Producer, Query, Registration
from zstream.backends.redis import RedisBackend
from zstream.backends.redis_link import address_of

from ..servers.redis import Redis, serving
from .redis_support import Small, add, batch, check, connection, keys_of, prefix_of, until


@pytest.fixture
def prefix(redis: Redis) -> Iterator[str]:
    name = redis.prefix()
    yield name
    redis.drop(name)


@pytest.fixture
def backend(redis: Redis, prefix: str) -> Iterator[Small]:
    backend = Small(redis.url(prefix))
    backend.open(["kind", "user"])
    yield backend
    backend.close()


@pytest.fixture
def own(missing: Callable[[str], NoReturn]) -> Iterator[Redis]:
    """A server for one test, which may set it as it likes."""
    with serving(missing) as server:
        yield server
        server.kill()  # one that begins its append-only file just now does not end otherwise


@contextmanager
def opened(redis: Redis, prefix: str = "zstream") -> Iterator[Small]:
    backend = Small(redis.url(prefix))
    backend.open(["kind", "user"])
    try:
        yield backend
    finally:
        backend.close()


# ---------------------------------------------------------------- the URL


def test_a_password_is_never_shown() -> None:
    backend = RedisBackend("redis://app%40x:s3c%2Fret%40@db.example:6380/3")
    assert backend.name == "redis://app%40x@db.example:6380/3"
    options = backend._address.options
    assert (options["username"], options["password"]) == ("app@x", "s3c/ret@")
    assert (options["host"], options["port"], options["db"]) == ("db.example", 6380, 3)
    for url in (
        "redis://app:s3cret@db.example:none/0",
        "redis://app:s3cret/db.example/0",
        "redis://:s3cret/x@db.example/0",
        "redis://app:s3c#ret@db.example/0",
        "redis://app:s3cret@db.example/a",
        "redis://app:s3cret@db.example/1/2",
        "redis://app:s3cret@db.example/-1",
        "redis://app:s3cret@db.example/0?color=s3cret",
        "redis://app:s3cret@db.example/0?prefix=",
        "redis://app:s3cret@[db.example/0",
        "redis:app:s3cret@db.example",
        "http://app:s3cret@db.example/0",
        "unix://app:s3cret@",
        "unix://app:s3cret@host/path",
        "unix://app:s3cret@/path?db=s3cret",
        "rediss://app:s3cret@db.example/0?ssl_ca=/nowhere",
    ):
        with pytest.raises(errors.ConfigError) as caught:
            address_of(url)
        assert "s3c" not in "".join(traceback.format_exception(caught.value)), url


@pytest.mark.parametrize(
    ("url", "name", "options"),
    [
        ("redis://", "redis://127.0.0.1:6379/0", {"host": "127.0.0.1", "port": 6379, "db": 0}),
        ("redis://[::1]:7/5", "redis://[::1]:7/5", {"host": "::1", "port": 7, "db": 5}),
        ("redis://h/", "redis://h:6379/0", {"db": 0}),
        ("redis://:pw@h", "redis://h:6379/0", {"password": "pw"}),
        ("rediss://u:pw@h/1", "rediss://u@h:6379/1", {"username": "u", "ssl_check_hostname": True}),
        ("unix:///a/s", "unix:///a/s", {"path": "/a/s", "db": 0}),
        ("unix://u:p@/a%20b?db=4", "unix://u@/a%20b?db=4", {"path": "/a b", "db": 4}),
        ("redis://h?prefix=a%3Ab", "redis://h:6379/0?prefix=a%3Ab", {}),
        ("unix:///s?db=2&prefix=é", "unix:///s?db=2&prefix=%C3%A9", {"db": 2}),
        ("redis://h?prefix=zstream", "redis://h:6379/0", {}),
    ],
)
def test_urls(url: str, name: str, options: dict[str, object]) -> None:
    address = address_of(url)
    assert address.name == name
    assert options.items() <= address.options.items()
    # What is shown names the same store again.
    assert address_of(name).prefix == address.prefix


def test_what_a_url_cannot_say() -> None:
    with pytest.raises(errors.ConfigError, match="unknown parameters: colour, db; known: prefix"):
        address_of("redis://h/0?db=1&colour=red")
    with pytest.raises(errors.ConfigError, match="known: prefix, db, ssl_ca"):
        address_of("unix:///s?database=1")
    for prefix in ("", "x" * 101, "é" * 51, "a%0Ab", "%00", "\udcff"):
        with pytest.raises(errors.ConfigError, match="prefix"):
            address_of(f"redis://h?prefix={prefix}")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(errors.BackendUnavailable, match="nothing"):
        RedisBackend(f"unix://app:s3cret@{tmp_path}/nothing").open(None)
    backend = RedisBackend(f"unix://{tmp_path}/nothing")
    with pytest.raises(errors.BackendUnavailable):
        backend.probe()
    assert backend.durability == "unsynced"
    with pytest.raises(errors.BackendUnavailable, match="not open"):
        backend.last_id()
    backend.interrupt()
    backend.close()


def test_a_wrong_password(own: Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    own.ask("ACL", "SETUSER", "app", "on", ">right@/", "~*", "+@all")
    for word, user in (("s3cret", "app"), ("s3cret", "nobody")):
        with pytest.raises(errors.BackendUnavailable, match="password") as caught:
            RedisBackend(f"unix://{user}:{word}@{own.socket}").open(None)
        assert word not in "".join(traceback.format_exception(caught.value))
    backend = Small(f"unix://app:right%40%2F@{own.socket}")
    backend.open(["kind", "user"])
    add(backend, 20)
    check(backend, 20)
    backend.close()
    assert "right" not in caplog.text
    assert "s3cret" not in caplog.text


# ---------------------------------------------------------------- prefixes


NASTY = ("a", "a:rows", "a:run", "{tag}", "b*", "b?", "[ab]", "é🙂", "per cent %d%s", "x" * 100)


def test_stores_of_other_prefixes_are_left_alone(own: Redis) -> None:
    stores = [Small(own.url(prefix)) for prefix in NASTY]
    for number, store in enumerate(stores):
        store.open(["kind", "user"])
        add(store, 20 + number)
        assert store.settle(20)
    for number, store in enumerate(stores):
        check(store, 20 + number)
        store.trim(20 + number)
        assert store.settle(20)
        check(store, 20 + number, 20 + number)
        store.close()
        assert store.check(lambda *_: None) == []


def test_databases_are_stores_of_their_own(own: Redis) -> None:
    with opened(own) as one:
        other = Small(f"unix://{own.socket}?db=7")
        assert other.open(["kind", "user"]).id == 0
        add(one, 3)
        add(other, 5)
        check(one, 3)
        check(other, 5)
        other.close()


@pytest.mark.parametrize(
    "prefix", ["a:marks", "a:rows:0", "a:run:1:0:0", "a:unfinished", "a:filters", "a:run:1:ts:0"]
)
def test_a_prefix_that_may_be_a_key_of_another_store(prefix: str) -> None:
    with pytest.raises(errors.ConfigError, match="prefix"):
        address_of(f"redis://h?prefix={prefix}")


# ---------------------------------------------------------------- the server


def server(**more: object) -> redis_server.Server:
    facts: dict[str, object] = {
        "id": "", "what": "redis 7.0.1", "aof": True, "fsync": "always", "lazy": False,
        "clustered": False, "policy": "noeviction", "maxmemory": 0, "memory": 0,
    }  # fmt: skip
    return redis_server.Server(**(facts | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "new"),
    [
        ("redis 6.0.16", False),
        ("redis 6.2.0", True),
        ("redis 5.0", False),
        ("redis 10.0.0", True),
        ("valkey 7.2.5", True),
        ("redis ?", True),
    ],
)
def test_an_old_server_is_refused(
    redis: Redis, prefix: str, what: str, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "look", lambda session: server(what=what))
    with link(redis, prefix) as session:
        if new:
            redis_server.check(session, "there")
        else:
            with pytest.raises(errors.StoreMismatch, match=f"there: .*6.2 or newer.*{what}"):
                redis_server.check(session, "there")


def test_a_cluster_is_refused(redis: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "look", lambda session: server(clustered=True))
    with pytest.raises(errors.StoreMismatch, match="part of a Redis Cluster"):
        Small(redis.url(prefix)).open(None)
    assert keys_of(redis, prefix) == set()


@contextmanager
def link(redis: Redis, prefix: str) -> Iterator[redis_link.Session]:
    session = redis_link.Session(address_of(redis.url(prefix)), 10)
    try:
        yield session
    finally:
        session.close()


def test_a_server_that_may_evict_is_refused(own: Redis) -> None:
    for policy in ("allkeys-lru", "allkeys-lfu", "allkeys-random"):
        own.ask("CONFIG", "SET", "maxmemory-policy", policy)
        with pytest.raises(errors.StoreMismatch, match=f"{policy}.*may evict.*noeviction"):
            RedisBackend(own.url("a")).open(None)
        assert keys_of(own, "a") == set()
    for policy in ("noeviction", "volatile-lru", "volatile-ttl"):
        own.ask("CONFIG", "SET", "maxmemory-policy", policy)
        with opened(own) as backend:
            add(backend)
            assert backend.stats().more["maxmemory_policy"] == policy


def test_no_key_expires(redis: Redis, backend: Small) -> None:
    named = Registration(b"n" * 16, "{}", 5)
    backend.append(Batch(1, [], [], [[], []], 1, [Producer(b"p" * 16, 1, 1, 0, b"", 5)], [named]))
    for _ in range(10):
        add(backend, 10)
    backend.trim(20)
    assert backend.settle(20)
    names = keys_of(redis, prefix_of(backend))
    assert len(names) > 10
    assert {redis.ask("TTL", name) for name in names} == {-1}


def test_a_policy_that_is_changed_while_it_is_open(own: Redis) -> None:
    with opened(own) as backend:
        add(backend, 5)
        own.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        own.ask("CLIENT", "KILL", "ID", connection(own, backend))
        for _ in range(3):
            with pytest.raises(errors.BackendUnavailable):
                backend.append(batch(6))
        with pytest.raises(errors.BackendUnavailable, match="may evict"):
            backend.append(batch(6))
        own.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        backend.append(batch(6))
        check(backend, 6)


def test_durability_is_what_the_server_promises_just_now(own: Redis) -> None:
    with opened(own) as backend:
        assert backend.durability == "unsynced"

        def after(name: str, value: str) -> object:
            own.ask("CONFIG", "SET", name, value)
            backend.probe()
            return backend.durability

        assert after("appendonly", "yes") == "second"
        assert after("appendfsync", "always") == "synced"
        assert after("no-appendfsync-on-rewrite", "yes") == "unsynced"
        assert after("no-appendfsync-on-rewrite", "no") == "synced"
        assert after("appendfsync", "no") == "unsynced"
        assert after("appendfsync", "everysec") == "second"
        assert after("appendonly", "no") == "unsynced"
        assert backend.stats().more["appendonly"] is False


@pytest.mark.parametrize(
    ("facts", "durability", "why"),
    [
        ({}, "synced", ""),
        ({"aof": False}, "unsynced", "appendonly is no"),
        ({"fsync": "everysec"}, "second", "appendfsync is everysec"),
        ({"fsync": "no"}, "unsynced", "appendfsync is no"),
        ({"fsync": ""}, "unsynced", "appendfsync is not told by the server"),
        ({"lazy": True}, "unsynced", "no-appendfsync-on-rewrite is yes"),
    ],
)
def test_what_keeps_a_server_from_promising(
    facts: dict[str, object], durability: str, why: str
) -> None:
    assert server(**facts).durability == durability
    assert server(**facts).why_not() == why


def test_a_server_that_does_not_tell_its_settings(own: Redis) -> None:
    own.ask("CONFIG", "SET", "appendonly", "yes")
    own.ask("ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all", "-config")
    backend = Small(f"unix://app:x@{own.socket}")
    backend.open(["kind", "user"])
    assert backend.durability == "unsynced"
    add(backend, 20)
    check(backend, 20)
    backend.probe()
    assert backend.durability == "unsynced"
    own.ask("ACL", "SETUSER", "app", "+config")
    backend.probe()
    assert backend.durability == "second"
    backend.close()


@pytest.mark.parametrize(
    "right", ["hset", "rpush", "ltrim", "rename", "getrange", "unlink", "evalsha", "client"]
)
def test_a_user_without_all_rights(own: Redis, right: str) -> None:
    """Nothing is begun that could not be ended; an operator can mend it."""
    own.ask("ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all", f"-{right}")
    backend = Small(f"unix://app:x@{own.socket}")
    with pytest.raises(errors.BackendUnavailable):
        backend.open(["kind", "user"])
    assert own.ask("EXISTS", "zstream") == 0
    own.ask("ACL", "SETUSER", "app", f"+{right}")
    backend.open(["kind", "user"])
    backend.append(batch(1, 8))
    assert backend.settle(20)
    check(backend, 8)
    assert own.ask("KEYS", "*trial*") == []
    backend.close()


def test_a_right_that_is_taken_away_from_the_keeper(own: Redis) -> None:
    own.ask("ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all")
    backend = Small(f"unix://app:x@{own.socket}")
    backend.open(["kind", "user"])
    own.ask("ACL", "SETUSER", "app", "-ltrim")
    backend.append(batch(1, 8))
    until(lambda: backend._opened().newest.trouble)
    assert "lacks a right" in str(backend._opened().newest.trouble)
    assert not backend.tidy()
    check(backend, 8)
    own.ask("ACL", "SETUSER", "app", "+ltrim")
    assert backend.settle(20)
    check(backend, 8)
    backend.close()


# ---------------------------------------------------------------- what else stands under a prefix


def test_keys_of_somebody_else(redis: Redis, prefix: str) -> None:
    redis.ask("SET", prefix, "important")
    with pytest.raises(errors.BackendCorrupt, match=r"something else.*another \?prefix="):
        Small(redis.url(prefix)).open(None)
    assert redis.ask("GET", prefix) == b"important"
    redis.ask("DEL", prefix)
    for fields in (
        ("name", "x"),
        ("schema", "1"),
        ("schema", "v2", "keys", "[]"),
        ("schema", "1", "keys", "a,b"),
        ("schema", "1", "keys", "7"),
    ):
        redis.ask("HSET", prefix, *fields)
        with pytest.raises(errors.BackendCorrupt, match=rf"{prefix} is no store.*\?prefix="):
            Small(redis.url(prefix)).open(None)
        assert redis.ask("HLEN", prefix) == len(fields) // 2
        assert keys_of(redis, prefix) == {prefix}
        redis.ask("DEL", prefix)


def test_a_newer_schema_is_refused(redis: Redis, backend: Small) -> None:
    backend.close()
    redis.ask("HSET", prefix_of(backend), "schema", 2)
    with pytest.raises(errors.StoreMismatch, match="newer zstream"):
        backend.open(None)


@pytest.mark.parametrize("field", ["last", "floor", "swept", "arrival", "node", "keys"])
def test_a_store_of_which_something_is_missing(redis: Redis, backend: Small, field: str) -> None:
    add(backend, 3)
    backend.close()
    redis.ask("HDEL", prefix_of(backend), field)
    with pytest.raises(errors.BackendCorrupt):
        backend.open(None)


@pytest.mark.parametrize("spoilt", ["DEL {}:newest", "LPOP {}:newest", "RPUSH {}:newest x",
                                    "HSET {}:runs 1 x", "RPUSH {}:openings x"])  # fmt: skip
def test_a_store_that_was_spoilt(redis: Redis, backend: Small, spoilt: str) -> None:
    add(backend, 3)
    add(backend, 2)
    backend.close()
    redis.ask(*spoilt.format(prefix_of(backend)).split())
    with pytest.raises(errors.BackendCorrupt):
        backend.open(None)


def test_a_key_is_exchanged_while_it_is_open(redis: Redis, backend: Small) -> None:
    add(backend, 3)
    redis.ask("SET", f"{prefix_of(backend)}:rows:0", "x")
    with pytest.raises(errors.BackendCorrupt, match="not as zstream left it"):
        backend.items(Query())


def test_keys_are_kept_in_their_order(redis: Redis, prefix: str) -> None:
    backend = Small(redis.url(prefix))
    keys = ["user", "é", 'a"b', "x.y"]
    assert backend.open(keys).keys == tuple(keys)
    backend.close()
    assert json.loads(redis.ask("HGET", prefix, "keys")) == keys
    assert backend.open(sorted(keys)).keys == tuple(keys)
    backend.close()
    with pytest.raises(errors.StoreMismatch, match="not user"):
        backend.open(["user"])


# ---------------------------------------------------------------- the lock


def test_a_lock_ends_with_its_process(redis: Redis, prefix: str) -> None:
    code = (
        "from zstream.backends.redis import RedisBackend; import sys;"
        "b = RedisBackend(sys.argv[1]); b.open(None);"
        "print(b.last_id(), flush=True); sys.stdin.read()"
    )
    backend = Small(redis.url(prefix))
    command = [sys.executable, "-c", code, redis.url(prefix)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"0\n"
        with pytest.raises(errors.StoreLocked, match=r"another daemon .*\(connection \d+ from "):
            backend.open(None)
        holder.kill()
    backend.LOCK_S = 10.0
    backend.open(None)
    backend.close()


def test_a_closed_store_has_no_lock(redis: Redis, backend: Small) -> None:
    assert redis.ask("HEXISTS", prefix_of(backend), "lock") == 1
    with pytest.raises(errors.StoreLocked):
        backend.open(None)
    backend.close()
    assert redis.ask("HEXISTS", prefix_of(backend), "lock") == 0


def test_a_lock_is_taken_again_over_a_new_connection(redis: Redis, backend: Small) -> None:
    add(backend, 3)
    before = connection(redis, backend)
    redis.ask("CLIENT", "KILL", "ID", before)
    with pytest.raises(errors.BackendUnavailable):
        backend.tidy()
    backend.append(batch(4))
    assert connection(redis, backend) != before
    with pytest.raises(errors.StoreLocked):
        Small(backend.url).open(None)
    check(backend, 4)


def test_a_lock_survives_a_server_that_is_restarted(own: Redis) -> None:
    with opened(own) as backend:
        add(backend, 3)
        own.restart()
        with pytest.raises(errors.BackendUnavailable):
            backend.append(batch(4))
        backend.append(batch(4))
        check(backend, 4)
        with pytest.raises(errors.StoreLocked):
            Small(backend.url).open(None)


def test_another_daemon_was_faster(redis: Redis, backend: Small) -> None:
    add(backend, 3)
    redis.ask("CLIENT", "KILL", "ID", connection(redis, backend))
    other = Small(backend.url)
    assert other.open(None).id == 3
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(4))
    for _ in range(2):
        with pytest.raises(errors.BackendConflict, match="another daemon"):
            backend.append(batch(4))
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        backend.items(Query())
    with pytest.raises(errors.BackendConflict):
        backend.trim(2)
    add(other, 2)
    backend.close()  # which takes nothing of the other's
    check(other, 5)
    with pytest.raises(errors.StoreLocked):
        Small(backend.url).open(None)
    other.close()


def test_somebody_moved_the_head(redis: Redis, backend: Small) -> None:
    add(backend, 3)
    redis.ask("HSET", prefix_of(backend), "last", 5)
    for _ in range(2):
        with pytest.raises(errors.BackendConflict, match="last id is 5, and not the one that was"):
            backend.append(batch(4))
    assert backend.last_id() == 5
    redis.ask("HSET", prefix_of(backend), "last", 3)
    backend.append(batch(4))
    check(backend, 4)


def test_an_operator_was_there_meanwhile(redis: Redis, backend: Small) -> None:
    add(backend, 3)
    redis.ask("CLIENT", "KILL", "ID", connection(redis, backend))
    assert Small(backend.url).check(lambda *_: None) == []
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(4))
    # Other keys may have been given to the store for all that this daemon knows.
    with pytest.raises(errors.BackendConflict, match="lock"):
        backend.append(batch(4))


def test_two_begin_at_once(redis: Redis, prefix: str) -> None:
    backend = Small(redis.url(prefix))
    backend.open(None)
    with link(redis, prefix) as session:
        assert session.run(redis_scripts.BEGIN, "what was there", "mine", 8, b"\x90") == 0
    backend.append(Batch(1, [5], [b"x"], [["a"], ["b"], [None]], 1))
    backend.close()
