"""What only the SQLite store has: a file, other programs, statements, a log."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from zstream import errors
from zstream.backends import sqlite_file, sqlite_schema
from zstream.backends.base import Batch, Position, Producer, Query
from zstream.backends.sqlite import SQLiteBackend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def backend(path: Path) -> Iterator[SQLiteBackend]:
    backend = SQLiteBackend(f"sqlite:///{path}")
    backend.open(["kind", "user"])
    yield backend
    backend.close()


def add(backend: SQLiteBackend, count: int = 1, body: bytes = b"x", ts: int = 5) -> int:
    first = backend.last_id() + 1
    columns = [["a"] * count, [f"u{n}" for n in range(count)]]
    backend.append(Batch(first, [ts] * count, [body] * count, columns, first))
    return backend.last_id()


def by_hand(path: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(path, timeout=0, isolation_level=None))


# ---------------------------------------------------------------- the URL and the file


def test_relative_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b ?#%").mkdir()
    for path in ("store.db", "b %3F#%/ü.db", f"{tmp_path}/absolute.db"):
        backend = SQLiteBackend(f"sqlite:///{path}")
        assert backend.name == f"sqlite:///{path}"
        backend.open(None)
        backend.append(Batch(1, [1], [b"x"], [[None]] * 3, 1))
        assert list(backend.items(Query()).ids) == [1]
        backend.close()
        assert (tmp_path / path.replace("%3F", "?")).is_file()


@pytest.mark.parametrize(
    "url",
    ["sqlite:", "sqlite://", "sqlite:///", "sqlite://store.db", "sqlite:///:memory:",
     "sqlite:///a.db?mode=ro",
     "sqlite:///a?b.db", "sqlite://user@/a.db", "sqlite+aiosqlite:///a.db", "sqlite:a.db",
     "sqlite:///a\0b"],
)  # fmt: skip
def test_urls_that_name_no_file(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="sqlite:///relative/path"):
        SQLiteBackend(url)


def test_a_missing_folder_and_a_folder(tmp_path: Path) -> None:
    for place in (tmp_path / "none" / "store.db", tmp_path):
        with pytest.raises(errors.BackendUnavailable, match=str(place)):
            SQLiteBackend(f"sqlite:///{place}").open(None)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of somebody to whom, unlike root, permissions apply; the test runs as them."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_read_only_places(unprivileged: Path) -> None:
    backend = SQLiteBackend(f"sqlite:///{unprivileged}/store.db")
    backend.open(["kind", "user"])
    add(backend)
    backend.close()
    Path(backend.path).chmod(0o400)
    with pytest.raises(errors.BackendUnavailable, match="denied"):
        backend.open(None)
    Path(backend.path).chmod(0o000)
    with pytest.raises(errors.BackendUnavailable, match="denied"):
        backend.open(None)
    unprivileged.chmod(0o500)
    with pytest.raises(errors.BackendUnavailable, match="denied"):
        SQLiteBackend(f"sqlite:///{unprivileged}/other.db").open(None)
    unprivileged.chmod(0o700)
    Path(backend.path).chmod(0o600)
    assert backend.open(None).id == 1
    backend.close()


def database(path: Path) -> None:
    with by_hand(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE events(id INTEGER PRIMARY KEY, important TEXT)")


@pytest.mark.parametrize(
    ("fill", "what"),
    [
        (database, "an SQLite database, but not a store of zstream"),
        (lambda path: path.write_text("a diary, not a database\n" * 50), "nor any SQLite database"),
        (lambda path: path.write_bytes(b"\x00"), "nor any SQLite database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "nor any SQLite database"),
    ],
)
def test_a_foreign_file_is_left_alone(path: Path, fill: object, what: str) -> None:
    assert callable(fill)
    fill(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(errors.BackendCorrupt, match=what):
        SQLiteBackend(f"sqlite:///{path}").open(None)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    backend = SQLiteBackend(f"sqlite:///{path}")
    assert backend.open(["a"]).keys == ("a",)
    backend.close()


def test_a_newer_schema_is_refused(path: Path, backend: SQLiteBackend) -> None:
    backend.close()
    with by_hand(path) as db:
        db.execute(f"PRAGMA user_version = {sqlite_schema.SCHEMA + 1}")
    with pytest.raises(errors.StoreMismatch, match="newer zstream"):
        backend.open(None)
    with by_hand(path) as db:
        db.execute("PRAGMA user_version = 0")
    with pytest.raises(errors.BackendCorrupt):
        backend.open(None)


def test_other_keys_name_both_and_the_way_out(backend: SQLiteBackend) -> None:
    backend.close()
    with pytest.raises(errors.StoreMismatch) as caught:
        backend.open(["kind", "repo"])
    for part in ("kind,user", "kind,repo", "zstreamd reindex"):
        assert part in str(caught.value)


def test_a_damaged_file(path: Path, backend: SQLiteBackend) -> None:
    add(backend, 5_000, bytes(50))
    backend.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xee" * (len(whole) - 4096))
    with pytest.raises(errors.BackendCorrupt, match=str(path)):
        backend.open(None)


def test_a_table_that_somebody_dropped(path: Path, backend: SQLiteBackend) -> None:
    with by_hand(path) as db:
        db.execute("DROP VIEW stream")
        db.execute("DROP TABLE events")
    with pytest.raises(errors.BackendCorrupt, match="no such table"):
        add(backend)
    assert backend.last_id() == 0


# ---------------------------------------------------------------- a person beside it


def test_a_person_can_read_it(path: Path) -> None:
    backend = SQLiteBackend(f"sqlite:///{path}")
    keys = ["id", "Date", "body", "kind", "KIND", 'a"b', "x.y", "50%"]
    backend.open(keys)
    ts = 1_420_070_400_000_001
    columns = [[f"v{n}"] for n in range(7)]
    backend.append(Batch(1, [ts], [b"packed"], [*columns, [("l", "m")]], 1))
    backend.close()
    with by_hand(path) as db:
        cursor = db.execute("SELECT * FROM stream")
        assert [column[0] for column in cursor.description] == [
            "id", "date", "key id", "key Date", "key body", "kind", "key KIND", 'a"b', "x.y",
            "50%", "body",
        ]  # fmt: skip
        assert cursor.fetchone() == (
            1, "2015-01-01T00:00:00.000001Z", "v0", "v1", "v2", "v3", "v4", "v5", "v6",
            '["l", "m"]', b"packed",
        )  # fmt: skip
        kinds = "SELECT typeof(k0), typeof(k7), typeof(body), typeof(ts) FROM events"
        assert db.execute(kinds).fetchone() == ("text", "blob", "blob", "integer")


def test_somebody_elses_open_transaction(path: Path, backend: SQLiteBackend) -> None:
    backend.close()
    with mock.patch.object(SQLiteBackend, "BUSY_S", 0.05):
        backend.open(None)
        with by_hand(path) as db:
            db.execute("BEGIN IMMEDIATE")
            with pytest.raises(errors.BackendUnavailable, match="another program"):
                add(backend)
            assert backend.last_id() == 0
            db.execute("ROLLBACK")
        assert add(backend) == 1


@pytest.mark.parametrize(
    "statement",
    ["UPDATE head SET last = 7", "INSERT INTO events VALUES (3, 1, NULL, NULL, x'00')"],
)
def test_another_writer_is_noticed(path: Path, backend: SQLiteBackend, statement: str) -> None:
    add(backend, 2)
    with by_hand(path) as db:
        db.execute(statement)
    with pytest.raises(errors.BackendConflict, match=str(path)):
        backend.append(Batch(3, [1], [b"x"], [["a"], ["b"]], 1))


def test_the_message_of_the_lock_names_file_and_process(path: Path, backend: SQLiteBackend) -> None:
    alias = path.parent / "alias.db"
    alias.symlink_to(path)
    with pytest.raises(errors.StoreLocked) as caught:
        SQLiteBackend(f"sqlite:///{alias}").open(None)
    assert str(os.getpid()) in str(caught.value)
    assert f"{path}-lock" in str(caught.value)


# ---------------------------------------------------------------- a disk that fails


def test_a_full_disk(backend: SQLiteBackend) -> None:
    add(backend)
    db = backend._writer()
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages + 2}")
    producer = Producer(bytes(16), 1, 1, 0, b"", 1)
    big = Batch(2, [5] * 9, [bytes(9_000)] * 9, [["a"] * 9] * 2, 9, [producer])
    with pytest.raises(errors.BackendUnavailable, match="full"):
        backend.append(big)
    assert backend.last_id() == 1
    assert backend.count(Query(((0, ("a",)),))) == 1
    db.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    backend.append(big)
    assert backend.last_id() == 10


def test_a_write_that_fails(backend: SQLiteBackend) -> None:
    add(backend, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(errors.BackendUnavailable):
            add(backend, 1_000, bytes(1_000))
        assert backend.last_id() == 100
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert add(backend, 1_000, bytes(1_000)) == 1_100
    assert backend.count(Query(((0, ("a",)),))) == 1_100


_KILLED = """
import os, signal, sys
from zstream.backends.base import Batch
from zstream.backends.sqlite import SQLiteBackend
backend = SQLiteBackend(sys.argv[1])
backend.open(["k"])
for first in range(1, 10**9, 10):
    backend.append(Batch(first, [first] * 10, [b"x"] * 10, [["a", ("a", "b")] * 5], first))
    print(first + 9, flush=True)
"""


def test_what_was_appended_survives_a_kill(path: Path) -> None:
    url = f"sqlite:///{path}"
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, url], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout:
        confirmed = [int(child.stdout.readline()) for _ in range(30)][-1]
        child.kill()
        confirmed = max([confirmed, *map(int, child.stdout.read().split())])
    backend = SQLiteBackend(url)
    head = backend.open(None)
    assert head.id in (confirmed, confirmed + 10)
    assert backend.count(Query(((0, ("a",)),))) == head.id
    assert backend.count(Query(((0, ("b",)),))) == head.id // 2
    assert head.arrival == head.id - 9
    backend.close()


# ---------------------------------------------------------------- work


def test_rows_go_in_and_out_in_bulk(backend: SQLiteBackend) -> None:
    statements: list[str] = []
    backend._writer().set_trace_callback(statements.append)
    add(backend, 10_000)
    backend._writer().set_trace_callback(None)
    assert len(statements) <= 12
    backend.items(Query())
    (reader,) = backend._readers.idle
    statements.clear()
    rows: list[int] = []
    reader.db.set_trace_callback(statements.append)
    execute = reader.db.execute("SELECT 1").fetchall
    assert execute() == [(1,)]
    statements.clear()
    page = backend.items(Query(((0, ("a",)),), limit=1_000))
    rows.append(len(page.ids))
    replay = backend.replay(Query(limit=1_000), 0)
    rows.append(len(replay.ids))
    assert rows == [1_000, 1_000]
    assert len(statements) <= 12


def steps(backend: SQLiteBackend, query: Query) -> int:
    """The hundreds of steps that SQLite's machine takes for a page."""
    (reader,) = backend._readers.idle
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    reader.db.set_progress_handler(count, 100)
    backend.items(query)
    reader.db.set_progress_handler(None, 0)
    return taken


def test_a_page_costs_the_same_wherever_it_is(backend: SQLiteBackend) -> None:
    add(backend, 30_000)  # all of one time
    one, few = ((0, ("a",)),), ((0, ("a", "b", "c")),)
    backend.items(Query())
    for filter in ((), one, few):
        first = steps(backend, Query(filter, limit=20))
        for id in (29_000, 15_000, 30):
            assert steps(backend, Query(filter, limit=20, before=Position(5, id))) < first + 20


def test_the_work_of_a_page_is_bounded(backend: SQLiteBackend) -> None:
    with mock.patch.object(SQLiteBackend, "BUDGET", 100):
        backend.close()
        backend.open(None)
        add(backend, 5_000)
        page = backend.items(Query(((0, ("a",)), (1, ("u17", "u18"))), limit=5))
        assert list(page.ids) == [19, 18]  # the rare key leads
        frequent = ((0, ("a",)), (1, tuple(f"u{n}" for n in range(1_000))))
        before = steps(backend, Query(frequent, limit=5))
        page = backend.items(Query(frequent, limit=5))
        assert (list(page.ids), page.next) == ([], Position(5, 4_901))
        add(backend, 10_000)
        assert steps(backend, Query(frequent, limit=5)) < before + 20


def test_many_values_that_are_all_old_are_found_at_once(backend: SQLiteBackend) -> None:
    with mock.patch.object(SQLiteBackend, "BUDGET", 200):
        backend.close()
        backend.open(None)
        add(backend, 190, ts=1)
        for _ in range(3):
            columns = [["b"] * 1_000, ["v"] * 1_000]
            first = backend.last_id() + 1
            backend.append(Batch(first, [9] * 1_000, [b""] * 1_000, columns, first))
        users = ((1, tuple(f"u{n}" for n in range(300))),)
        # Looking through the newest rows finds none of them within the budget.
        page = backend.items(Query(users, limit=2))
        assert (list(page.ids), page.next) == ([190, 189], Position(1, 189))


def test_the_arrival_never_goes_back(backend: SQLiteBackend) -> None:
    for arrival in (7, 3):
        first = backend.last_id() + 1
        backend.append(Batch(first, [5], [b""], [[None], [None]], arrival))
    backend.close()
    assert backend.open(None).arrival == 7


def test_trimmed_rows_are_deleted_in_slices(path: Path, backend: SQLiteBackend) -> None:
    with mock.patch.object(SQLiteBackend, "SWEEP_ROWS", 40):
        add(backend, 100)
        assert backend.trim(90) == 90
        assert backend.count(Query()) == 10
        left = []
        with by_hand(path) as db:
            while backend.tidy():
                left.append(db.execute("SELECT count(*) FROM events").fetchone()[0])
            assert left[:3] == [60, 20, 10]
            assert db.execute("SELECT min(id) FROM events").fetchone()[0] == 91
        add(backend, 100)
        backend.trim(200)
        backend.close()
        backend.open(None)
        while backend.tidy():
            assert backend.count(Query()) == 0
        backend.close()
        with by_hand(path) as db:
            assert db.execute("SELECT min(id) FROM events").fetchone()[0] is None


def test_the_log_stays_bounded(path: Path, backend: SQLiteBackend) -> None:
    limit = 1 << 20
    with mock.patch.object(sqlite_file, "_LOG_BYTES", limit):
        backend.close()
        backend.open(None)
        assert backend._log is not None
        with by_hand(path) as db:
            db.execute("BEGIN")
            db.execute("SELECT last FROM head").fetchone()
            while backend._log.size() < 2 * limit:
                add(backend, 100, bytes(1_000))
            db.execute("COMMIT")
        before = backend.last_id()
        while backend._log.size() > limit:
            assert add(backend, 100, bytes(1_000)) < before + 5_000
        assert backend.count(Query()) == backend.last_id()


def test_it_writes_durably(backend: SQLiteBackend) -> None:
    db = backend._writer()
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_readers_cannot_write(backend: SQLiteBackend) -> None:
    backend.items(Query())
    (reader,) = backend._readers.idle
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.db.execute("DELETE FROM events")


def test_a_commit_that_fails_but_is_in_effect(backend: SQLiteBackend) -> None:
    """Its rows are found when the outcome is asked for, and none is there twice."""
    add(backend, 3)

    class Failing:
        def __init__(self, db: sqlite3.Connection) -> None:
            self.db = db

        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            cursor = self.db.execute(sql, *args)  # type: ignore[arg-type]
            if sql == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return cursor

        def __getattr__(self, name: str) -> object:
            return getattr(self.db, name)

    real = backend._db
    backend._db = Failing(real)  # type: ignore[assignment, arg-type]
    with pytest.raises(errors.BackendError):
        backend.append(Batch(4, [5, 5], [b"x", b"y"], [["a", "b"], ["u", ("v", "w")]], 4))
    backend._db = real
    assert backend.last_id() == 5
    assert list(backend.items(Query(((0, ("a",)),))).ids) == [4, 3, 2, 1]
    assert list(backend.items(Query(((1, ("w",)),))).ids) == [5]
    assert add(backend, 2) == 7
    assert backend.count(Query(((0, ("a",)),))) == 6
