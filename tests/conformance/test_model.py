"""Random histories and queries over both stores, judged by a plain list.

The list knows the rules by itself: nothing below the line "model" calls zstream.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from zstream import keys
from zstream.backends import (
    index_read,
    sqlite_count,
    sqlite_look,
    sqlite_merge,
    sqlite_plan,
    sqlite_replay,
    sqlite_runs,
)
from zstream.backends.base import Backend, Batch, Position, Query
from zstream.backends.memory import MemoryBackend
from zstream.backends.sqlite import SQLiteBackend
from zstream.backends.sqlite_keeper import Keeper

KEYS = ("k", "u", "deep.x")

# ---------------------------------------------------------------- model


def text_of(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return None
        value = str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str) and len(value.encode()) <= 255 and chr(0) not in value:
        return value
    return None


def texts_of(event: dict[str, Any], key: str) -> set[str]:
    if key in event:
        value = event[key]
    elif key == "deep.x" and isinstance(event.get("deep"), dict):
        value = event["deep"].get("x")
    else:
        value = None
    values = value if isinstance(value, list) else [value]
    return {text for text in map(text_of, values) if text is not None}


def wanted_by(wanted: dict[str, Any], event: dict[str, Any]) -> bool:
    for key, values in wanted.items():
        texts = {text_of(v) for v in (values if isinstance(values, list) else [values])}
        if not texts & texts_of(event, key):
            return False
    return True


@dataclass
class Stored:
    id: int
    ts: int
    event: dict[str, Any]
    body: bytes

    @property
    def place(self) -> tuple[int, int]:
        return (self.ts, self.id)


@dataclass
class Model:
    events: list[Stored] = field(default_factory=list)
    last: int = 0

    def slice(self, wanted: dict[str, Any], since: int | None, until: int | None) -> list[Stored]:
        return [
            stored
            for stored in self.events
            if wanted_by(wanted, stored.event)
            and (since is None or stored.ts >= since)
            and (until is None or stored.ts < until)
        ]

    def trim(self, floor: int) -> int:
        before = len(self.events)
        self.events = [stored for stored in self.events if stored.id > floor]
        return before - len(self.events)


# ---------------------------------------------------------------- histories

scalars = st.sampled_from(
    ["a", "b", "", "1", 1, 1.0, -1, True, "true", False, 0, -0.0, "0", "-0", 2.5, "2.5", 1e22,
     2**63, "é", "A", "a b", '["a","b"]', '"', "é" * 127]
)  # fmt: skip
unindexed = st.sampled_from(
    [None, b"a", {"x": "a"}, "x" * 256, "a\0b", float("inf"), 1e300, "é" * 128]
)
values = st.one_of(
    scalars, scalars, unindexed, st.lists(st.one_of(scalars, unindexed, st.just(["a"])), max_size=4)
)
events = st.fixed_dictionaries(
    {},
    optional={
        "k": values,
        "u": values,
        "deep": st.one_of(st.fixed_dictionaries({}, optional={"x": values}), scalars),
        "deep.x": values,
    },
)
times = st.integers(0, 12)
rows = st.tuples(times, events, st.binary(max_size=12))
batches = st.lists(rows, max_size=12)
# Beyond 64 values the stores take other ways to find a page.
UNKNOWN = [f"unknown {n}" for n in range(70)]
several = st.lists(scalars, max_size=5)
filters = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(scalars, several, several.map(lambda values: [*values, *UNKNOWN])),
    max_size=3,
)
bounds = st.none() | times


@dataclass(frozen=True)
class Walk:
    filter: dict[str, Any]
    since: int | None
    until: int | None
    before: tuple[int, int] | None
    offset: int
    limit: int
    max_bytes: int
    late: list[Any]


walks = st.builds(
    Walk, filters, bounds, bounds, st.none() | st.tuples(times, st.integers(0, 60)),
    st.integers(0, 20), st.integers(1, 9), st.integers(1, 60),
    st.lists(st.lists(rows, min_size=1, max_size=3), max_size=3),
)  # fmt: skip


@dataclass(frozen=True)
class Replayed:
    filter: dict[str, Any]
    after: int
    limit: int
    max_bytes: int


replays = st.builds(Replayed, filters, st.integers(0, 60), st.integers(1, 9), st.integers(1, 60))


@dataclass(frozen=True)
class Counted:
    filter: dict[str, Any]
    since: int | None
    until: int | None


counts = st.builds(Counted, filters, bounds, bounds)
trims = st.integers(0, 60)
steps = st.lists(
    st.one_of(
        batches,
        batches,
        walks,
        walks,
        replays,
        counts,
        trims,
        st.sampled_from(["reopen", "tidy", "settle"]),
    ),
    min_size=1,
    max_size=15,
)


# ---------------------------------------------------------------- the stores


class SmallMemory(MemoryBackend):
    SEGMENT_ROWS = 9
    BUDGET = 5


class SmallSQLite(SQLiteBackend):
    BUDGET = 5
    SWEEP_ROWS = 4
    SEAL_ROWS = 4


#: What makes small data meet every plan, and seals and merges happen all the time.
SMALL = {
    index_read: {"MERGED_VALUES": 1},
    sqlite_plan: {"MERGED": 2},
    sqlite_look: {"SEEK": 1, "SPARSE": 1},
    sqlite_replay: {"SEEK": 1, "SPARSE": 1},
    sqlite_count: {"SPARSE": 1},
    sqlite_merge: {"FAN": 2},
    sqlite_runs: {"DENSE": 2},
    Keeper: {"STEP_ENTRIES": 2, "BUSY_ROWS": 1 << 40, "IDLE_S": 0.002},
}


@contextmanager
def opened(cls: type[Backend]) -> Iterator["Checked"]:
    with tempfile.TemporaryDirectory() as folder:
        url = "memory:" if issubclass(cls, MemoryBackend) else f"sqlite:///{folder}/store.db"
        checked = Checked(cls, url)
        try:
            yield checked
        finally:
            checked.backend.close()


class Checked:
    """A store and the model beside it: each step is taken by both and compared."""

    def __init__(self, cls: type[Backend], url: str) -> None:
        self.cls, self.url = cls, url
        self.backend = cls(url)
        self.backend.open(KEYS)
        self.model = Model()
        self.getters = [keys.getter(key) for key in KEYS]

    def step(self, step: Any) -> None:
        if isinstance(step, list):
            self.append(step)
        elif isinstance(step, Walk):
            self.walk(step)
        elif isinstance(step, Replayed):
            self.replay(step)
        elif isinstance(step, Counted):
            query = Query(keys.normalize(step.filter, KEYS), since=step.since, until=step.until)
            expected = len(self.model.slice(step.filter, step.since, step.until))
            assert self.backend.count(query) == expected
        elif step == "reopen":
            self.reopen()
        elif step == "tidy":
            self.backend.tidy()
        elif step == "settle":
            self.settle()
        else:
            floor = min(step, self.model.last)
            assert self.backend.trim(floor) == self.model.trim(floor)
        assert self.backend.last_id() == self.model.last
        assert self.backend.stats().events == len(self.model.events)

    def append(self, batch: list[Any]) -> None:
        first = self.model.last + 1
        columns = [[keys.index_value(get(event)) for _, event, _ in batch] for get in self.getters]
        ts, bodies = [row[0] for row in batch], [row[2] for row in batch]
        self.backend.append(Batch(first, ts, bodies, columns, first))
        for id, (at, event, body) in enumerate(batch, first):
            self.model.events.append(Stored(id, at, event, body))
            self.model.last = id

    def settle(self) -> None:
        """Let a store that works in the background come to rest."""
        if isinstance(self.backend, SQLiteBackend):
            assert self.backend.settle(20.0)

    def reopen(self) -> None:
        if issubclass(self.cls, MemoryBackend):
            return
        self.backend.close()
        self.backend = self.cls(self.url)
        assert self.backend.open(None).id == self.model.last

    def walk(self, walk: Walk) -> None:
        expected = [
            stored
            for stored in self.model.slice(walk.filter, walk.since, walk.until)
            if walk.before is None or stored.place < walk.before
        ]
        expected.sort(key=lambda stored: stored.place, reverse=True)
        late, offset, skipped = list(walk.late), walk.offset, 0
        before = None if walk.before is None else Position(*walk.before)
        head: int | None = None
        found: list[tuple[int, int, bytes]] = []
        while True:
            page = self.backend.items(
                Query(
                    keys.normalize(walk.filter, KEYS), walk.since, walk.until, before, head,
                    offset, walk.limit, walk.max_bytes,
                )
            )  # fmt: skip
            assert page.head == self.model.last
            assert len(page.ids) <= walk.limit
            assert len(page.ids) <= 1 or sum(map(len, page.bodies)) <= walk.max_bytes
            found += zip(page.ids, page.ts, page.bodies, strict=True)
            skipped += page.skipped
            offset -= page.skipped
            head = page.head if head is None else head
            if page.next is None:
                break
            assert before is None or page.next < before
            assert not page.ids or page.next <= (page.ts[-1], page.ids[-1])
            before = page.next
            if late:
                self.append(late.pop())
        assert skipped == min(walk.offset, len(expected))
        assert found == [(s.id, s.ts, s.body) for s in expected[walk.offset :]]

    def replay(self, replay: Replayed) -> None:
        expected = [s for s in self.model.slice(replay.filter, None, None) if s.id > replay.after]
        query = Query(
            keys.normalize(replay.filter, KEYS), limit=replay.limit, max_bytes=replay.max_bytes
        )
        found: list[tuple[int, int, bytes]] = []
        after = replay.after
        while True:
            page = self.backend.replay(query, after)
            assert page.head == self.model.last
            assert len(page.ids) <= replay.limit
            assert len(page.ids) <= 1 or sum(map(len, page.bodies)) <= replay.max_bytes
            found += zip(page.ids, page.ts, page.bodies, strict=True)
            if page.upto >= page.head:
                break
            assert page.upto > after
            after = page.upto
        assert found == [(s.id, s.ts, s.body) for s in expected]


@pytest.mark.parametrize("cls", [MemoryBackend, SmallMemory, SQLiteBackend, SmallSQLite])
@given(history=st.lists(batches, max_size=3), steps=steps)
def test_the_store_answers_as_the_list_does(
    cls: type[Backend], history: list[Any], steps: list[Any]
) -> None:
    # In memory only values that occur count as many, so there many is set to more than one.
    small = SMALL.items() if cls in (SmallMemory, SmallSQLite) else ()
    with ExitStack() as stack:
        for where, names in small:
            stack.enter_context(mock.patch.multiple(where, **names))
        checked = stack.enter_context(opened(cls))
        for step in [*history, *steps]:
            note(repr(step))
            checked.step(step)
