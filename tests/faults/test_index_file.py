"""What may happen to the index file, which is derived: answers stay exact, or errors say so."""

import random
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zstream.backends import sqlite_file, sqlite_keeper, sqlite_newest
from zstream.backends.sqlite import SQLiteBackend
from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable
from zstreamd.extract import extract

from . import launcher
from .model import KEYS, Model, Row
from .process import PATIENCE_S
from .test_power import StoreReader, append, make_rows, store_in

Told = Callable[[str], None]

INDEX = "store.db-index"
PAGE = 4096


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, name, value in launcher.small():
        monkeypatch.setattr(target, name, value)


def silent(*_: object) -> None:
    """Progress that nobody wants to know."""


def add(backend: SQLiteBackend, rows: list[Row], rng: random.Random, count: int) -> None:
    """Append so many rows, in small batches."""
    end = len(rows) + count
    while len(rows) < end:
        more = make_rows(len(rows) + 1, min(rng.choice((1, 12, 30)), end - len(rows)), rng)
        append(backend, more, 1)
        rows += more


def compare(backend: SQLiteBackend, rows: list[Row], rng: random.Random, queries: int = 25) -> None:
    Model(rows).compare(StoreReader(backend), rng, queries)


@pytest.fixture
def stores(tmp_path: Path, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Folders: ``old`` and ``new``, a store twice; ``killed``, as a daemon left it; ``other``.

    Gives the rows of the old and of the new one.
    """
    for name in ("old", "other"):
        (tmp_path / name).mkdir()
    rows: list[Row] = []
    backend = store_in(tmp_path / "old")
    for folder in ("new", None):
        backend.open(KEYS)
        add(backend, rows, rng, 500)
        assert backend.settle(PATIENCE_S)
        if folder is None:
            shutil.copytree(tmp_path / "new", tmp_path / "killed")
        backend.close()
        if folder is not None:
            old = list(rows)
            shutil.copytree(tmp_path / "old", tmp_path / folder)
            backend = store_in(tmp_path / folder)
    other = store_in(tmp_path / "other")
    other.open(KEYS)
    add(other, [], rng, 1000)
    other.close()
    return old, rows


def index_of(place: Path, whose: str) -> None:
    shutil.copy(place.parent / whose / INDEX, place / INDEX)
    (place / f"{INDEX}-wal").unlink(missing_ok=True)


def rows_of_old(place: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (place / f"store.db{suffix}").unlink(missing_ok=True)
    shutil.copy(place.parent / "old" / "store.db", place / "store.db")


def cut_to(place: Path, size: int) -> None:
    with (place / INDEX).open("r+b") as file:
        file.truncate(size)
    (place / f"{INDEX}-wal").unlink(missing_ok=True)


HARM: dict[str, Callable[[Path], None]] = {
    "none": silent,
    "deleted": lambda place: (place / INDEX).unlink(),
    "its log deleted": lambda place: (place / f"{INDEX}-wal").unlink(missing_ok=True),
    "of another store": lambda place: index_of(place, "other"),
    "an older one": lambda place: index_of(place, "old"),
    "older rows beside it": rows_of_old,
    "empty": lambda place: cut_to(place, 0),
    "a page": lambda place: cut_to(place, PAGE),
    "a page and a half": lambda place: cut_to(place, PAGE * 3 // 2),
    "no file of SQLite": lambda place: cut_to(place, 50),
    "half": lambda place: cut_to(place, (place / INDEX).stat().st_size // 2),
}


@pytest.mark.parametrize("state", ["new", "killed"])
@pytest.mark.parametrize("harm", HARM)
def test_opening_finds_out(
    harm: str, state: str, tmp_path: Path, stores: tuple[list[Row], list[Row]],
    rng: random.Random, tell: Told,
) -> None:  # fmt: skip
    HARM[harm](tmp_path / state)
    rows = list(stores[0] if harm == "older rows beside it" else stores[1])
    backend = store_in(tmp_path / state)
    try:
        assert backend.open(KEYS).id == len(rows)
        compare(backend, rows, rng)
        add(backend, rows, rng, 100)
        assert backend.settle(PATIENCE_S)
        compare(backend, rows, rng)
    finally:
        backend.close()
    assert backend.check(silent) == []
    tell(f"index file: {harm}")


@pytest.mark.parametrize("state", ["new", "killed"])
def test_a_bad_page_gives_errors_and_no_wrong_answers(
    state: str, tmp_path: Path, stores: tuple[list[Row], list[Row]], rng: random.Random,
    soak: int, tell: Told,
) -> None:  # fmt: skip
    _, rows = stores
    for number in range(6 * soak):
        place = tmp_path / str(number)
        shutil.copytree(tmp_path / state, place)
        with (place / INDEX).open("r+b") as file:
            page = rng.randrange((place / INDEX).stat().st_size // PAGE)
            file.seek(page * PAGE)
            file.write(rng.choice((bytes(PAGE), rng.randbytes(PAGE))))
        backend = store_in(place)
        try:
            backend.open(None)
            compare(backend, rows, rng)
            tell("index file: a bad page, exact answers")
        except BackendCorrupt:
            tell("index file: a bad page, an error")
        finally:
            backend.close()
        # What `zstreamd reindex` does mends it in any case.
        backend.reindex(None, extract, silent)
        assert backend.check(silent) == []
        backend.open(None)
        compare(backend, rows, rng, 5)
        backend.close()


# ---------------------------------------------------------------- no room


class Tight(sqlite3.Connection):
    """A connection whose index cannot grow while ``full`` is set: SQLite itself says that."""

    full = False

    def __init__(self, database: str, **more: Any) -> None:
        super().__init__(database, **more)
        self._is_index = f"{INDEX}?" in database

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if self._is_index and sql.startswith("BEGIN"):
            pages = 1 if Tight.full else 1 << 30
            super().execute(f"PRAGMA main.max_page_count = {pages}").fetchone()
        return super().execute(sql, *args)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Tight]]:
    connect = sqlite3.connect

    def tightly(*args: Any, **more: Any) -> sqlite3.Connection:
        return connect(*args, factory=Tight, **more)

    monkeypatch.setattr(sqlite3, "connect", tightly)
    yield Tight
    Tight.full = False


def test_no_room_for_the_index(
    tmp_path: Path, rng: random.Random, tight: type[Tight], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SQLiteBackend, "BUSY_S", 0.2)
    rows: list[Row] = []
    backend = store_in(tmp_path)
    backend.open(KEYS)
    add(backend, rows, rng, 70)
    assert backend.settle(PATIENCE_S)
    # Given an index that cannot grow any more.
    tight.full = True
    add(backend, rows, rng, 130)
    # Then appends go on, and what cannot be sealed is found all the same.
    assert not backend.settle(0.3)
    assert "disk is full" in str(backend.stats().more["index_trouble"])
    compare(backend, rows, rng)
    floor = 50
    backend.trim(floor)
    while backend.tidy():
        pass
    compare(backend, rows[floor:], rng)
    # Then, before memory has no bounds, it says that it cannot take more, and takes nothing.
    with pytest.raises(BackendUnavailable, match="full"):
        add(backend, rows, rng, 1000)
    assert backend.last_id() == len(rows)
    compare(backend, rows[floor:], rng)
    # When there is room again, all goes on by itself.
    tight.full = False
    assert backend.settle(PATIENCE_S)
    assert backend.stats().more["index_trouble"] is None
    add(backend, rows, rng, 300)
    assert backend.settle(PATIENCE_S)
    compare(backend, rows[floor:], rng)
    backend.close()
    assert backend.check(silent) == []


def test_stopped_without_room_for_the_index(
    tmp_path: Path, rng: random.Random, tight: type[Tight]
) -> None:
    rows: list[Row] = []
    backend = store_in(tmp_path)
    backend.open(KEYS)
    add(backend, rows, rng, 70)
    assert backend.settle(PATIENCE_S)
    tight.full = True
    add(backend, rows, rng, 130)
    backend.close()
    tight.full = False
    backend.open(KEYS)
    compare(backend, rows, rng)
    backend.close()
    assert backend.check(silent) == []


def test_writes_that_fail_now_and_then(
    tmp_path: Path, rng: random.Random, soak: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cannot grow for a moment: the log of the index, which is larger than the rows'."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_PAGES", 10)
    monkeypatch.setattr(sqlite_newest.Newest, "WAITING_RUNS", 100)
    monkeypatch.setattr(sqlite_file, "_REST_BYTES", 1 << 40)  # it is not begun anew at rest, either
    failures: list[Exception] = []
    fail = sqlite_keeper.Keeper._tell_failed

    def failed(keeper: sqlite_keeper.Keeper, error: BackendError) -> None:
        failures.append(error)
        fail(keeper, error)

    monkeypatch.setattr(sqlite_keeper.Keeper, "_tell_failed", failed)
    rows: list[Row] = []
    backend = store_in(tmp_path)
    backend.open(KEYS)
    # Its log is never written back, and so grows beyond that of the rows.
    backend._view()._keeper._db.execute("PRAGMA wal_autocheckpoint = 0")
    add(backend, rows, rng, 600)
    assert backend.settle(PATIENCE_S)
    log = tmp_path / f"{INDEX}-wal"
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(20 * soak):
        limit = log.stat().st_size + rng.randrange(60_000)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
            add(backend, rows, rng, 60)
            backend.settle(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        add(backend, rows, rng, 40)
        if number % 5 == 4:
            compare(backend, rows, rng, 10)
    assert failures
    assert backend.settle(PATIENCE_S)
    compare(backend, rows, rng)
    backend.close()
    assert backend.check(silent) == []
