"""Random histories and queries over the stores that need no server, judged by a plain list."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from zstream.backends import (
    index_read,
    sqlite_count,
    sqlite_look,
    sqlite_merge,
    sqlite_plan,
    sqlite_replay,
    sqlite_runs,
)
from zstream.backends.base import Backend, Page, Query, Replay
from zstream.backends.memory import MemoryBackend
from zstream.backends.sqlite import SQLiteBackend
from zstream.backends.sqlite_keeper import Keeper
from zstream.testing.model import BackendModel, Checked
from zstream.testing.model_steps import Counted, Replayed, Walk

#: What makes small data meet every plan, and seals and merges happen all the time.
SMALL: dict[Any, dict[str, Any]] = {
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
def patched(small: dict[Any, dict[str, Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for where, names in small.items():
            stack.enter_context(mock.patch.multiple(where, **names))
        yield


class TestMemory(BackendModel):
    persistent = False

    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        yield "memory:"


class SmallMemory(MemoryBackend):
    SEGMENT_ROWS = 9
    BUDGET = 5


class TestSmallMemory(TestMemory):
    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        # Only values that occur count as many there, so many is set to more than one.
        with patched(SMALL):
            yield "memory:"

    def make(self, url: str) -> Backend:
        return SmallMemory(url)


class CheckedSQLite(Checked):
    backend: SQLiteBackend

    def settle(self) -> None:
        assert self.backend.settle(20.0)


class TestSQLite(BackendModel):
    checked = CheckedSQLite

    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/store.db"


class SmallSQLite(SQLiteBackend):
    BUDGET = 5
    SWEEP_ROWS = 4
    SEAL_ROWS = 4


class TestSmallSQLite(TestSQLite):
    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        with patched(SMALL), super().fresh_url() as url:
            yield url

    def make(self, url: str) -> Backend:
        return SmallSQLite(url)


# ---------------------------------------------------------------- the judge


class Miscounting(MemoryBackend):
    def count(self, query: Query) -> int:
        return super().count(replace(query, until=None))


class Shifting(MemoryBackend):
    def items(self, query: Query) -> Page:
        return super().items(replace(query, head=None))


class Forgetful(MemoryBackend):
    def replay(self, query: Query, after: int) -> Replay:
        page = super().replay(query, after)
        return replace(page, upto=page.head)


@pytest.mark.parametrize(
    ("wrong", "step"),
    [
        (Miscounting, Counted({}, None, 5)),
        (Shifting, Walk({}, None, None, None, 0, 1, 60, [[(0, {}, b"late")]])),
        (Forgetful, Replayed({"k": "a"}, 0, 1, 60)),
    ],
)
def test_a_store_with_a_defect_is_found_out(wrong: type[MemoryBackend], step: object) -> None:
    events = [(time, {"k": ["a", 1], "deep": {"x": True}}, b"") for time in (5, 4, 6)]
    for cls in (MemoryBackend, wrong):
        checked = Checked(cls, "memory:", persistent=False)
        checked.step(events)
        with pytest.raises(AssertionError) if cls is wrong else nullcontext():
            checked.step(step)
