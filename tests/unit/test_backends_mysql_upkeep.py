"""Operators' jobs on a MySQL store: other keys, checks."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from zstream import errors
from zstream.backends import mysql_link, mysql_reindex
from zstream.backends.base import Batch, Query
from zstream.backends.mysql import MySQLBackend
from zstream.keys import Value

from ..servers.mariadb import MariaDB


class QuickMySQL(MySQLBackend):
    LOCK_S = 0


@pytest.fixture
def backend(mariadb: MariaDB) -> Iterator[MySQLBackend]:
    name = mariadb.database()
    backend = QuickMySQL(mariadb.url(name))
    backend.open(["kind", "user"])
    yield backend
    backend.close()
    mariadb.drop(name)


def fill(backend: MySQLBackend, count: int = 25) -> None:
    """Events whose bodies say what a third key would have."""
    first = backend.last_id() + 1
    ids = range(first, first + count)
    kinds: list[Value] = [f"k{id % 3}" for id in ids]
    users: list[Value] = [("both", f"u{id}") if id % 2 else f"u{id}" for id in ids]
    bodies = [b"r%d" % (id % 5) for id in ids]
    backend.append(Batch(first, [100 - id for id in ids], bodies, [kinds, users], first))


def extract(bodies: Sequence[bytes], keys: Sequence[str]) -> Sequence[Sequence[Value]]:
    values: list[Value] = [("any", body.decode()) if body != b"r0" else None for body in bodies]
    return [values for _ in keys]


def quietly(what: str, done: int, total: int) -> None:
    assert done <= total


def found(backend: MySQLBackend, key: int, value: str) -> list[int]:
    query = Query(((key, (value,)),))
    assert sorted(backend.items(query).ids) == list(backend.replay(query, 0).ids)
    return list(backend.replay(query, 0).ids)


def test_keys_are_added_dropped_and_moved(
    backend: MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_reindex, "_SLICE_ROWS", 4)
    fill(backend)
    backend.trim(2)
    with pytest.raises(errors.StoreLocked):
        QuickMySQL(backend.url).reindex(["user"], extract, quietly)
    before = backend.items(Query())
    backend.close()
    backend.reindex(["user", "repo"], extract, quietly)
    head = backend.open(None)
    assert (head.keys, head.id, head.floor) == (("user", "repo"), 25, 2)
    after = backend.items(Query())
    assert (after.ids, after.ts, after.bodies) == (before.ids, before.ts, before.bodies)
    assert found(backend, 0, "both") == list(range(3, 26, 2))
    assert found(backend, 0, "u8") == [8]
    assert found(backend, 1, "any") == [id for id in range(3, 26) if id % 5]
    assert found(backend, 1, "r1") == [6, 11, 16, 21]
    backend.close()
    assert backend.check(quietly) == []
    backend.reindex(["user"], extract, quietly)
    assert backend.open(["user"]).runs[-1][1] == 25
    assert found(backend, 0, "both") == list(range(3, 26, 2))
    with closing(mysql_link.Session(backend._address, 10)) as db:
        columns = [row[0] for row in db.rows("SHOW COLUMNS FROM stream")]
        assert columns == [b"id", b"date", b"user", b"body"]
        tables = [row[0] for row in db.rows("SHOW TABLES")]
        assert not [name for name in tables if name.endswith((b"_old", b"_new"))]


def test_a_change_that_was_cut_off_goes_on(
    backend: MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_reindex, "_SLICE_ROWS", 4)
    fill(backend)
    backend.close()
    seen: list[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.reindex(["kind", "repo"], extract, interrupt)
    assert seen == [0, 4, 8, 12]
    backend.LOCK_S = 5  # type: ignore[misc]  # the server has yet to notice that the job is gone
    assert backend.open(None).keys == ("kind", "user")  # nothing of it is seen
    fill(backend, 5)
    backend.close()
    begun: list[int] = []
    backend.reindex(["kind", "repo"], extract, lambda what, done, total: begun.append(done))
    assert begun[0] == 12
    assert backend.open(None).keys == ("kind", "repo")
    assert found(backend, 1, "any") == [id for id in range(1, 31) if id % 5]
    assert found(backend, 0, "k1") == list(range(1, 31, 3))


@pytest.mark.parametrize("steps", range(11))
def test_a_change_is_cut_off_at_any_step(
    backend: MySQLBackend, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    fill(backend, 9)
    backend.close()
    run = mysql_link.Session.run
    left = [steps]

    def interrupted(self: mysql_link.Session, sql: str | bytes) -> int:
        # From the first statement that puts the new tables in their place.
        if left[0] < steps or "meta_new (" in str(sql):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return run(self, sql)

    monkeypatch.setattr(mysql_link.Session, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.reindex(["kind", "repo"], extract, quietly)
    monkeypatch.undo()
    backend.LOCK_S = 5  # type: ignore[misc]
    keys = backend.open(None).keys
    assert found(backend, 0, "k1") == [1, 4, 7]
    fill(backend, 3)
    if keys == ("kind", "user"):
        assert found(backend, 1, "both") == [1, 3, 5, 7, 9, 11]
    else:
        assert found(backend, 1, "any") == [1, 2, 3, 4, 6, 7, 8, 9]
    backend.close()
    assert backend.check(quietly) == []
    backend.reindex(["kind", "repo"], extract, quietly)
    assert backend.open(None).keys == ("kind", "repo")


def test_the_same_keys_build_the_indexes_anew(backend: MySQLBackend) -> None:
    fill(backend)
    backend.close()
    backend.reindex(None, extract, quietly)
    assert backend.check(quietly) == []
    backend.open(None)
    assert found(backend, 1, "both") == list(range(1, 26, 2))


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        ("DELETE FROM events WHERE id IN (3, 4)", "2 of the events 1 to 25 are missing"),
        ("UPDATE events SET body = 'longer' WHERE id = 3", "another size"),
        ("UPDATE lists SET ts = ts + 1 WHERE id = 3", "belong to no event"),
        ("UPDATE head SET lists = 0", "key 1 has lists"),
        ("UPDATE head SET last = 24", "1 events have an id above"),
        ("DELETE FROM runs", "no run"),
    ],
)
def test_damage_is_found(backend: MySQLBackend, harm: str, what: str) -> None:
    fill(backend)
    backend.close()
    assert backend.check(quietly) == []
    with closing(mysql_link.Session(backend._address, 10)) as db:
        db.run(harm)
    assert what in " ".join(backend.check(quietly))


def test_where_no_store_is(mariadb: MariaDB, backend: MySQLBackend) -> None:
    name = mariadb.database()
    for job in (
        lambda: QuickMySQL(mariadb.url(name)).check(quietly),
        lambda: QuickMySQL(mariadb.url(name)).reindex(["a"], extract, quietly),
    ):
        with pytest.raises(errors.ConfigError, match="no store"):
            job()
    assert mariadb.ask("SHOW TABLES", database=name) == ()
    mariadb.drop(name)
    for copy in (backend.backup, backend.restore):
        with pytest.raises(errors.ConfigError, match="its own tools"):
            copy("/nowhere", quietly)
