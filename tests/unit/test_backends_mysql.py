"""What the MySQL store adds to the contract: URL, sessions, lock, tables, a dying server."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pymysql
import pytest

from zstream import errors
from zstream.backends import mysql_link, mysql_probe, mysql_rows, mysql_schema
from zstream.backends.base import Batch, Position, Producer, Query, Registration
from zstream.backends.mysql import MySQLBackend
from zstream.backends.mysql_link import address_of
from zstream.backends.mysql_search import Limits
from zstream.keys import Value

from ..servers.mariadb import MariaDB, serving


class QuickMySQL(MySQLBackend):
    LOCK_S = 0
    SWEEP_ROWS = 3


@pytest.fixture
def database(mariadb: MariaDB) -> Iterator[str]:
    name = mariadb.database()
    yield name
    mariadb.drop(name)


@pytest.fixture
def backend(mariadb: MariaDB, database: str) -> Iterator[MySQLBackend]:
    backend = QuickMySQL(mariadb.url(database))
    backend.open(["kind", "user"])
    yield backend
    backend.close()


def add(backend: MySQLBackend, count: int = 1, ts: int = 5, **more: object) -> int:
    first = backend.last_id() + 1
    columns = [["a"] * count, [f"u{n}" for n in range(count)]]
    backend.append(Batch(first, [ts] * count, [b"x"] * count, columns, first, **more))  # type: ignore[arg-type]
    return first + count - 1


def ids(backend: MySQLBackend, **query: object) -> list[int]:
    return list(backend.items(Query(**query)).ids)  # type: ignore[arg-type]


@contextmanager
def session(backend: MySQLBackend) -> Iterator[mysql_link.Session]:
    with closing(mysql_link.Session(backend._address, 10)) as made:
        yield made


# ---------------------------------------------------------------- the URL


def test_a_password_is_never_shown() -> None:
    backend = MySQLBackend("mysql://app:s3cret%40@db.example:3307/events")
    assert backend.name == "mysql://app@db.example:3307/events"
    assert backend._address.options["password"] == b"s3cret@"
    assert backend._address.options["database"] == "events"
    for url in (
        "mysql://app:s3cret@db.example",
        "mysql://app:s3cret@db.example/a/b",
        "mysql://app:s3cret@db.example:none/a",
        "mysql://app:s3cret@db.example/a?color=s3cret",
        "mysql://app:s3cret@db.example/a#b",
        "mysql:app:s3cret@db.example/a",
        "mysql+pymysql://app:s3cret@db.example/a",
    ):
        with pytest.raises(errors.ConfigError) as caught:
            address_of(url)
        assert "s3cret" not in str(caught.value)
        assert "mysql://" in str(caught.value) or "unix_socket" in str(caught.value)


def test_who_gives_an_authority_has_it_checked(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    with pytest.raises(errors.ConfigError, match=r"ssl_ca names no file, .*ca\.pem"):
        address_of(f"mariadb://app@db/events?ssl_ca={authority}")
    authority.touch()
    options = address_of(f"mariadb://app@db/events?ssl_ca={authority}").options
    assert options["ssl_verify_cert"]
    assert options["ssl_verify_identity"]


def test_a_wrong_password_and_a_missing_database(mariadb: MariaDB) -> None:
    mariadb.ask("CREATE USER IF NOT EXISTS app@localhost IDENTIFIED BY 'right'")
    url = mariadb.url("none").replace("root@", "app:s3cret@")
    with pytest.raises(errors.BackendUnavailable, match="Access denied") as caught:
        MySQLBackend(url).open(None)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(errors.BackendUnavailable, match="CREATE DATABASE"):
        MySQLBackend(mariadb.url("none")).open(None)
    with pytest.raises(errors.BackendUnavailable, match="nobody"):
        MySQLBackend("mysql://root@localhost/a?unix_socket=/nobody/listens").open(None)


# ---------------------------------------------------------------- the tables


def test_a_foreign_table_is_left_alone(mariadb: MariaDB, database: str) -> None:
    make = "CREATE TABLE {} (important INT)"
    mariadb.ask(make.format("events"), "INSERT INTO events VALUES (7)", database=database)
    with pytest.raises(errors.BackendCorrupt, match="events of somebody else"):
        QuickMySQL(mariadb.url(database)).open(None)
    assert mariadb.ask("SELECT * FROM events", database=database) == ((7,),)
    assert mariadb.ask("SHOW TABLES", database=database) == (("events",),)
    mariadb.ask("RENAME TABLE events TO stream", database=database)
    with pytest.raises(errors.BackendCorrupt, match="stream of somebody else"):
        QuickMySQL(mariadb.url(database)).open(None)
    assert mariadb.ask("SELECT * FROM stream", database=database) == ((7,),)


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_creation_goes_on_where_it_was_interrupted(
    mariadb: MariaDB, database: str, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    run = mysql_link.Session.run
    left = [len(mysql_link._SETUP) + steps]

    def interrupted(self: mysql_link.Session, sql: str | bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return run(self, sql)

    backend = QuickMySQL(mariadb.url(database))
    monkeypatch.setattr(mysql_link.Session, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.open(["other", "keys", "than later"])
    monkeypatch.undo()
    # The lock of a session that was left in the midst of things ends with it.
    backend.LOCK_S = 5  # type: ignore[misc]
    assert backend.open(["kind", "user"]).keys == ("kind", "user")
    assert add(backend, 3) == 3
    assert ids(backend, filter=((1, ("u1",)),)) == [2]
    backend.close()


def test_a_newer_schema_is_refused(backend: MySQLBackend) -> None:
    backend.close()
    with session(backend) as db:
        mysql_schema.put(db, "schema", str(mysql_schema.SCHEMA + 1))
    with pytest.raises(errors.StoreMismatch, match="newer zstream"):
        backend.open(None)


def test_a_store_of_an_older_version_gets_the_table_of_filters(backend: MySQLBackend) -> None:
    add(backend)
    backend.close()
    with session(backend) as db:
        db.run("DROP TABLE filters")
    assert backend.open(None).filters == {}
    named = Registration(b"n" * 16, "{}", 5)
    add(backend, filters=[named])
    backend.close()
    assert backend.open(None).filters == {named.name: named}


def test_a_store_without_its_schema_is_not_made_anew(backend: MySQLBackend) -> None:
    add(backend)
    backend.close()
    with session(backend) as db:
        db.run("DELETE FROM meta WHERE name = 'schema'")
    with pytest.raises(errors.BackendCorrupt, match="does not name its schema"):
        backend.open(None)
    with session(backend) as db:
        assert db.row("SELECT COUNT(*) FROM events") == (1,)


def test_people_see_names_and_dates(mariadb: MariaDB, database: str) -> None:
    names = ["user", "User", "date", "key 2", "a.b", "é", "e", "x" * 200, "🙂", "`"]
    backend = QuickMySQL(mariadb.url(database))
    backend.open(names)
    row: list[list[object]] = [[value] for value in ("a", "B", ("x", "é"), *"cdefghi")]
    backend.append(Batch(1, [1_700_000_000_000_001], [b"body"], row, 1))  # type: ignore[arg-type]
    backend.append(Batch(2, [5], [b"late"], [[None]] * 10, 2))
    with closing(mariadb.connect(database)) as db, db.cursor() as cursor:
        cursor.execute("SET time_zone = '+07:00'")
        cursor.execute("SELECT * FROM stream ORDER BY id")
        columns = [each[0] for each in cursor.description]
        assert columns == [
            "id", "date", "user", "key 1", "key 2", "key 3", "a.b", "é", "key 6", "key 7",
            "key 8", "`", "body",
        ]  # fmt: skip
        first, second = cursor.fetchall()
        assert str(first[1]) == "2023-11-14 22:13:20.000001"
        assert first[2:5] == ("a", "B", '["x","é"]')
        assert first[-1] == b"body"
        assert second[2:-1] == (None,) * 10
        backend.trim(1)
        cursor.execute("SELECT id FROM stream")
        assert cursor.fetchall() == ((2,),)
    backend.close()


def test_without_the_right_to_make_a_view_there_is_none(
    mariadb: MariaDB, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    mariadb.ask(
        "CREATE USER IF NOT EXISTS plain@localhost IDENTIFIED BY 'p'",
        f"GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON {database}.* TO plain@localhost",
    )
    backend = QuickMySQL(mariadb.url(database).replace("root@", "plain:p@"))
    backend.open(["kind", "user"])
    assert "no view stream" in caplog.text
    assert add(backend, 2) == 2
    backend.close()
    assert backend.open(None).id == 2
    backend.close()


def test_as_many_keys_of_any_length_as_there_may_be(mariadb: MariaDB, database: str) -> None:
    names = [f"k{n}" for n in range(64)]
    texts = [f"{n:03}" + "é" * 126 for n in range(64)]
    backend = QuickMySQL(mariadb.url(database))
    backend.open(names)
    backend.append(Batch(1, [1, 2], [b"", b""], [[text, "same"] for text in texts], 1))
    for key, text in enumerate(texts):
        assert ids(backend, filter=((key, (text,)),)) == [1]
        assert backend.count(Query(((key, (text, "same")),))) == 2
    for key in (0, 27, 28, 63):
        query = Query(((1, ("same",)), (key, ("same",))) if key != 1 else ((1, ("same",)),))
        assert list(backend.items(query).ids) == [2]
        assert list(backend.replay(query, 0).ids) == [2]
        assert backend.count(query) == 1
    backend.trim(1)
    assert not backend.tidy()
    with session(backend) as db:
        assert db.row("SELECT COUNT(*), MIN(id) FROM lists") == (64 - mysql_rows.COLUMNS, 2)
    backend.close()


# ---------------------------------------------------------------- what the server promises


def test_a_server_that_promises_less_is_spoken_of(
    mariadb: MariaDB, database: str, backend: MySQLBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """The servers of these tests sync nothing."""
    more = backend.stats().more
    assert more["innodb_flush_log_at_trx_commit"] == "1"
    assert str(more["server"]).startswith("MariaDB 1")
    assert (more["durable"], backend.durability) == (False, "unsynced")
    backend.close()
    with caplog.at_level(logging.WARNING):
        backend.open(None)
    assert "innodb_flush_method is nosync" in caplog.text


def test_what_a_server_promises_is_what_it_is_set_to_just_now(
    missing: Callable[[str], NoReturn], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(missing, "--innodb-flush-method=fsync") as server:
        backend = QuickMySQL(server.url(server.database()))
        backend.open(["kind", "user"])
        assert (backend.stats().more["durable"], backend.durability) == (True, "synced")
        assert not caplog.records
        for value, durability in ((2, "second"), (0, "second"), (1, "synced")):
            server.ask(f"SET GLOBAL innodb_flush_log_at_trx_commit = {value}")
            backend.probe()
            assert backend.durability == durability
        backend.close()


@pytest.mark.parametrize(
    ("promises", "durability"),
    [
        ({}, "synced"),
        ({"innodb_flush_log_at_trx_commit": "2", "sync_binlog": "0", "log_bin": "OFF"}, "second"),
        ({"innodb_doublewrite": "OFF"}, "unsynced"),
        ({"innodb_flush_log_at_trx_commit": "2", "innodb_doublewrite": "OFF"}, "unsynced"),
        ({"log_bin": "ON", "sync_binlog": "1"}, "synced"),
        ({"log_bin": "ON", "sync_binlog": "1000"}, "unsynced"),
        ({"innodb_flush_method": "O_DIRECT"}, "synced"),
    ],
)
def test_what_settings_promise(promises: dict[str, str], durability: str) -> None:
    assert mysql_probe.durability_of(promises) == durability


def test_a_server_that_is_read_only_is_read(mariadb: MariaDB, database: str) -> None:
    mariadb.ask(
        "CREATE USER IF NOT EXISTS reader@localhost IDENTIFIED BY 'p'",
        f"GRANT ALL ON {database}.* TO reader@localhost",
    )
    backend = QuickMySQL(mariadb.url(database).replace("root@", "reader:p@"))
    backend.open(["kind", "user"])
    add(backend, 2)
    mariadb.ask("SET GLOBAL read_only = 1")
    try:
        with pytest.raises(errors.BackendUnavailable, match="the server is read-only"):
            add(backend)
        backend.probe()
        assert (ids(backend), backend.last_id()) == ([2, 1], 2)
    finally:
        mariadb.ask("SET GLOBAL read_only = 0")
    assert add(backend) == 3
    backend.close()


def test_a_binary_log_that_is_not_synced_is_spoken_of(
    missing: Callable[[str], NoReturn], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(missing, "--log-bin", "--sync-binlog=0", "--binlog-format=STATEMENT") as server:
        backend = QuickMySQL(server.url(server.database()))
        backend.open(["kind", "user"])
        assert "sync_binlog is 0" in caplog.text
        assert add(backend, 3) == 3
        backend.trim(2)
        assert not backend.tidy()
        assert ids(backend) == [3]
        backend.close()


def test_packets_that_are_too_small(mariadb: MariaDB, backend: MySQLBackend) -> None:
    backend.close()
    mariadb.ask(f"SET GLOBAL max_allowed_packet = {1 << 20}")
    try:
        with pytest.raises(errors.BackendUnavailable, match="max_allowed_packet"):
            backend.open(None)
        mariadb.ask(f"SET GLOBAL max_allowed_packet = {mysql_link.LEAST_PACKET}")
        backend.open(None)
        worst = b"'" * (1 << 20)
        backend.append(Batch(1, [1, 2], [worst, worst], [["a"] * 2, ["u"] * 2], 1))
        assert backend.items(Query()).bodies == [worst]
        backend.append(Batch(3, [3], [b""], [[("a", "b")], ["u"]], 3))
        many = tuple(f"{n:08}" + "x" * 240 for n in range(10_000))
        with pytest.raises(errors.TooLarge, match="max_allowed_packet"):
            backend.items(Query(((0, many),)))
        assert list(backend.items(Query(((0, ("b",)),))).ids) == [3]
    finally:
        mariadb.ask(f"SET GLOBAL max_allowed_packet = {16 << 20}")


def test_a_statement_has_bounded_size() -> None:
    batch = Batch(1, [5] * 3_000, [b"x" * 1_000] * 3_000, [["a"] * 3_000], 1)
    statements = list(mysql_rows.inserts(batch))
    assert len(statements) > 2
    assert max(map(len, statements)) <= mysql_rows.STATEMENT_BYTES + 100


# ---------------------------------------------------------------- other sessions


def test_a_person_with_an_open_transaction_delays_nobody_for_ever(
    mariadb: MariaDB, backend: MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(backend, 4)
    with closing(mariadb.connect(backend._address.options["database"])) as person:
        person.begin()
        with person.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM stream")
        assert add(backend, 2) == 6  # who only reads is in nobody's way
        backend.close()
        backend.open(None)
        with person.cursor() as cursor:
            cursor.execute("SELECT * FROM head FOR UPDATE")
            with session(backend) as db:
                assert db.row("SELECT @@lock_wait_timeout, @@innodb_lock_wait_timeout") == (5, 5)
            backend._opened().session().run("SET SESSION innodb_lock_wait_timeout = 1")
            with pytest.raises(errors.BackendUnavailable, match="holds it locked"):
                add(backend)
            person.rollback()
            cursor.execute("LOCK TABLES head WRITE")
            backend._opened().session().run("SET SESSION lock_wait_timeout = 1")
            with pytest.raises(errors.BackendUnavailable, match="holds it locked"):
                backend.append(Batch(7, [5], [b"x"], [["a"], ["u"]], 7))
    assert add(backend) == 7


def end_all_sessions(server: MariaDB) -> None:
    with closing(server.connect()) as db, db.cursor() as cursor:
        cursor.execute(
            "SELECT ID FROM information_schema.PROCESSLIST"
            " WHERE USER = 'root' AND ID <> CONNECTION_ID()"
        )
        for (number,) in cursor.fetchall():
            with suppress(pymysql.err.OperationalError):  # it ended by itself
                cursor.execute(f"KILL {number}")


def test_a_lost_connection_is_made_again(mariadb: MariaDB, backend: MySQLBackend) -> None:
    add(backend, 2)
    assert ids(backend) == [2, 1]
    end_all_sessions(mariadb)
    assert ids(backend) == [2, 1]
    with pytest.raises(errors.BackendUnavailable, match="connection is lost"):
        backend.append(Batch(3, [5], [b"x"], [["a"], ["u"]], 3))
    assert ids(backend) == [2, 1]
    assert add(backend) == 3
    with pytest.raises(errors.StoreLocked, match="another daemon"):
        QuickMySQL(backend.url).open(None)


def test_who_lost_the_store_to_another_daemon_writes_no_more(
    mariadb: MariaDB, backend: MySQLBackend
) -> None:
    add(backend, 2)
    end_all_sessions(mariadb)
    other = QuickMySQL(backend.url)
    other.LOCK_S = 5  # type: ignore[misc]
    other.open(None)
    with pytest.raises(errors.BackendUnavailable):
        backend.append(Batch(3, [5], [b"mine"], [["a"], ["u"]], 3))
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        backend.append(Batch(3, [5], [b"mine"], [["a"], ["u"]], 3))
    other.close()
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        backend.last_id()
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        backend.append(Batch(3, [5], [b"mine"], [["a"], ["u"]], 3))
    assert ids(backend) == [2, 1]


def test_even_without_its_lock_a_second_writer_is_noticed(backend: MySQLBackend) -> None:
    add(backend, 2)
    with session(backend) as db:
        db.run("UPDATE head SET run = 7")
    for call in (lambda: add(backend), lambda: backend.trim(1)):
        with pytest.raises(errors.BackendConflict, match="another daemon"):
            call()
    assert ids(backend) == [2, 1]


def test_a_commit_whose_answer_was_lost(
    backend: MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(backend)
    run = mysql_link.Session.run

    def lossy(self: mysql_link.Session, sql: str | bytes) -> int:
        done = run(self, sql)
        if sql == "COMMIT":
            self.close()
            raise pymysql.err.OperationalError(2013, "Lost connection")
        return done

    monkeypatch.setattr(mysql_link.Session, "run", lossy)
    with pytest.raises(errors.BackendUnavailable):
        backend.append(Batch(2, [5], [b"x"], [["a"], ["u"]], 3))
    monkeypatch.undo()
    assert backend.last_id() == 2
    assert add(backend) == 3


def test_what_a_lost_session_has_not_committed_is_never_committed_later(
    backend: MySQLBackend,
) -> None:
    add(backend)
    writer = backend._opened()
    lost = writer.session()
    with closing(lost):
        lost.run("START TRANSACTION")
        lost.run("UPDATE head SET last = 2")
        writer._db = None
        assert backend.last_id() == 1
        with pytest.raises(pymysql.err.OperationalError):
            lost.run("COMMIT")
    assert add(backend) == 2


# ---------------------------------------------------------------- trimming


def test_what_was_trimmed_is_freed_in_slices(backend: MySQLBackend) -> None:
    add(backend, 10)
    backend.append(Batch(11, [5, 5], [b"", b""], [["a", ("a", "b")]] * 2, 11))
    assert backend.trim(8) == 8
    counts = []
    with session(backend) as db:
        counts.append(db.row("SELECT COUNT(*) FROM events")[0])
        while backend.tidy():
            counts.append(db.row("SELECT COUNT(*) FROM events")[0])
        counts.append(db.row("SELECT COUNT(*) FROM events")[0])
        assert counts == [12, 9, 6, 4]
        assert backend.trim(12) == 4
        backend.close()
        backend.open(None)  # what is left to do is known again
        while backend.tidy():
            pass
        assert db.row("SELECT COUNT(*) FROM events") == (0,)
        assert db.row("SELECT COUNT(*) FROM lists") == (0,)


def test_a_page_whose_events_are_deleted_meanwhile_is_read_again(
    backend: MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [["a"] * 6, ["u"] * 6]
    backend.append(Batch(1, [9, 8, 7, 6, 5, 4], [b"x"] * 6, values, 1))
    ask = mysql_link.Session.row
    done = []

    def slow(self: mysql_link.Session, sql: str) -> tuple[object, ...]:
        if "SEPARATOR" in sql and not done:
            done.append(sql)
            backend.trim(4)
            while backend.tidy():
                pass
        return ask(self, sql)

    monkeypatch.setattr(mysql_link.Session, "row", slow)
    assert ids(backend) == [5, 6]
    assert done


def test_an_index_that_names_what_is_not_there(backend: MySQLBackend) -> None:
    backend.append(Batch(1, [5, 5], [b"x"] * 2, [["a"] * 2, [("u", "v")] * 2], 1))
    with session(backend) as db:
        db.run("DELETE FROM events WHERE id = 2")
    with pytest.raises(errors.BackendCorrupt, match="not there"):
        ids(backend, filter=((1, ("u",)),))
    with session(backend) as db:
        db.run("UPDATE events SET size = 2")
    with pytest.raises(errors.BackendCorrupt, match="other sizes"):
        ids(backend)


# ---------------------------------------------------------------- plans


def test_an_empty_page_leads_to_where_the_next_event_is(mariadb: MariaDB, database: str) -> None:
    class Small(QuickMySQL):
        LIMITS = Limits(scanned=10, gathered=3, counted=3)

    backend = Small(mariadb.url(database))
    backend.open(["kind", "user"])
    count = 500
    ts = list(range(count))
    users = ["old" if n < 40 else "new" for n in range(count)]
    backend.append(Batch(1, ts, [b""] * count, [["a"] * count, users], 1))
    many = tuple(sorted(["old", *(f"none {n}" for n in range(100))]))
    page = backend.items(Query(((1, many),), limit=5))
    assert (list(page.ids), page.next) == ([], Position(40, 0))
    page = backend.items(Query(((1, many),), limit=5, before=page.next))
    assert list(page.ids) == [40, 39, 38, 37, 36]
    unknown = tuple(f"none {n}" for n in range(100))
    page = backend.items(Query(((1, unknown),), limit=5))
    assert (list(page.ids), page.next) == ([], None)
    backend.close()


# ---------------------------------------------------------------- the server dies


def batch_of(number: int, size: int) -> Batch:
    first = (number - 1) * size + 1
    users: list[Value] = [("u", f"u{number}")] * size
    producer = Producer(bytes(16), 1, number, 0, b"", number)
    bodies = [b"%d" % number] * size
    return Batch(first, [number] * size, bodies, [["a"] * size, users], number, [producer])


def store(backend: MySQLBackend, batch: Batch) -> int:
    """Append a batch as the daemon does, and return how often it failed."""
    failed = 0
    while True:
        try:
            if not failed or backend.last_id() < batch.first:
                backend.append(batch)
            return failed
        except errors.BackendUnavailable:
            failed += 1


def check_stored(backend: MySQLBackend, batches: int, size: int) -> None:
    """All of it is there, once, and in every index."""
    backend.close()
    head = backend.open(None)
    assert head.id == batches * size
    assert head.producers[bytes(16)].last == batches
    found: list[tuple[int, bytes]] = []
    while (page := backend.replay(Query(limit=1_000), found[-1][0] if found else 0)).ids:
        found += zip(page.ids, page.bodies, strict=True)
    assert found == [(id, b"%d" % ((id - 1) // size + 1)) for id in range(1, batches * size + 1)]
    assert backend.count(Query(((1, ("u",)),))) == batches * size
    for number in range(1, batches + 1):
        assert backend.count(Query(((1, (f"u{number}",)),))) == size


def test_the_server_is_killed_between_the_statements_of_an_append(
    missing: Callable[[str], NoReturn], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mysql_link.Session.run
    deaths = [
        b"UPDATE head", b"INSERT INTO events", b"INSERT INTO lists", b"REPLACE INTO producers",
        b"COMMIT",
    ]  # fmt: skip
    with serving(missing) as server:
        backend = QuickMySQL(server.url(server.database()))
        backend.LOCK_S = 5  # type: ignore[misc]
        backend.open(["kind", "user"])

        def fatal(self: mysql_link.Session, sql: str | bytes) -> int:
            done = run(self, sql)
            text = sql if isinstance(sql, bytes) else sql.encode()
            if deaths and text.startswith(deaths[0]):
                del deaths[0]
                server.kill()
                server.start()
            return done

        store(backend, batch_of(1, 5))
        monkeypatch.setattr(mysql_link.Session, "run", fatal)
        # Who is killed after the commit has answered; the next batch finds the session lost.
        assert sum(store(backend, batch_of(number, 5)) for number in range(2, 8)) == 5
        assert not deaths
        check_stored(backend, 7, 5)
        backend.close()


def test_the_server_is_killed_at_any_moment(missing: Callable[[str], NoReturn]) -> None:
    wanted, kills, size = 100, [15, 40, 70], 300
    with serving(missing) as server:
        backend = QuickMySQL(server.url(server.database()))
        backend.LOCK_S = 5  # type: ignore[misc]
        backend.open(["kind", "user"])
        confirmed = threading.Semaphore(0)
        failures: list[BaseException] = []

        def reap() -> None:
            done = 0
            try:
                for at in kills:
                    while done < at:
                        confirmed.acquire()
                        done += 1
                    server.kill()
                    server.start()
            except BaseException as error:  # raised again below
                failures.append(error)
                raise

        reaper = threading.Thread(target=reap, daemon=True)
        reaper.start()
        failed = 0
        for number in range(1, wanted + 1):
            failed += store(backend, batch_of(number, size))
            confirmed.release()
        reaper.join()
        assert not failures, failures[0]
        assert failed >= len(kills)
        check_stored(backend, wanted, size)
        backend.close()
