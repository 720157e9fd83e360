"""The power is cut: what was committed is there, once, and every query is exact."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

from zstream.backends import sqlite_file
from zstream.backends.base import Batch, Position, Producer, Query
from zstream.backends.sqlite import SQLiteBackend
from zstream.keys import getter, index_value, normalize
from zstreamd.extract import extract

from . import launcher, schema1
from .disk import Disk, Luck, after_cut, all_kept, none_kept, some_kept
from .model import DATED, KEYS, Filter, Model, Row, check_whole, make_event
from .process import PATIENCE_S

Told = Callable[[str], None]
Keys = tuple[str, ...]

PRODUCER = bytes(16)
#: Batches of a recorded run.
BATCHES = 50


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, name, value in launcher.small():
        monkeypatch.setattr(target, name, value)
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_PAGES", 40)


def store_in(folder: Path) -> SQLiteBackend:
    return SQLiteBackend(f"sqlite:///{folder}/store.db")


class State(NamedTuple):
    """What is in the store: rows above the floor, and the producer's last batch."""

    last: int = 0
    floor: int = 0
    batch: int = 0


@dataclass
class Run:
    """A recorded run: all rows by id, and the states that it went through, one after another."""

    disk: Disk
    rows: list[Row] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [State()])
    #: Whether other keys than `KEYS` may be found.
    changes_keys: bool = False

    def step(self, state: State, do: Callable[..., Any], *args: Any) -> None:
        """Go from one state to the next; the disk's log tells when it was begun and done."""
        self.states.append(state)
        self.disk.note(("begun", len(self.states) - 1))
        do(*args)
        self.disk.note(("done", len(self.states) - 1))


class StoreReader:
    """A backend as a Reader, see `model`."""

    def __init__(self, backend: SQLiteBackend, keys: Sequence[str] = KEYS) -> None:
        self._backend, self._keys = backend, keys

    def items(
        self, wanted: Filter, since: int | None, until: int | None, start: int, page: int, most: int
    ) -> list[Row]:
        found: list[Row] = []
        before: Position | None = None
        while len(found) < most:
            limit = min(page, most - len(found))
            query = Query(normalize(wanted, self._keys), since, until, before, None, start, limit)
            got = self._backend.items(query)
            found += rows_of(got)
            start -= got.skipped
            before = got.next
            if before is None:
                break
        return found

    def replay(self, wanted: Filter, after: int, page: int) -> list[Row]:
        found: list[Row] = []
        while True:
            got = self._backend.replay(Query(normalize(wanted, self._keys), limit=page), after)
            found += rows_of(got)
            after = got.upto
            if after == got.head:
                return found

    def count(self, wanted: Filter, since: int | None, until: int | None) -> int:
        return self._backend.count(Query(normalize(wanted, self._keys), since, until))


def rows_of(page: Any) -> list[Row]:
    return list(zip(page.ids, page.ts, map(msgpack.unpackb, page.bodies), strict=True))


def append(backend: SQLiteBackend, rows: list[Row], batch: int, keys: Sequence[str] = KEYS) -> None:
    first = rows[0][0] if rows else backend.last_id() + 1
    events = [event for _, _, event in rows]
    backend.append(
        Batch(
            first, [ts for _, ts, _ in rows], [msgpack.packb(event) for event in events],
            [[index_value(get(event)) for event in events] for get in map(getter, keys)],
            arrival_of(first + len(rows)), [Producer(PRODUCER, 0, batch, 0, b"", DATED)],
        )
    )  # fmt: skip


def arrival_of(id: int) -> int:
    return DATED + id * 30_000


def make_rows(first: int, count: int, rng: random.Random) -> list[Row]:
    made = []
    for id in range(first, first + count):
        event = make_event(id, rng)
        made.append((id, event.get("at", arrival_of(id)), event))
    return made


def record(run: Run, rng: random.Random, batches: int) -> Run:
    """Have a backend do everything that it does: open, append, trim, put in order, close."""
    with run.disk.installed():
        backend = store_in(run.disk.folder)
        try:
            run.step(run.states[-1], backend.open, KEYS)
            for _ in range(batches):
                _act(run, backend, rng)
                if rng.random() < 0.04:
                    backend.close()
                    run.step(run.states[-1], backend.open, None)
        finally:
            backend.close()
    return run


def _act(run: Run, backend: SQLiteBackend, rng: random.Random) -> None:
    last, floor, batch = run.states[-1]
    rows = make_rows(last + 1, rng.choice((0, 1, 3, 12, 30)), rng)
    run.rows += rows
    last += len(rows)
    batch += 1
    run.step(State(last, floor, batch), append, backend, rows, batch)
    if rng.random() < 0.1:
        floor = rng.randint(floor, last)
        run.step(State(last, floor, batch), backend.trim, floor)
    while rng.random() < 0.7 and backend.tidy():
        pass
    if rng.random() < 0.3:
        assert backend.settle(PATIENCE_S)


def found_in(backend: SQLiteBackend, keys: Sequence[str] | None = KEYS) -> tuple[State, Keys]:
    """Open a store; where it stands, and its keys."""
    head = backend.open(keys)
    producer = head.producers.get(PRODUCER)
    return State(head.id, head.floor, 0 if producer is None else producer.last), head.keys


def leave(run: Run, end: int, luck: Luck, folder: Path) -> list[State]:
    """Make the files that a cut leaves behind; gives the states that they may be in."""
    folder.mkdir(parents=True)
    for name, content in after_cut(run.disk, end, luck).items():
        (folder / name).write_bytes(content)
    noted = [op.what for op in run.disk.log[:end] if op.kind == "moment"]
    done = max((number for what, number in noted if what == "done"), default=0)
    begun = max((number for what, number in noted if what == "begun"), default=0)
    return run.states[done : begun + 1]


def check(run: Run, end: int, luck: Luck, folder: Path, rng: random.Random) -> None:
    """Open what a cut left behind and compare it with what was known at that moment."""
    states = leave(run, end, luck, folder)
    backend = store_in(folder)
    try:
        found, keys = found_in(backend, None if run.changes_keys else KEYS)
        assert found in states, f"known was {states[0]}"
        rows = run.rows[found.floor : found.last]
        reader = StoreReader(backend, keys)
        assert reader.replay({}, 0, 100) == rows
        check_whole(rows, found.floor, found.last)
        Model(rows, keys).compare(reader, rng, 4)
        more = make_rows(found.last + 1, 40, rng)
        append(backend, more, found.batch + 1, keys)
        Model(rows + more, keys).compare(reader, rng, 1)
    finally:
        backend.close()
    assert backend.check(lambda *_: None) == []


Cut = tuple[str, int, Luck]


def cuts_at_syncs(run: Run, rng: random.Random) -> Iterator[Cut]:
    """Behind each sync; what waits there is of other files."""
    for end, op in enumerate(run.disk.log, 1):
        if op.kind == "sync":
            yield "at a sync, what waited was lost", end, none_kept
            if rng.random() < 0.3:
                yield "at a sync, some was lost", end, some_kept(rng)


def cuts_between(run: Run, rng: random.Random, count: int) -> Iterator[Cut]:
    for _ in range(count):
        end = rng.randint(0, len(run.disk.log))
        yield "anywhere, all was kept", end, all_kept
        yield "anywhere, what waited was lost", end, none_kept
        yield "anywhere, some was lost", end, some_kept(rng)
        yield "anywhere, some was lost", end, some_kept(rng)


def check_all(
    run: Run, cuts: Iterable[Cut], folder: Path, rng: random.Random, tell: Told | None = None
) -> None:
    for number, (way, end, luck) in enumerate(cuts):
        place = folder / str(number)
        try:
            check(run, end, luck, place, rng)
        except BaseException as error:
            error.add_note(f"cut {way}, after {end} of {len(run.disk.log)} operations: {place}")
            raise
        shutil.rmtree(place)
        if tell is not None:
            tell(f"power cut {way}")


def new_run(folder: Path, lower: str | None = None) -> Run:
    folder.mkdir()
    return Run(Disk(folder, lower))


@pytest.mark.parametrize("number", range(2))
def test_power_cuts(number: int, tmp_path: Path, rng: random.Random, soak: int, tell: Told) -> None:
    for each in range(soak):
        run = record(new_run(tmp_path / f"run {each}"), rng, BATCHES)
        cuts = itertools.chain(cuts_at_syncs(run, rng), cuts_between(run, rng, 20))
        check_all(run, cuts, tmp_path / "cuts", rng, tell)


def test_power_cuts_while_a_store_is_made(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    run = record(new_run(tmp_path / "run"), rng, 2)
    ends = range(min(len(run.disk.log), 60)) if soak == 1 else range(len(run.disk.log))
    cuts = (("while a store is made", end, some_kept(rng)) for end in ends for _ in range(2))
    check_all(run, cuts, tmp_path / "cuts", rng, tell)


def test_power_cuts_while_it_recovers(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    """What a cut left behind is opened, and the power goes again."""
    first = record(new_run(tmp_path / "run"), rng, BATCHES)
    for each in range(3 * soak):
        end = rng.randint(len(first.disk.log) // 4, len(first.disk.log))
        folder = tmp_path / f"again {each}"
        leave(first, end, some_kept(rng), folder)
        copy = tmp_path / f"copy {each}"
        shutil.copytree(folder, copy)
        backend = store_in(copy)
        state, _ = found_in(backend)
        backend.close()
        run = Run(Disk(folder), first.rows[: state.last], [state])
        record(run, rng, 2)
        cuts = itertools.chain(cuts_at_syncs(run, rng), cuts_between(run, rng, 5))
        check_all(run, cuts, tmp_path / "cuts", rng, tell)


def test_power_cuts_in_an_upgrade(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    for each in range(soak):
        folder = tmp_path / f"old {each}"
        folder.mkdir()
        rows = schema1.write(folder / "store.db", rng, 700, 200, 150, PRODUCER)
        trimmed: list[Row] = [(0, 0, {})] * 200
        run = record(Run(Disk(folder), trimmed + rows, [State(700, 200, 3)]), rng, 4)
        cuts = itertools.chain(cuts_at_syncs(run, rng), cuts_between(run, rng, 10))
        check_all(run, cuts, tmp_path / "cuts", rng, tell)


def test_power_cuts_while_keys_change(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    first = record(new_run(tmp_path / "run"), rng, BATCHES)
    for each in range(soak):
        folder = tmp_path / f"change {each}"
        shutil.copytree(tmp_path / "run", folder)
        run = Run(Disk(folder), first.rows, [first.states[-1]], changes_keys=True)
        with run.disk.installed():
            other = ("n", "user", "deep.x") if each % 2 == 0 else KEYS
            store_in(folder).reindex(other, extract, lambda *_: None)
        cuts = itertools.chain(cuts_at_syncs(run, rng), cuts_between(run, rng, 15))
        check_all(run, cuts, tmp_path / "cuts", rng, tell)
        backend = store_in(folder)
        assert found_in(backend, None)[1] == other
        backend.close()


@pytest.mark.parametrize("lower", ["OFF", "NORMAL"])
def test_with_a_lower_synchronous_events_are_lost(
    lower: str, tmp_path: Path, rng: random.Random
) -> None:
    """The tests above find it if the store does not sync."""
    run = record(new_run(tmp_path / "run", lower), rng, BATCHES)
    with pytest.raises(AssertionError, match="known was"):
        check_all(run, cuts_between(run, rng, 50), tmp_path / "cuts", rng)
