"""The derived file of the SQLite store: runs sealed, merged, dropped, and made anew."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zstream import errors
from zstream.backends import sqlite_index, sqlite_merge
from zstream.backends.base import Batch, Position, Query
from zstream.backends.sqlite import SQLiteBackend
from zstream.backends.sqlite_keeper import Keeper
from zstream.keys import Value

ROWS = 1_000


class Store(SQLiteBackend):
    SEAL_ROWS = ROWS


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeper, "IDLE_S", 0.005)
    monkeypatch.setattr(Keeper, "BUSY_ROWS", 1 << 40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def backend(path: Path) -> Iterator[Store]:
    backend = Store(f"sqlite:///{path}")
    backend.open(["kind", "user"])
    yield backend
    backend.close()


def add(
    backend: SQLiteBackend,
    count: int,
    kind: Callable[[int], Value] = lambda n: f"k{n % 3}",
    user: Callable[[int], Value] = lambda n: f"u{n % 500}",
    ts: Callable[[int], int] = lambda n: n * 10,
) -> None:
    """Append rows in batches that do not end where runs do."""
    first = backend.last_id() + 1
    for begin in range(first, first + count, 300):
        ids = range(begin, min(begin + 300, first + count))
        columns = [[kind(n) for n in ids], [user(n) for n in ids]]
        bodies = [b"event %d" % n for n in ids]
        backend.append(Batch(begin, [ts(n) for n in ids], bodies, columns, begin))


def index_of(path: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(f"{path}-index", isolation_level=None))


def runs(path: Path) -> list[tuple[int, int, int]]:
    with index_of(path) as db:
        sql = "SELECT first, last, level FROM sealed WHERE level >= 0 ORDER BY first"
        return db.execute(sql).fetchall()


def filter(**wanted: str | tuple[str, ...]) -> Query:
    terms = tuple(
        (("kind", "user").index(key), (value,) if isinstance(value, str) else value)
        for key, value in sorted(wanted.items())
    )
    return Query(terms, limit=20)


def steps(backend: SQLiteBackend, query: Query) -> int:
    """The hundreds of steps that SQLite's machine takes for a page."""
    backend.items(query)  # what is compiled once is compiled by now
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


# ---------------------------------------------------------------- sealing and merging


def test_full_runs_are_sealed_and_leave_memory(path: Path, backend: Store) -> None:
    add(backend, 2_500)
    assert backend.settle(20)
    assert [last - first + 1 for first, last, _ in runs(path)] == [1_200, 1_200]
    assert backend.stats().more["rows_in_memory"] == 100
    assert len(backend.items(Query(limit=1_000)).ids) == 1_000
    assert backend.count(filter(kind="k1")) == len(range(1, 2_501, 3))


def test_large_bodies_fill_a_run_sooner(path: Path) -> None:
    class Small(Store):
        SEAL_BYTES = 1 << 16

    backend = Small(f"sqlite:///{path}")
    backend.open(["kind", "user"])
    for first in range(1, 41):
        backend.append(Batch(first, [first], [bytes(1 << 13)], [["a"], [None]], first))
    assert backend.settle(20)
    assert [(first, last) for first, last, _ in runs(path)] == [
        (1, 8), (9, 16), (17, 24), (25, 32), (33, 40)
    ]  # fmt: skip
    assert backend.count(filter(kind="a")) == 40
    backend.close()


def test_eight_runs_become_one_and_eight_of_these_another(path: Path, backend: Store) -> None:
    count = 1_200 * 65
    add(backend, count)
    assert backend.settle(60)
    levels = [level for _, _, level in runs(path)]
    assert sorted(levels) == [0, 2]
    with index_of(path) as db:
        assert db.execute("SELECT count(*) FROM x").fetchone()[0] == 2 * count
        pages, free = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        assert free * sqlite_merge.SPARE <= pages  # what merging freed was given back
        sums = db.execute("SELECT v, sum(n) FROM sums GROUP BY v HAVING v LIKE 'k%'").fetchall()
    assert dict(sums) == {f"k{n}": count // 3 for n in range(3)}
    assert backend.count(filter(user="u7")) == count // 500
    assert list(backend.items(filter(user="u7")).ids)[:2] == [77_507, 77_007]


def test_late_rows_lists_and_nothing_in_every_level(path: Path, backend: Store) -> None:
    chance = random.Random(5)
    rows: list[tuple[int, Value, Value]] = [(0, None, None)]
    for n in range(1, 1_200 * 9 + 50):
        ts = n * 10 - (chance.randrange(40_000) if chance.random() < 0.02 else 0)
        user: Value = f"u{n % 50}" if n % 7 else (f"u{n % 50}", "both")
        rows.append((max(ts, 0), f"k{n % 3}" if n % 11 else None, user))
    add(backend, len(rows) - 1, lambda n: rows[n][1], lambda n: rows[n][2], lambda n: rows[n][0])
    newest = sorted(range(1, len(rows)), key=lambda n: (rows[n][0], n), reverse=True)
    for settled in (False, True):
        assert not settled or backend.settle(60)
        assert list(backend.items(Query(limit=1_000)).ids) == newest[:1_000]
        both = [n for n in newest if n % 7 == 0]
        assert list(backend.items(filter(user="both")).ids) == both[:20]
        assert backend.count(filter(user=("both", "u0"))) == len(both) + sum(
            1 for n in range(1, len(rows)) if n % 50 == 0 and n % 7
        )
        far = Position(50_000, 0)
        page = backend.items(Query(filter(kind="k1").filter, limit=20, before=far))
        assert (
            list(page.ids) == [n for n in newest if rows[n][0] < 50_000 and rows[n][1] == "k1"][:20]
        )
        times = sum(20_000 <= row[0] < 70_000 for row in rows[1:])
        assert backend.count(Query(since=20_000, until=70_000)) == times
    assert [level for _, _, level in runs(path)].count(1) == 1


# ---------------------------------------------------------------- what a page costs


def test_a_page_costs_the_same_on_page_500(backend: Store) -> None:
    add(backend, 20_000)
    assert backend.settle(20)
    many = tuple(f"u{n}" for n in range(0, 500, 2))
    for query in (Query(limit=20), filter(kind="k1"), filter(kind="k1", user=many)):
        first = steps(backend, query)
        for ts in (180_000, 100_000, 20_000):
            deep = Query(query.filter, limit=20, before=Position(ts, 0))
            assert steps(backend, deep) < first * 2 + 150


def test_a_rare_value_is_found_behind_many_runs(backend: Store) -> None:
    add(backend, 1_000, user=lambda n: "old")
    add(backend, 30_000)
    assert backend.settle(20)
    page = backend.items(filter(user="old"))
    assert (len(page.ids), page.ids[0]) == (20, 1_000)
    assert steps(backend, filter(user="old")) < 60


def test_an_empty_intersection_is_bounded(path: Path) -> None:
    class Bounded(Store):
        BUDGET = 400

    backend = Bounded(f"sqlite:///{path}")
    backend.open(["kind", "user"])
    add(backend, 20_000, lambda n: f"k{n % 2}", lambda n: f"u{n % 2}")
    assert backend.settle(20)
    never = filter(kind="k0", user="u1")
    page = backend.items(never)
    assert (list(page.ids), page.next is not None) == ([], True)
    assert steps(backend, never) < 2_000
    pages = 1
    while page.next is not None:
        page = backend.items(Query(never.filter, limit=20, before=page.next))
        assert not page.ids
        pages += 1
    assert pages > 5
    assert backend.count(never) == 0
    backend.close()


def test_the_longest_lists(backend: Store) -> None:
    add(backend, 5_000, user=lambda n: f"u{n}")
    assert backend.settle(20)
    some = tuple(f"u{n}" for n in range(0, 20_000, 2))
    assert list(backend.items(filter(user=some)).ids) == list(range(5_000, 4_960, -2))
    assert backend.count(filter(user=some)) == 2_500
    none = tuple(f"x{n}" for n in range(10_000))
    page, found = backend.items(filter(user=none)), 0
    while page.next is not None:
        page = backend.items(Query(filter(user=none).filter, limit=20, before=page.next))
        found += len(page.ids)
    assert found == 0


# ---------------------------------------------------------------- trimming


def test_trimmed_runs_are_dropped(path: Path, backend: Store) -> None:
    add(backend, 6_000)
    assert backend.settle(20)
    backend.trim(2_500)
    assert backend.settle(20)
    assert runs(path)[0][0] == 2_401
    with index_of(path) as db:
        assert db.execute("SELECT count(*) FROM x").fetchone()[0] == 2 * 3_600
        assert not db.execute("SELECT 1 FROM sealed WHERE level < 0").fetchall()
    assert backend.count(filter(kind=("k0", "k1", "k2"))) == 3_500
    assert backend.count(Query(since=25_010, until=30_000)) == 499


# ---------------------------------------------------------------- opening


def answers(backend: SQLiteBackend) -> list[object]:
    return [
        list(backend.items(filter(kind="k1")).ids),
        list(backend.items(filter(user=tuple(f"u{n}" for n in range(0, 500, 9)))).ids),
        list(backend.replay(filter(kind="k2", user="u200"), 0).ids),
        backend.count(filter(kind="k0")),
        backend.count(Query(since=9_000)),
    ]


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"\xee" * path.stat().st_size)


def other_keys(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("""UPDATE state SET keys = '["kind","repo"]'""")


def other_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {sqlite_index.SCHEMA + 1}")


def a_hole(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM sealed WHERE first = 1201")


@pytest.mark.parametrize(
    "harm", [Path.unlink, cut, garble, Path.touch, other_keys, other_schema, a_hole]
)
def test_whatever_is_wrong_with_the_index_it_is_made_anew(
    path: Path, backend: Store, harm: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    add(backend, 5_000)
    before = answers(backend)
    backend.close()
    harm(Path(f"{path}-index"))
    backend.open(None)
    assert answers(backend) == before
    assert ("made anew" in caplog.text) == (harm is not Path.touch)
    add(backend, 2_000)
    assert backend.count(Query(filter(kind="k0").filter)) == 7_000 // 3


def test_the_index_of_another_store_is_not_used(path: Path, backend: Store) -> None:
    other = Store(f"sqlite:///{path}-other")
    other.open(["kind", "user"])
    add(other, 5_000, kind=lambda n: "wrong")
    other.close()
    add(backend, 5_000)
    before = answers(backend)
    backend.close()
    shutil.copy(f"{path}-other-index", f"{path}-index")
    backend.open(None)
    assert answers(backend) == before


def test_rows_put_back_from_a_copy_do_not_meet_a_newer_index(path: Path, backend: Store) -> None:
    add(backend, 3_000)
    backend.close()
    copy = path.read_bytes()
    backend.open(None)
    add(backend, 6_000, kind=lambda n: "lost")
    backend.close()
    path.write_bytes(copy)
    backend.open(None)
    assert backend.last_id() == 3_000
    add(backend, 6_000)
    assert backend.settle(20)
    assert backend.count(filter(kind="lost")) == 0
    assert backend.count(filter(kind="k1")) == 3_000


def test_a_merge_that_was_cut_off_goes_on(
    path: Path, backend: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_merge, "FAN", 1 << 20)
    add(backend, 1_200 * 8, ts=lambda n: 10 * n - 5_000 * (n % 100 == 0) + 5_000)
    assert backend.settle(20)
    before = answers(backend)
    backend.close()
    monkeypatch.undo()
    with closing(sqlite_index.connect(str(path), 5.0)) as db:
        merge = sqlite_merge.begin_merge(db)
        assert merge is not None
        for slot in (0, 1, 1):
            assert sqlite_merge.move(db, merge, slot, 100)
    backend.open(None)
    assert answers(backend) == before
    monkeypatch.setattr(Keeper, "IDLE_S", 0.005)
    assert backend.settle(20)
    assert [level for _, _, level in runs(path)] == [1]
    assert answers(backend) == before


# ---------------------------------------------------------------- trouble


def test_damage_found_while_it_runs_is_healed_by_opening_again(
    path: Path, backend: Store, caplog: pytest.LogCaptureFixture
) -> None:
    add(backend, 2_000)
    assert backend.settle(20)
    with index_of(path) as db:
        db.execute("DROP TABLE sums")
    with pytest.raises(errors.BackendCorrupt):
        add(backend, 10_000)
    assert "the index cannot be written" in caplog.text
    backend.close()
    last = backend.open(None).id
    assert backend.count(filter(kind=("k0", "k1", "k2"))) == last
    add(backend, 2_000)
    assert backend.settle(20)


def test_an_index_that_somebody_holds_delays_nothing(path: Path, backend: Store) -> None:
    with index_of(path) as db:
        db.execute("BEGIN IMMEDIATE")
        add(backend, 3_000)
        assert backend.count(filter(kind="k1")) == 1_000
        db.execute("ROLLBACK")
    assert backend.settle(20)
    assert len(runs(path)) == 2
