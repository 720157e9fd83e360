"""Times and ids of the rows of sealed runs of the Redis store, fetched in chunks and kept."""

import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from zstream import wire
from zstream.backends.base import Position
from zstream.backends.redis_runs import CHUNK, Layout, Numbers, unpack_numbers

#: Chunks that are kept: about 4 KiB each.
_KEPT: Final = 2_048

#: Fetches strings by their names behind ``:run:``, packed; see `redis_lookups.PIECES`.
Fetch = Callable[[bytes], Sequence[bytes]]
_Name = tuple[int, str, int]


class Chunks:
    """What was fetched last, for all readers of a store. Runs never change, so it stays true."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Name, Numbers] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, names: Iterable[_Name]) -> dict[_Name, Numbers]:
        """Those of the chunks that are here."""
        found = {}
        with self._lock:
            for name in names:
                if name in self._kept:
                    self._kept.move_to_end(name)
                    found[name] = self._kept[name]
        return found

    def keep(self, fetched: dict[_Name, Numbers]) -> None:
        """Keep more of them, and forget those that nobody wanted for longest."""
        with self._lock:
            self._kept.update(fetched)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


class Gone(Exception):
    """A run was freed while it was read: what it had was trimmed meanwhile."""


class Times:
    """Where rows are in the order of (ts, id), for one query."""

    def __init__(self, chunks: Chunks, fetch: Fetch) -> None:
        self._chunks, self._fetch = chunks, fetch
        self._mine: dict[_Name, Numbers] = {}

    def load(self, wanted: Iterable[tuple[Layout, int]], ids: bool = True) -> None:
        """Fetch what is needed to place these ranks of runs, in one call."""
        names: dict[_Name, Layout] = {}
        for layout, rank in wanted:
            chunk = rank // CHUNK
            names[layout.run.number, "ts", chunk] = layout
            if ids and not layout.run.ordered:
                names[layout.run.number, "ids", chunk] = layout
        self._load(names)

    def _load(self, names: dict[_Name, Layout]) -> None:
        missing = [name for name in names if name not in self._mine]
        if not missing:
            return
        self._mine |= self._chunks.find(missing)
        missing = [name for name in missing if name not in self._mine]
        if not missing:
            return
        packed = wire.pack(
            [f"{number}:{what}:{chunk}" for number, what, chunk in missing], raw=True
        )
        fetched = {}
        for name, data in zip(missing, self._fetch(packed), strict=True):
            if not data:
                raise Gone
            rows = names[name].rows - name[2] * CHUNK
            fetched[name] = unpack_numbers(data, min(rows, CHUNK))
        self._chunks.keep(fetched)
        self._mine |= fetched

    def _number(self, layout: Layout, what: str, rank: int) -> int:
        name = (layout.run.number, what, rank // CHUNK)
        if name not in self._mine:
            self._load({name: layout})
        return self._mine[name].of(rank % CHUNK)

    def ts(self, layout: Layout, rank: int) -> int:
        """The time of a row."""
        return self._number(layout, "ts", rank)

    def id(self, layout: Layout, rank: int) -> int:
        """The id of a row."""
        return layout.run.first + rank if layout.run.ordered else self._number(layout, "ids", rank)

    def place(self, layout: Layout, rank: int) -> Position:
        """The place of a row."""
        return Position(self.ts(layout, rank), self.id(layout, rank))

    def ids(self, layout: Layout) -> Sequence[int]:
        """The ids of all rows of a run, by their ranks."""
        run = layout.run
        if run.ordered:
            return range(run.first, run.last + 1)
        chunks = range(len(layout.starts))
        self._load({(run.number, "ids", chunk): layout for chunk in chunks})
        every = array("q")
        for chunk in chunks:
            every += self._mine[run.number, "ids", chunk].every()
        return every

    def rank(self, layout: Layout, before: Position) -> int:
        """How many rows are older than a place."""
        run = layout.run
        if run.max_ts < before.ts:
            return layout.rows
        low = self._rank_of(layout, before.ts)
        if before.id <= 0 or low == layout.rows:
            return low
        high = self._rank_of(layout, before.ts + 1)
        return bisect_left(range(layout.rows), before.id, low, high, key=self._id_of(layout))

    def _id_of(self, layout: Layout) -> Callable[[int], int]:
        return lambda rank: self.id(layout, rank)

    def _rank_of(self, layout: Layout, ts: int) -> int:
        """The first rank whose time is not below."""
        if ts <= layout.run.min_ts:
            return 0
        if ts > layout.run.max_ts:
            return layout.rows
        chunk = max(bisect_left(layout.starts, ts) - 1, 0)
        self.load([(layout, chunk * CHUNK)], ids=False)
        return chunk * CHUNK + self._mine[layout.run.number, "ts", chunk].below(ts)
