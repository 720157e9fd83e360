"""What an operator does to a SQLite store: every damage is found, every interruption harmless."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest

from zstream import errors
from zstream.backends import (
    sqlite_admin,
    sqlite_copy,
    sqlite_index,
    sqlite_merge,
    sqlite_reindex,
    sqlite_runs,
)
from zstream.backends.base import Producer, Query, Registration
from zstream.backends.sqlite import SQLiteBackend
from zstream.backends.sqlite_check import check_index
from zstream.testing.conformance_store import Store
from zstreamd.extract import extract

KEYS = ("kind", "user", "tags")
OTHER = ("a.b", "tags", "user")
#: What the files of an open store end with, beside the lock.
ENDS = ("", "-wal", "-shm", "-index", "-index-wal", "-index-shm")
PRODUCER = Producer(bytes(16), 1, 2, 3, b"\x90", 4)
FILTER = Registration(bytes(16), '{"kind":["k1"]}', 5)


class Backend(SQLiteBackend):
    """With small runs."""

    SEAL_ROWS = 40


class Stopped(Exception):
    """What a test's progress raises."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def backend(path: Path) -> Backend:
    return Backend(f"sqlite:///{path}")


def event(n: int) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": f"k{n % 3}", "n": n, "a": {"b": n % 5}}
    if n % 4:
        found["user"] = n % 7
    if n % 5 == 0:
        found["tags"] = [f"t{n % 2}", "both", n]
    return found


def fill(path: Path, count: int, keys: Sequence[str] = KEYS, first: int = 1) -> None:
    """Append events as the daemon does; every ninth is late."""
    store = Store(lambda: Backend(f"sqlite:///{path}"))
    store.open(keys)
    for low in range(first, first + count, 30):
        numbers = range(low, min(low + 30, first + count))
        bodies = [msgpack.packb(event(n)) for n in numbers]
        columns = extract(bodies, keys)
        ts = [1_000 + n - (500 if n % 9 == 0 else 0) for n in numbers]
        store.add(
            *zip(ts, *columns, strict=True), bodies=bodies, arrival=n_arrival(low),
            producers=[PRODUCER], filters=[FILTER],
        )  # fmt: skip
    store.close()


def n_arrival(n: int) -> int:
    return 1_000_000 + n * 300_000


def silent(what: str, done: int, total: int) -> None:
    assert what
    assert 0 <= done <= total


def stop_at(times: int) -> Callable[[str, int, int], None]:
    """A progress that ends the job when it is told for so many times."""
    left = times

    def progress(what: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stopped

    return progress


def by_hand(path: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(path, isolation_level=None))


def contents(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables but the runs, which each opening adds to."""
    with by_hand(path) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
        return {
            name: db.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in tables
            if name not in ("runs", "stream")
        }


def names(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()} - {f"{path.name}-lock"}


def index_of(path: Path) -> Path:
    return Path(sqlite_index.path_of(str(path)))


# ---------------------------------------------------------------- check


def test_a_store_is_in_order(path: Path, backend: Backend) -> None:
    fill(path, 500)
    assert backend.check(silent) == []
    backend.open(None)
    backend.trim(130)
    for job in (
        lambda: backend.check(silent),
        lambda: backend.reindex(None, extract, silent),
        lambda: backend.restore(str(path), silent),
    ):
        with pytest.raises(errors.StoreLocked):
            job()
    while backend.tidy():
        pass
    backend.close()
    assert backend.check(silent) == []
    index_of(path).unlink()
    assert backend.check(silent) == []


def test_an_empty_store_is_in_order(backend: Backend) -> None:
    backend.open(KEYS)
    backend.close()
    assert backend.check(silent) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM events WHERE id IN (7, 90)", "2 events from 1 to 200 are missing"),
        ("UPDATE head SET last = 199", "1 events have ids above the last one, 199"),
        ("UPDATE head SET last = 201", "1 events from 1 to 201 are missing"),
        ("UPDATE head SET floor = 300", "the floor, 300, is above the last id"),
        ("DELETE FROM head", "head has not its one row"),
        ("UPDATE events SET ts = 'x' WHERE id = 3", "1 events from 1 to 200 have no time"),
        ("UPDATE events SET body = 'x' WHERE id = 3", "1 events from 1 to 200 have no time or no"),
        (
            "UPDATE events SET ts = ts + 1 WHERE id = 3",
            "1 entries of key kind are missing of events 1 to 60",
        ),
        (
            "UPDATE events SET k1 = 'x' WHERE id = 3",
            "1 entries of key user are missing of events 1 to 60",
        ),
        ("UPDATE events SET k2 = NULL WHERE id = 15", "the index has"),
        (
            'UPDATE events SET k2 = CAST(\'["t1","z"]\' AS BLOB) WHERE id = 15',
            "1 entries of key tags are missing",
        ),
        ("UPDATE meta SET value = '[]' WHERE name = 'keys'", "keys in the table meta"),
        (
            "UPDATE meta SET value = '[\"a\"]' WHERE name = 'keys'",
            "the table events has the columns",
        ),
        ("UPDATE producers SET id = x'00'", "an id of other than 16 bytes"),
        ("UPDATE producers SET last = -1", "producers has what is no number"),
        ("UPDATE filters SET name = x'00'", "a name of other than 16 bytes"),
        ("UPDATE filters SET seen = -1", "filters has a name of other than 16 bytes, or what is"),
        ("UPDATE marks SET id = 1000 WHERE id = 0", "marks of arrival do not follow"),
        ("UPDATE head SET arrival = 5", "marks of arrival do not follow"),
        ("UPDATE runs SET began_after = 300", "runs of the store do not follow"),
        ("INSERT INTO runs SELECT n + 1, run, began_after FROM runs", "a run is listed twice"),
    ],
)
def test_damage_to_the_rows_is_found(
    path: Path, backend: Backend, statement: str, said: str
) -> None:
    fill(path, 200)
    with by_hand(path) as db:
        db.execute(statement)
    wrong = backend.check(silent)
    assert any(said in text for text in wrong), wrong


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "DELETE FROM x WHERE (r, v, ts, id) IN (SELECT * FROM x LIMIT 1 OFFSET 9)",
            "are missing of events 1 to 60",
        ),
        ("DELETE FROM x WHERE v = ''", "entries by time are missing"),
        ("INSERT INTO x SELECT r, v || 'x', ts, id FROM x WHERE v <> '' LIMIT 1", "the rows have"),
        ("UPDATE x SET v = 'k1' WHERE v = 'k0'", "entries of key kind are missing"),
        ("UPDATE sealed SET min_ts = min_ts + 1 WHERE first = 61", "of events 61 to"),
        ("UPDATE sealed SET max_ts = max_ts - 1 WHERE first = 61", "another range or order"),
        ("UPDATE sealed SET ordered = 1 WHERE first = 61", "another range or order"),
        ("UPDATE sealed SET several = '[]' WHERE first = 61", "or other lists"),
        ("UPDATE sealed SET first = 59 WHERE first = 61", "ends at 60, and one begins at 59"),
        ("INSERT INTO sums SELECT r, v, 1 FROM x WHERE v > '' LIMIT 1", "1 sums of the index"),
    ],
)
def test_damage_to_the_index_is_found_and_mended(
    path: Path, backend: Backend, statement: str, said: str
) -> None:
    fill(path, 200)
    with by_hand(index_of(path)) as db:
        db.execute(statement)
    wrong = backend.check(silent)
    assert any(said in text for text in wrong), wrong
    assert all("zstreamd reindex" in text for text in wrong)
    backend.reindex(None, extract, silent)
    assert backend.check(silent) == []


def test_damaged_pages_are_found(path: Path, backend: Backend) -> None:
    for file in (index_of(path), path):
        fill(path, 300)
        with file.open("r+b") as raw:
            raw.seek(4096 * 3)
            raw.write(bytes(range(256)) * 16)
        wrong = backend.check(silent)
        assert wrong
        assert "damaged" in wrong[0]
        path.unlink()
        with suppress(FileNotFoundError):
            index_of(path).unlink()


def test_a_merge_under_way_is_in_order(path: Path, backend: Backend) -> None:
    fill(path, 420)
    backend.SEAL_ROWS = 1_000_000  # type: ignore[misc]
    store = Store(lambda: backend)
    store.open(None)
    store.add(*((5, "k", ("a", "b")) for _ in range(60)))
    with by_hand(path) as db, closing(sqlite_index.connect(str(path), 1.0)) as index:
        sqlite_runs.catch_up(index, sqlite_admin._rows(db, str(path)), 3, 60, 59)
    store.close()
    with closing(sqlite_index.connect(str(path), 1.0)) as index:
        merge = sqlite_merge.begin_merge(index)
        assert merge is not None
        for slot in range(4):
            while sqlite_merge.move(index, merge, slot, 20):
                assert check_index(index, silent) == []
            assert check_index(index, silent) == []
        sqlite_merge.end_merge(index, merge)
        assert check_index(index, silent) == []
    assert backend.check(silent) == []


def test_an_index_of_another_life_is_no_damage(path: Path, backend: Backend) -> None:
    fill(path, 200)
    with by_hand(index_of(path)) as db:
        db.execute("UPDATE state SET store = 'another'")
    told: list[str] = []
    assert backend.check(lambda what, done, total: told.append(what)) == []
    assert "the index is not used: it is another store's" in told


# ---------------------------------------------------------------- reindex


def stored(path: Path) -> list[Any]:
    with by_hand(path) as db:
        return db.execute("SELECT * FROM events WHERE id > (SELECT floor FROM head)").fetchall()


def same_as_inserted(path: Path, keys: Sequence[str], count: int) -> None:
    """The store is, but for its past, one into which they were inserted with these keys."""
    fresh = path.with_name("fresh.db")
    fill(fresh, count, keys)
    with by_hand(path) as one, by_hand(fresh) as other:
        (floor,) = one.execute("SELECT floor FROM head").fetchone()
        assert stored(path) == [row for row in stored(fresh) if row[0] > floor]
        for sql in (
            "SELECT name, sql FROM sqlite_master WHERE name = 'stream'",
            "SELECT last FROM head",
        ):
            assert one.execute(sql).fetchall() == other.execute(sql).fetchall()
        assert one.execute("SELECT name FROM meta ORDER BY 1").fetchall() == [("keys",), ("store",)]
    backend = Backend(f"sqlite:///{path}")
    assert backend.check(silent) == []
    assert backend.open(keys).keys == tuple(keys)
    user = keys.index("user")
    wanted = [n for n in range(count, 0, -1) if n > floor and n % 4 and n % 7 == 3]
    page = backend.items(Query(((user, ("3",)),), limit=1_000))
    assert sorted(page.ids, reverse=True) == wanted
    backend.close()
    for file in fresh.parent.glob("fresh.db*"):
        file.unlink()


@pytest.mark.parametrize("keys", [OTHER, ("user",), ("n", "user"), (*KEYS, "a.b"), KEYS[::-1]])
def test_other_keys(path: Path, backend: Backend, keys: Sequence[str]) -> None:
    fill(path, 150)
    backend.open(None)
    backend.trim(20)
    backend.close()
    backend.reindex(keys, extract, silent)
    # The same keys in another order are the same keys.
    same_as_inserted(path, KEYS if sorted(keys) == sorted(KEYS) else keys, 150)


def test_keys_that_cannot_be(path: Path, backend: Backend) -> None:
    with pytest.raises(errors.ConfigError):
        backend.reindex(None, extract, silent)
    assert names(path) == set()
    fill(path, 20)
    before = contents(path)
    with pytest.raises(errors.ConfigError):
        backend.reindex(["a", "a"], extract, silent)
    assert contents(path) == before


def test_an_interrupted_change_goes_on(
    path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its parts a daemon has the store with its old keys, appends and trims."""
    monkeypatch.setattr(sqlite_reindex, "_SLICE_ROWS", 30)
    fill(path, 100)
    read: list[int] = []

    def extracted(bodies: Sequence[bytes], keys: Sequence[str]) -> Any:
        read.append(len(bodies))
        return extract(bodies, keys)

    for step, times in enumerate((3, 2, 2)):
        with pytest.raises(Stopped):
            backend.reindex(OTHER, extracted, stop_at(times))
        head = backend.open(None)
        assert (head.keys, head.id) == (KEYS, 100 + 20 * step)
        assert backend.count(Query(((1, ("3",)),))) > 0
        backend.trim(5 + 10 * step)
        backend.tidy()
        backend.close()
        fill(path, 20, first=101 + 20 * step)
        assert backend.check(silent) == []
    assert sum(read) == 120  # no slice was read again
    backend.reindex(OTHER, extracted, silent)
    assert sum(read) == 160
    same_as_inserted(path, OTHER, 160)


def test_another_change_begins_anew(
    path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reindex, "_SLICE_ROWS", 30)
    fill(path, 100)
    before = contents(path)
    for keys in (OTHER, ("n",)):
        with pytest.raises(Stopped):
            backend.reindex(keys, extract, stop_at(3))
    backend.reindex(("user",), extract, silent)
    same_as_inserted(path, ("user",), 100)
    with pytest.raises(Stopped):
        backend.reindex(OTHER, extract, stop_at(3))
    assert "events_new" in contents(path)
    backend.reindex(KEYS, extract, silent)
    assert contents(path).keys() == before.keys()
    same_as_inserted(path, KEYS, 100)


def test_a_change_goes_on_though_all_was_trimmed(
    path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reindex, "_SLICE_ROWS", 30)
    fill(path, 100)
    with pytest.raises(Stopped):
        backend.reindex(OTHER, extract, stop_at(3))
    backend.open(None)
    backend.trim(100)
    while backend.tidy():
        pass
    backend.close()
    backend.reindex(OTHER, extract, silent)
    same_as_inserted(path, OTHER, 100)


# ---------------------------------------------------------------- backup


def test_a_copy_is_the_store(path: Path, backend: Backend, tmp_path: Path) -> None:
    fill(path, 300)
    backend.open(None)
    backend.trim(44)
    copy = tmp_path / "copy.db"
    # While it is open, and its newest rows stand in the log only.
    assert backend.backup(str(copy), silent) == 300
    assert names(path) == {f"store.db{end}" for end in ENDS} | {"copy.db"}
    kept = contents(path)
    kept["events"] = [row for row in kept["events"] if row[0] > 44]
    assert contents(copy) == kept
    backend.close()
    other = Backend(f"sqlite:///{copy}")
    assert other.check(silent) == []
    head = other.open(None)
    assert (head.id, head.floor, head.keys, list(head.producers)) == (300, 44, KEYS, [bytes(16)])
    assert head.filters == {FILTER.name: FILTER}
    other.close()


def test_a_store_without_registered_filters_is_whole(
    path: Path, backend: Backend, tmp_path: Path
) -> None:
    """As an older version made it: it is checked, copied, put back, and gets the table."""
    fill(path, 50)
    with by_hand(path) as db:
        db.execute("DROP TABLE filters")
    assert backend.check(silent) == []
    assert backend.backup(str(tmp_path / "copy.db"), silent) == 50
    assert "filters" not in contents(tmp_path / "copy.db")
    assert backend.restore(str(tmp_path / "copy.db"), silent) == 50
    assert contents(path)["filters"] == []
    with by_hand(path) as db:
        db.execute("DROP TABLE filters")
    assert backend.open(None).filters == {}
    backend.close()
    assert contents(path)["filters"] == []


def test_a_copy_of_a_store_that_is_trimmed_meanwhile(
    path: Path, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_copy, "_SLICE_ROWS", 10)
    monkeypatch.setattr(sqlite_copy, "_FIRST_ROWS", 10)
    fill(path, 100)
    backend.open(None)
    floors = iter([*range(4, 300, 4)])

    def trim(what: str, done: int, total: int) -> None:
        backend.trim(min(next(floors), 90))
        backend.tidy()

    assert backend.backup(str(tmp_path / "copy.db"), trim) == 100
    backend.close()
    other = Backend(f"sqlite:///{tmp_path}/copy.db")
    assert other.check(silent) == []
    floor = other.open(None).floor
    assert 10 < floor <= 90
    assert [id for id, *_ in stored(tmp_path / "copy.db")] == list(range(floor + 1, 101))
    other.close()


def test_what_stops_a_backup_leaves_nothing(path: Path, backend: Backend, tmp_path: Path) -> None:
    fill(path, 100)
    before = names(path)
    for progress in (stop_at(1), stop_at(2)):
        with pytest.raises(Stopped):
            backend.backup(str(tmp_path / "copy.db"), progress)
        assert names(path) == before
    with pytest.raises(errors.ConfigError, match="is there already"):
        backend.backup(str(path), silent)
    with pytest.raises(errors.BackendUnavailable):
        backend.backup(str(tmp_path / "nowhere" / "copy.db"), silent)
    with pytest.raises(errors.ConfigError, match="no store"):
        Backend(f"sqlite:///{tmp_path}/none.db").backup(str(tmp_path / "copy.db"), silent)
    with by_hand(tmp_path / "foreign.db") as db:
        db.execute("CREATE TABLE t (a)")
    with pytest.raises(errors.BackendCorrupt, match="not a store of zstream"):
        Backend(f"sqlite:///{tmp_path}/foreign.db").backup(str(tmp_path / "copy.db"), silent)
    (tmp_path / "foreign.db").unlink()
    with by_hand(path) as db:
        db.execute("PRAGMA user_version = 1")
        with pytest.raises(errors.ConfigError, match="let this version of zstreamd open it once"):
            backend.backup(str(tmp_path / "copy.db"), silent)
        db.execute("PRAGMA user_version = 2")
    # What a killed one left is in nobody's way.
    (tmp_path / "copy.db-partial").write_bytes(b"x" * 5_000)
    assert backend.backup(str(tmp_path / "copy.db"), silent) == 100
    assert names(path) == {*before, "copy.db"}


def test_a_copy_knows_nothing_of_a_change_under_way(
    path: Path, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reindex, "_SLICE_ROWS", 30)
    fill(path, 100)
    with pytest.raises(Stopped):
        backend.reindex(OTHER, extract, stop_at(3))
    backend.backup(str(tmp_path / "copy.db"), silent)
    Backend(f"sqlite:///{tmp_path}/copy.db").reindex(OTHER, extract, silent)
    same_as_inserted(tmp_path / "copy.db", OTHER, 100)


def test_a_store_that_lacks_rows_or_changes_is_not_copied(
    path: Path, backend: Backend, tmp_path: Path
) -> None:
    fill(path, 100)

    def change(what: str, done: int, total: int) -> None:
        if done == 0:
            Backend(f"sqlite:///{path}").reindex(["n", "kind", "user"], extract, silent)

    with pytest.raises(errors.BackendConflict, match="keys were changed"):
        backend.backup(str(tmp_path / "copy.db"), change)
    with by_hand(path) as db:
        db.execute("DELETE FROM events WHERE id = 50")
    with pytest.raises(errors.BackendCorrupt, match="should have 100 events"):
        backend.backup(str(tmp_path / "copy.db"), silent)
    assert names(path) == {"store.db", "store.db-index"}


# ---------------------------------------------------------------- restore


@pytest.fixture
def copy(path: Path, backend: Backend, tmp_path: Path) -> Path:
    """A copy at event 100 of a store that has 250."""
    made = tmp_path / "copies" / "copy.db"
    made.parent.mkdir()
    fill(path, 100)
    backend.backup(str(made), silent)
    fill(path, 150, first=101)
    return made


def test_a_copy_is_put_back(path: Path, backend: Backend, copy: Path) -> None:
    late, early = contents(path), contents(copy)
    assert backend.restore(str(copy), silent) == 100
    assert contents(path) == early == contents(copy)
    assert backend.check(silent) == []
    (aside,) = names(path) - {"store.db", "store.db-index", "copies"}
    assert aside.startswith("store.db-replaced-2")
    assert contents(path.with_name(aside)) == late
    # Another one in the same second does not replace it.
    assert backend.restore(str(copy), silent) == 100
    assert len(names(path)) == 5
    fill(path, 20, first=101)
    assert backend.check(silent) == []


def test_files_keep_their_owner(path: Path, backend: Backend, copy: Path) -> None:
    """Root looks after the store of a daemon that is not root."""
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12_345, 23_456)
    before = path.stat()
    backend.restore(str(copy), silent)
    backend.reindex(["user", "n"], extract, silent)
    for file in (path, index_of(path), path.with_name("store.db-lock")):
        after = file.stat()
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid), file
        assert after.st_mode == before.st_mode, file


def test_a_copy_is_put_where_nothing_is(tmp_path: Path, copy: Path) -> None:
    other = Backend(f"sqlite:///{tmp_path}/other/store.db")
    (tmp_path / "other").mkdir()
    assert other.restore(str(copy), silent) == 100
    assert contents(tmp_path / "other" / "store.db") == contents(copy)
    assert names(tmp_path / "other" / "store.db") == {"store.db", "store.db-index"}


def test_a_store_that_was_killed_is_put_aside_whole(
    path: Path, backend: Backend, copy: Path
) -> None:
    """Its log is written back first: no file of it stays to meet the copy."""
    backend.open(None)
    pid = os.fork()
    if pid == 0:  # a process that dies with rows in the log
        with by_hand(path) as db:
            db.execute("UPDATE head SET arrival = arrival + 1")
            os._exit(0)
    os.waitpid(pid, 0)
    with by_hand(path) as db:
        arrival = db.execute("SELECT arrival FROM head").fetchone()
    for suffix in ("", "-wal"):
        saved = path.with_name("store.db" + suffix).read_bytes()
        path.with_name("saved" + suffix).write_bytes(saved)
    backend.close()
    for suffix in ("", "-wal"):
        os.replace(path.with_name("saved" + suffix), path.with_name("store.db" + suffix))
    assert path.with_name("store.db-wal").stat().st_size > 0
    backend.restore(str(copy), silent)
    (aside,) = [name for name in names(path) if "replaced" in name]
    assert not [name for name in names(path) if name.endswith(("-wal", "-shm"))]
    with by_hand(path.with_name(aside)) as db:
        assert db.execute("SELECT arrival FROM head").fetchone() == arrival
    assert contents(path) == contents(copy)


def test_what_stops_a_restore_leaves_the_old_or_the_new(
    path: Path, backend: Backend, copy: Path
) -> None:
    late, early = contents(path), contents(copy)
    for times in range(1, 9):
        with suppress(Stopped):
            backend.restore(str(copy), stop_at(times))
        assert contents(path) in (late, early)
        assert not [name for name in names(path) if "restoring" in name]
        assert backend.check(silent) == []
        if times == 2:
            assert contents(path) == late
    assert contents(path) == early


def test_a_damaged_store_is_put_aside_as_it_is(path: Path, backend: Backend, copy: Path) -> None:
    path.write_bytes(b"no database " * 1_000)
    path.with_name("store.db-wal").write_bytes(b"no log")
    backend.restore(str(copy), silent)
    assert contents(path) == contents(copy)
    aside = sorted(name for name in names(path) if "replaced" in name)
    assert path.with_name(aside[0]).read_bytes() == b"no database " * 1_000
    assert path.with_name(aside[1]).read_bytes() == b"no log"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("DELETE FROM events WHERE id = 50", errors.BackendCorrupt),
        ("PRAGMA application_id = 5", errors.BackendCorrupt),
        ("PRAGMA user_version = 99", errors.StoreMismatch),
    ],
)
def test_what_is_no_whole_copy_is_not_put_back(
    path: Path, backend: Backend, copy: Path, statement: str, error: type[Exception]
) -> None:
    with by_hand(copy) as db:
        db.execute(statement)
    before = contents(path)
    with pytest.raises(error):
        backend.restore(str(copy), silent)
    assert contents(path) == before
    assert not [name for name in names(path) if "re" in name.removeprefix("store.db")]
    for bad in (path, path.with_name("none"), path.parent):
        with pytest.raises(errors.ConfigError):
            backend.restore(str(bad), silent)
    copy.write_bytes(b"x" * 5_000)
    with pytest.raises(errors.BackendCorrupt):
        backend.restore(str(copy), silent)
