"""What only the store in PostgreSQL has: a server that dies, other sessions, partitions."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any
from unittest import mock
from urllib.parse import quote

import psycopg
import pytest

from zstream import Client, FlushError, errors
from zstream.backends import postgres_reindex
from zstream.backends.base import Batch, Producer, Query, Registration
from zstream.backends.postgres import PostgresBackend
from zstream.backends.postgres_probe import durability_of
from zstream.keys import Filter
from zstream.testing import server

from ..servers.postgres import Postgres


class Small(PostgresBackend):
    """Small partitions, and little patience."""

    FIRST_ROWS = 10
    SEAL_ROWS = 10
    LOCK_TIMEOUT_S = 0.1
    CHANGE_TIMEOUT_S = 0.05
    RETRY_S = 0.02
    OPEN_TIMEOUT_S = 0.5


@pytest.fixture
def schema(postgres: Postgres) -> Iterator[str]:
    name = postgres.schema()
    yield name
    postgres.drop(name)


@pytest.fixture
def backend(postgres: Postgres, schema: str) -> Iterator[Small]:
    backend = Small(postgres.url(schema))
    backend.open(["kind", "user"])
    yield backend
    backend.close()


@pytest.fixture
def person(postgres: Postgres, schema: str) -> "Iterator[psycopg.Connection[tuple[Any, ...]]]":
    """Somebody with psql, in the store's schema."""
    with postgres.connect() as db:
        db.execute(f'SET search_path = "{schema}"')
        yield db


def batch(first: int, count: int = 1, body: bytes | None = None) -> Batch:
    ids = range(first, first + count)
    bodies = [b"event %d" % id if body is None else body for id in ids]
    columns = [["a"] * count, [("u", f"u{id}") if id % 3 else f"u{id}" for id in ids]]
    return Batch(first, [1_000 + id for id in ids], bodies, columns, first)


def add(backend: PostgresBackend, count: int = 1) -> int:
    backend.append(batch(backend.last_id() + 1, count))
    return backend.last_id()


def check(backend: PostgresBackend, last: int, floor: int = 0) -> None:
    """Every event from above the floor to the last is there once, whoever asks in whatever way."""
    ids = list(range(last, floor, -1))
    assert backend.last_id() == last
    page = backend.items(Query())
    assert (list(page.ids), page.head) == (ids, last)
    assert list(page.bodies) == [b"event %d" % id for id in ids]
    lists = [id for id in ids if id % 3]
    assert list(backend.items(Query(((1, ("u",)),))).ids) == lists
    assert list(backend.replay(Query(((0, ("a",)), (1, ("u",)))), 0).ids) == lists[::-1]
    assert backend.count(Query(((1, ("u",)),))) == len(lists)
    assert backend.count(Query(((0, ("a",)),), since=0)) == len(ids)
    for id in (ids[0], ids[-1]):
        assert list(backend.items(Query(((1, (f"u{id}",)),))).ids) == [id]


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to come so far."""
    pause = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came true")


# ---------------------------------------------------------------- what a person sees


def test_a_person_can_read_it(postgres: Postgres, schema: str) -> None:
    backend = PostgresBackend(postgres.url(schema))
    keys = ["id", "User", "user", "x.y", 'a"b', "50%", "k" * 80, "k" * 70, "body"]
    backend.open(keys)
    ts = 1_420_070_400_000_001
    columns: list[list[Any]] = [[f"v{n}"] for n in range(len(keys) - 1)]
    backend.append(Batch(1, [ts], [b"packed"], [*columns, [("l", "m")]], 1))
    with postgres.connect() as db:
        cursor = db.execute(f'SELECT * FROM "{schema}".stream')  # type: ignore[call-overload]
        assert [column.name for column in cursor.description] == [
            "id", "ts", "date", "id 2", "User", "user", "x.y", 'a"b', "50%", "k" * 63,
            "k" * 59 + " 2", "body 2", "lists", "body",
        ]  # fmt: skip
        row = cursor.fetchone()
        assert row[:2] == (1, ts)
        assert row[2].isoformat() == "2015-01-01T00:00:00.000001+00:00"
        assert row[3:] == (*(f"v{n}" for n in range(8)), None, {"8": ["l", "m"]}, b"packed")
    backend.trim(1)
    assert postgres.ask(f'SELECT count(*) FROM "{schema}".stream') == [(0,)]
    backend.close()


def test_two_stores_in_one_database(postgres: Postgres, schema: str, backend: Small) -> None:
    other = Small(postgres.url(schema + "x"))
    other.open(["kind", "user"])
    add(other, 3)
    add(backend, 15)
    check(other, 3)
    check(backend, 15)
    other.close()
    postgres.drop(schema + "x")


def test_rows_that_were_trimmed_are_freed(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    for _ in range(5):
        add(backend, 9)
    assert backend.settle(10)
    backend.SWEEP_ROWS = 2  # type: ignore[misc]
    assert backend.trim(25) == 25
    check(backend, 45, 25)
    person.execute("BEGIN")
    person.execute("SELECT count(*) FROM stream")
    assert not backend.tidy()  # somebody reads, and may read on
    person.execute("ROLLBACK")
    until(lambda: not backend.tidy() and backend._sweeper.swept == 25)
    rows = person.execute("SELECT count(*), min(id) FROM events").fetchone()
    assert rows == (20, 26)
    tables = person.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema"
        " AND tablename ~ '^(events|lists)_' ORDER BY 1"
    ).fetchall()
    assert tables[0] == ("events_21",)
    assert person.execute("SELECT min(id) FROM lists_21").fetchone() == (26,)
    check(backend, 45, 25)
    backend.close()
    backend.open(None)
    check(backend, 45, 25)
    assert backend.trim(45) == 20
    until(lambda: not backend.tidy() and backend._sweeper.swept == 45)
    assert person.execute("SELECT count(*) FROM events").fetchone() == (0,)
    backend.close()
    assert backend.open(None).id == 45
    add(backend, 7)
    check(backend, 52, 45)


def test_readers_beside_a_writer_that_trims(backend: Small) -> None:
    """What is above the floor is there, what is below is not, at whatever moment they look."""
    done, wrong = threading.Event(), list[BaseException]()
    backend.BUDGET = 100  # type: ignore[misc]

    def floor() -> int:
        return backend._rows.snapshot.view.floor

    def read(filter: Filter) -> None:
        try:
            while not done.is_set():
                query, ids, before = Query(filter, limit=20), list[int](), floor()
                while True:
                    page = backend.items(query)
                    assert list(page.bodies) == [b"event %d" % id for id in page.ids]
                    ids += page.ids
                    head = query.head or page.head
                    if page.next is None:
                        break
                    query = replace(query, before=page.next, head=head)
                lowest = ids[-1] if ids else head + 1
                assert ids == list(range(head, lowest - 1, -1))
                assert before < lowest <= floor() + 1 or head <= floor()
        except BaseException as error:  # noqa: BLE001  # raised again below
            wrong.append(error)

    filters: list[Filter] = [(), ((0, ("a", "b")),), ((0, ("a", *(f"b{n}" for n in range(30)))),)]
    threads = [threading.Thread(target=read, args=(filter,)) for filter in filters]
    for thread in threads:
        thread.start()
    for n in range(60):
        last = add(backend, 1 + n % 13)
        if n % 5 == 4:
            backend.trim(last - 10 * (n % 7))
        backend.tidy()
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert backend.settle(10)
    backend.close()
    assert backend.check(quiet) == []


# ---------------------------------------------------------------- a person's open transaction


def test_who_only_reads_is_in_nobodys_way(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    add(backend, 5)
    person.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert person.execute("SELECT count(*) FROM stream").fetchone() == (5,)
    for _ in range(5):
        add(backend, 9)
    assert backend.settle(10)
    assert backend.stats().more["rows_in_memory"] == 0
    check(backend, 50)
    assert person.execute("SELECT count(*) FROM stream").fetchone() == (5,)


def test_who_writes_delays_the_index_and_nothing_else(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    add(backend, 8)
    person.execute("BEGIN")
    person.execute("UPDATE events SET ts = ts WHERE id = 3")
    for _ in range(5):
        add(backend, 9)
    until(lambda: "waiting" in backend.stats().more)
    assert not backend.settle(0.1)
    check(backend, 53)
    person.execute("ROLLBACK")
    assert backend.settle(10)
    check(backend, 53)


def test_appends_are_held_back_while_too_much_waits_for_its_index(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    backend.CHANGE_TIMEOUT_S = 600.0  # type: ignore[misc]
    backend.HOLD_BACK_S = 60.0  # type: ignore[misc]
    backend.MOST_WAITING = 1  # type: ignore[misc]
    backend.close()
    backend.open(None)
    add(backend, 9)
    person.execute("BEGIN")
    person.execute("UPDATE events SET ts = ts WHERE id = 3")
    add(backend, 11)
    held = threading.Thread(target=add, args=(backend,))
    held.start()
    held.join(0.2)
    assert held.is_alive()
    check(backend, 20)
    person.execute("ROLLBACK")
    held.join(20)
    assert not held.is_alive()
    check(backend, 21)


def test_who_locks_the_table_stops_it_when_the_room_is_used_up(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    add(backend, 3)
    assert backend.settle(10)
    person.execute("BEGIN")
    person.execute("LOCK TABLE ONLY events IN SHARE UPDATE EXCLUSIVE MODE")  # as ANALYZE does
    while backend.last_id() < 20:
        add(backend)
    with pytest.raises(errors.BackendUnavailable, match="locked"):
        add(backend)
    check(backend, 20)
    person.execute("ROLLBACK")
    assert add(backend, 25) == 45
    assert backend.settle(10)
    check(backend, 45)


def test_an_append_does_not_wait_for_ever(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    add(backend, 3)
    person.execute("BEGIN")
    person.execute("UPDATE head SET floor = floor")
    with pytest.raises(errors.BackendUnavailable, match="locked"):
        add(backend)
    assert backend.last_id() == 3
    person.execute("ROLLBACK")
    add(backend)
    check(backend, 4)


# ---------------------------------------------------------------- connections that break


def ended(person: "psycopg.Connection[tuple[Any, ...]]") -> int:
    """End all sessions of zstream, as a fail-over or a restart would."""
    rows = person.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'zstreamd'"
    ).fetchall()
    return len(rows)


def test_lost_connections_are_made_again(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    add(backend, 12)
    check(backend, 12)
    assert ended(person) == 3
    check(backend, 12)
    with pytest.raises(errors.BackendUnavailable):
        add(backend)
    add(backend, 20)
    assert backend.settle(10)
    check(backend, 32)
    with pytest.raises(errors.StoreLocked):
        Small(backend.url).open(None)


def test_another_daemon_that_came_meanwhile_is_noticed(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    add(backend, 3)
    assert backend.settle(10)
    ended(person)
    other = Small(backend.url)
    assert other.open(None).id == 3
    with pytest.raises(errors.BackendUnavailable):
        add(backend)
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        add(backend)
    add(other)
    check(other, 4)
    other.close()


def test_a_writer_without_the_lock_is_noticed(backend: Small, person: Any) -> None:
    add(backend, 3)
    person.execute("UPDATE head SET last = 4")
    for count in (1, 7):  # a statement, a copy
        with pytest.raises(errors.BackendConflict, match="begins with 4, but the last id is 4"):
            backend.append(batch(4, count))
    assert person.execute("SELECT count(*), max(id) FROM events").fetchone() == (3, 3)


@pytest.mark.parametrize("count", [2, 12])
def test_a_batch_whose_outcome_is_unknown(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]", count: int
) -> None:
    """It is stored, but the answer is lost: ``last_id`` tells, and what is read has it."""
    add(backend, 5)
    writer = backend._writer
    assert writer is not None
    store = writer.append

    def lose(*args: Any) -> int:
        store(*args)
        ended(person)
        return int(writer.db.execute("SELECT 1").rowcount)

    writer.append = lose  # type: ignore[method-assign]
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(6, count))
    writer.append = store  # type: ignore[method-assign]
    check(backend, 5 + count)
    add(backend, 10)
    assert backend.settle(10)
    check(backend, 15 + count)


@pytest.mark.parametrize("sealing", [False, True])
def test_the_server_is_killed(
    postgres: Postgres, schema: str, backend: Small, sealing: bool
) -> None:
    """Again and again in the midst of appends; nothing is lost, and nothing is there twice."""
    backend.CHANGE_TIMEOUT_S = 5.0  # type: ignore[misc]
    backend.close()
    backend.open(None)
    stop = threading.Event()

    def flood() -> None:
        first, tries = backend.last_id() + 1, 0
        while not stop.is_set() or 0 < tries < 10_000:
            try:
                tries += 1
                if backend.last_id() < first:  # the last try may have stored it
                    backend.append(batch(first, 7))
                first, tries = first + 7, 0
            except errors.BackendUnavailable:
                pause.wait(0.005)

    def wait_for_a_seal() -> bool:
        return bool(postgres.ask(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event <> ''"
        ))  # fmt: skip

    pause = threading.Event()
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(3):
            before = backend._rows.snapshot.view.head
            until(lambda before=before: backend._rows.snapshot.view.head > before + 30)  # type: ignore[misc]
            with closing(postgres.connect()) as db:
                if sealing:
                    table = f"events_{backend._rows.snapshot.parts[-1].first}"
                    db.execute("BEGIN")
                    db.execute(f'LOCK TABLE "{schema}".{table} IN ROW EXCLUSIVE MODE')  # type: ignore[call-overload]
                    until(wait_for_a_seal)
                postgres.kill()
            postgres.start()
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    last = backend.last_id()
    assert last % 7 == 0
    assert backend.settle(20)
    assert replayed(backend) == list(range(1, last + 1))
    assert backend.count(Query(((0, ("a",)),))) == last
    backend.close()
    assert backend.open(None).id == last
    assert backend.count(Query(((0, ("a",)),), since=0)) == last
    assert backend.count(Query(((1, ("u",)),))) == sum(1 for id in range(1, last + 1) if id % 3)


def replayed(backend: PostgresBackend) -> list[int]:
    ids: list[int] = []
    after, head = 0, 1
    while after < head:
        page = backend.replay(Query(), after)
        assert list(page.bodies) == [b"event %d" % id for id in page.ids]
        ids += page.ids
        after, head = page.upto, page.head
    return ids


def test_closing_does_not_wait_for_a_seal(
    backend: Small, person: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    backend.CHANGE_TIMEOUT_S = 600.0  # type: ignore[misc]
    backend.close()
    backend.open(None)
    add(backend, 5)
    person.execute("BEGIN")
    person.execute("UPDATE events SET ts = ts WHERE id = 3")
    add(backend, 9)
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
    until(lambda: person.execute(waiting).fetchall())
    backend.close()
    person.execute("ROLLBACK")
    backend.open(None)
    check(backend, 14)


# ---------------------------------------------------------------- opening


def test_a_foreign_schema_is_left_alone(postgres: Postgres, schema: str) -> None:
    postgres.ask(f'CREATE SCHEMA "{schema}"')
    postgres.ask(f'CREATE TABLE "{schema}".events (important text)')
    with pytest.raises(errors.BackendCorrupt, match=r"\?schema=name"):
        Small(postgres.url(schema)).open(None)
    postgres.ask(f'CREATE TABLE "{schema}".meta (important text)')
    with pytest.raises(errors.BackendCorrupt, match=r"\?schema=name"):
        Small(postgres.url(schema)).open(None)
    found = f"SELECT count(*) FROM pg_class WHERE relnamespace = '\"{schema}\"'::regnamespace"
    assert postgres.ask(found + " AND relkind = 'r'") == [(2,)]


def test_a_store_of_an_older_version_gets_the_table_of_filters(backend: Small, person: Any) -> None:
    add(backend)
    backend.close()
    person.execute("DROP TABLE filters")
    backend.reindex(["kind"], lambda bodies, keys: [["a"] * len(bodies)], quiet)
    assert backend.open(None).filters == {}
    backend.close()
    person.execute("DROP TABLE filters")
    assert backend.open(None).filters == {}
    named = Registration(b"n" * 16, "{}", 5)
    backend.append(replace(batch(2), columns=[["a"]], filters=[named]))
    backend.close()
    assert backend.open(None).filters == {named.name: named}


def test_a_newer_schema_is_refused(backend: Small, person: Any) -> None:
    backend.close()
    person.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    with pytest.raises(errors.StoreMismatch, match="newer zstream"):
        backend.open(None)


def test_a_database_that_cannot_hold_every_text(postgres: Postgres) -> None:
    postgres.ask("CREATE DATABASE narrow ENCODING 'SQL_ASCII' TEMPLATE template0")
    url = postgres.url("any").replace("/postgres?", "/narrow?")
    with pytest.raises(errors.StoreMismatch, match="UTF8"):
        Small(url).open(None)
    postgres.ask("DROP DATABASE narrow WITH (FORCE)")


def test_what_a_server_is_set_to(postgres: Postgres, schema: str) -> None:
    """The servers of these tests run without fsync; a session's own settings are put right."""
    odd = "-c synchronous_commit=off -c standard_conforming_strings=off -c bytea_output=escape"
    backend = Small(f"{postgres.url(schema)}&options={quote(odd)}")
    backend.open(["kind", "user"])
    producer = Producer(bytes(range(16)), 1, 2, 3, b"\\\0'", 4)
    backend.append(replace(batch(1), producers=[producer]))
    assert backend.stats().more["fsync"] == "off"
    assert backend._writer is not None
    shown = backend._writer.db.execute("SHOW synchronous_commit").fetchone()
    assert shown == ("on",)
    check(backend, 1)
    backend.close()
    assert backend.open(None).producers == {producer.id: producer}
    backend.close()


def test_what_the_server_is_set_to_just_now(postgres: Postgres, backend: Small) -> None:
    assert backend.durability == "unsynced"
    try:
        for name in ("fsync", "full_page_writes"):
            for value, durability in (("on", "synced"), ("off", "unsynced"), ("on", "synced")):
                postgres.ask(f"ALTER SYSTEM SET {name} = {value}")
                postgres.ask("SELECT pg_reload_conf()")

                def is_told(durability: str = durability) -> bool:
                    backend.probe()
                    return backend.durability == durability

                until(is_told)
        backend.interrupt()
        add(backend)
        assert backend.durability == "synced"
    finally:
        postgres.ask("ALTER SYSTEM RESET ALL")
        postgres.ask("SELECT pg_reload_conf()")
    assert durability_of({"synchronous_commit": "off"}) == "second"


def test_a_server_that_is_read_only_is_read(
    postgres: Postgres, schema: str, backend: Small
) -> None:
    add(backend, 5)
    try:
        postgres.ask("ALTER SYSTEM SET default_transaction_read_only = on")
        postgres.ask("SELECT pg_reload_conf()")

        def is_refused() -> bool:
            try:
                add(backend)
            except errors.BackendUnavailable as error:
                return "read-only" in str(error)
            return False

        until(is_refused)
        backend.probe()
        last = backend.last_id()
        check(backend, last)
    finally:
        postgres.ask("ALTER SYSTEM RESET ALL")
        postgres.ask("SELECT pg_reload_conf()")

    def is_taken() -> bool:
        try:
            return add(backend) == last + 1
        except errors.BackendUnavailable:
            return False

    until(is_taken)
    check(backend, last + 1)


def test_rows_that_somebody_deleted(backend: Small, person: Any) -> None:
    add(backend, 15)
    assert backend.settle(10)
    person.execute("DELETE FROM events WHERE id = 12")
    with pytest.raises(errors.BackendCorrupt, match="15 rows"):
        backend.items(Query())
    person.execute("DROP TABLE events CASCADE")
    with pytest.raises(errors.BackendCorrupt, match="as zstream left it"):
        backend.items(Query())
    with pytest.raises(errors.BackendCorrupt, match="as zstream left it"):
        add(backend)


def test_rows_of_every_size(backend: Small) -> None:
    producer = Producer(b"p" * 16, 1, 2, 3, b"\xff\x00", 4)
    bodies = [b"", b"\0", bytes(range(256)) * 4_096, b"x" * 4_095, b"x" * 4_096]
    columns = [["\\N", "\t\n", "", "é" * 127, None], [None] * 5]
    backend.append(Batch(1, [5] * 5, bodies, columns, 1, [producer, producer._replace(last=9)]))
    found = [body for after in range(5) for body in backend.replay(Query(limit=1), after).bodies]
    assert found == bodies
    backend.close()
    head = backend.open(None)
    assert head.producers[producer.id].last == 9
    assert list(backend.items(Query(((0, ("\\N",)),))).ids) == [1]
    assert list(backend.items(Query(((0, ("",)),))).ids) == [3]


# ---------------------------------------------------------------- an operator


def quiet(what: str, done: int, total: int) -> None:
    """Nobody is told how far it is."""


def extract(bodies: object, keys: object) -> list[list[Any]]:
    raise AssertionError("no key is new")


def test_nobody_checks_a_store_that_is_in_use_or_not_there(
    postgres: Postgres, backend: Small
) -> None:
    with pytest.raises(errors.StoreLocked):
        Small(backend.url).check(quiet)
    with pytest.raises(errors.StoreLocked):
        Small(backend.url).reindex(None, extract, quiet)
    with pytest.raises(errors.ConfigError, match="no store"):
        Small(postgres.url("nowhere")).check(quiet)
    backend.close()
    with pytest.raises(errors.ConfigError, match="its own tools"):
        backend.backup("/nowhere", quiet)


def test_what_is_wrong_is_found(backend: Small, person: Any) -> None:
    for _ in range(5):
        add(backend, 9)
    backend.trim(14)
    assert backend.settle(10)
    backend.close()
    said = backend.check(quiet)
    assert said == []
    sums = """UPDATE partitions SET sums = '{"0": {"a": 11}}' WHERE first = 31"""
    for harm, what in (
        ("DELETE FROM lists_21 WHERE id = 26 AND v = 'u'", "lists_21 does not fit"),
        ("UPDATE partitions SET max_ts = max_ts - 1 WHERE first = 31", "outside the times"),
        (sums, "sums of the key 0"),
        ("DELETE FROM events WHERE id = 27", "of the events from 21 to 30 there are 9, not 10"),
        ("UPDATE events SET id = 46 WHERE id = 45", "from 41 to 45 there are 4, not 5"),
        ("UPDATE head SET last = last - 2", "above the last id, 43"),
        ("UPDATE partitions SET last = 29 WHERE first = 21", "no partition for the ids from 30"),
        ("INSERT INTO runs (run, began_after) VALUES (1, 99)", "runs of the store"),
        ("INSERT INTO runs (run, began_after) VALUES (1, 99)", "listed twice"),
        ("INSERT INTO marks VALUES (99999999, 99)", "marks of arrival"),
        ("DELETE FROM head", "one row"),
    ):
        assert what not in "; ".join(said)
        person.execute(harm)
        said = backend.check(quiet)
        assert what in "; ".join(said)


def test_an_index_is_made_anew(backend: Small, person: Any) -> None:
    for _ in range(5):
        add(backend, 9)
    assert backend.settle(10)
    backend.trim(14)
    assert backend.settle(10)
    backend.close()
    person.execute("DELETE FROM lists_21")
    person.execute("DROP INDEX events_31_k0")
    assert len(backend.check(quiet)) == 1
    steps: list[tuple[int, int]] = []
    backend.reindex(
        ["user", "kind"], extract, lambda what, done, total: steps.append((done, total))
    )
    assert steps[-1] == (4, 4)
    assert backend.check(quiet) == []
    assert person.execute("SELECT count(*) FROM pg_class WHERE relname = 'events_31_k0'").fetchone()
    backend.open(None)
    check(backend, 45, 14)


def test_other_keys(postgres: Postgres, schema: str, backend: Small, person: Any) -> None:
    """They come from the stored events, also when the first try and a second one are ended."""

    def values(bodies: Sequence[bytes], keys: Sequence[str]) -> list[list[Any]]:
        ids = [int(body.split()[1]) for body in bodies]
        known: dict[str, list[Any]] = {
            "user": [("u", f"u{id}") if id % 3 else f"u{id}" for id in ids],
            "kind": ["a"] * len(ids),
            "n": [str(id) for id in ids],
        }
        return [known[key] for key in keys]

    def stop(what: str, done: int, total: int) -> None:
        seen.append((done, total))
        if done > 10:
            raise KeyboardInterrupt

    producer = Producer(b"p" * 16, 1, 2, 3, b"x", 4)
    for _ in range(5):
        add(backend, 9)
    named = Registration(b"n" * 16, "{}", 5)
    backend.append(replace(batch(46), producers=[producer], filters=[named]))
    backend.trim(14)
    backend.close()
    seen: list[tuple[int, int]] = []
    with mock.patch.object(postgres_reindex, "_ROWS", 7):
        with pytest.raises(KeyboardInterrupt):
            backend.reindex(["n"], values, stop)
        head = backend.open(None)
        assert head.keys == ("kind", "user")
        check(backend, 46, 14)
        backend.close()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                backend.reindex(["n", "kind"], values, stop)
        assert seen[-1][0] > seen[0][0]
        person.execute("UPDATE runs SET run = run - 1 WHERE n = 2")  # another store came here
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            backend.reindex(["n", "kind"], values, stop)
        assert seen[0][0] == 0
        backend.reindex(["n", "kind"], values, quiet)
    assert backend.check(quiet) == []
    new = backend.open(None)
    assert new.keys == ("n", "kind")
    assert (new.id, new.floor, new.arrival) == (46, 14, head.arrival)
    assert new.producers == {producer.id: producer}
    assert new.filters == {named.name: named}
    assert [run for run, _ in new.runs][:-1] == [head.runs[0][0], head.run - 1]
    assert list(backend.items(Query(((0, ("30", "46", "14")),))).ids) == [46, 30]
    assert backend.count(Query(((1, ("a",)),))) == 32
    assert list(backend.items(Query(limit=3)).bodies) == [b"event 46", b"event 45", b"event 44"]
    assert backend.arrived(40) < 46
    names = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'Store%'"
    assert (f"{schema} reindexed",) not in postgres.ask(names)
    assert postgres.ask(f'SELECT name FROM "{schema}".meta ORDER BY 1') == [("keys",), ("schema",)]
    add(backend, 20)
    assert backend.settle(10)
    backend.close()
    assert backend.check(quiet) == []


# ---------------------------------------------------------------- behind a daemon


def test_a_daemon_waits_for_its_server(postgres: Postgres, schema: str) -> None:
    """The server is killed below a daemon; what waits is stored once when it is back."""
    store = postgres.url(schema).replace("postgres@", "postgres:s3cret@")
    with server(keys=["kind"], store=store) as daemon, Client(daemon.url) as client:
        assert "s3cret" not in daemon.store
        for n in range(50):
            client.insert({"kind": "a", "n": n})
        client.flush()
        postgres.kill()
        for n in range(50, 80):
            client.insert({"kind": "a", "n": n})
        with pytest.raises(FlushError):
            client.flush(timeout=0.5)
        postgres.start()
        client.flush(timeout=20)
        assert client.count(kind="a") == 80
        found = client.items(kind="a", end=100)
        assert [event["n"] for event in found] == list(range(79, -1, -1))
        assert [event.id for event in found] == list(range(80, 0, -1))
