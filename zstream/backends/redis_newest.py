"""What readers of the Redis store see: the newest rows in memory, and the sealed runs."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple

from zstream import wire
from zstream.backends import newest
from zstream.backends import redis_link as link
from zstream.backends.base import Batch
from zstream.backends.index import Segment, View
from zstream.backends.redis_keeper import Keeper
from zstream.backends.redis_runs import Layout
from zstream.backends.redis_writer import Opened
from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable
from zstream.keys import Value


class Stored(NamedTuple):
    """What a store says of itself when it is opened.

    Attributes:
        floor: Events up to this id were trimmed.
        swept: The first list of bodies that may still be there.
        runs: The sealed runs.
        unfinished: Runs to be freed.
        newest: What of the batches that stand in no run is kept to index them, in their order.
        change, changed: For which keys, as JSON, an index is being made; those of its runs that
            are complete.
    """

    floor: int
    swept: int
    runs: dict[int, Layout]
    unfinished: dict[int, Layout]
    newest: Sequence[bytes]
    change: str
    changed: dict[int, Layout]


def pack_rows(batch: Batch) -> bytes:
    """What is kept of a batch until its rows are sealed: where it begins, times, values."""
    return wire.pack([batch.first, list(batch.ts), [list(column) for column in batch.columns]])


class Newest(newest.Newest):
    """The thread that appends calls its methods.

    Args:
        address: Where the store is.
        opened: The run that is written in.
        stored: What the store said of itself.
        keys: How many keys it has.
        seal_rows, seal_bytes: Rows, and bytes of what is kept to index them, that make a run.
        timeout_s: How long an answer may take, in seconds.

    Attributes:
        layouts: The sealed runs, by their numbers. Read it after ``view``: a segment that is gone
            from there stands here.
    """

    #: Runs that may wait to be sealed before appends wait for them.
    WAITING_RUNS: ClassVar[int] = 2

    def __init__(
        self, address: link.Address, opened: Opened, stored: Stored, keys: int,
        seal_rows: int, seal_bytes: int, timeout_s: float,
    ) -> None:  # fmt: skip
        self._name, self._timeout_s = address.name, timeout_s
        #: Batches of each segment, by the segment's first id, as they stand in the store.
        self._batches: dict[int, int] = {}
        done = _sealed_upto(address.name, stored, opened.head)
        super().__init__(View((), done, stored.floor), keys, seal_rows, seal_bytes, self._seal)
        self._keeper = Keeper(
            address, opened, dict(stored.runs), dict(stored.unfinished), stored.swept,
            sealed=self._note_sealed, batches=lambda segment: self._batches[segment.first],
            floor=lambda: self.view.floor, timeout_s=timeout_s,
        )  # fmt: skip
        self.layouts: Mapping[int, Layout] = {
            n: each for n, each in stored.runs.items() if each.run.last > stored.floor
        }
        for packed in stored.newest:
            self._load(packed)
        if self.view.head != opened.head:
            raise BackendCorrupt(
                f"{address.name}: of the newest events up to {opened.head} only those up to"
                f" {self.view.head} can be indexed"
            )

    def start(self) -> None:
        """Have what is full sealed, and what was trimmed freed, from now on."""
        self._keeper.start()

    @property
    def trouble(self) -> BackendError | None:
        """Why the index cannot be written just now, or None."""
        return self._keeper.trouble

    def await_room(self) -> None:
        """Wait where too much waits to be sealed: memory is bounded.

        Raises:
            BackendError: It came to nothing.
        """
        trouble = self._keeper.trouble
        if trouble is not None and not isinstance(trouble, BackendUnavailable):
            raise trouble
        if self._keeper.backlog() <= self.WAITING_RUNS:
            return
        if not self._keeper.await_room(self.WAITING_RUNS, self._timeout_s):
            why = "its rows are not indexed as fast as they come"
            raise self._keeper.trouble or BackendUnavailable(f"{self._name}: {why}")

    def add_batch(self, batch: Batch, size: int) -> None:
        """Let readers see a batch that was committed, of which so many bytes are kept."""
        first = self.view.segments[-1].first
        self._batches[first] = self._batches.get(first, 0) + 1
        listed = {
            key for key, column in enumerate(batch.columns) if tuple in set(map(type, column))
        }
        last = batch.first + len(batch.ts) - 1
        self.add(last, range(batch.first, last + 1), batch.ts, batch.columns, size, listed)

    def _load(self, packed: bytes) -> None:
        try:
            first, ts, columns = wire.unpack(packed)
        except (TypeError, ValueError) as error:
            raise BackendCorrupt(f"{self._name}: rows to be indexed cannot be read") from error
        if first != self.view.head + 1 or len(columns) != self._keys:
            raise BackendCorrupt(f"{self._name}: rows to be indexed are missing before {first}")
        values = [_column(column) for column in columns]
        self.add_batch(Batch(first, ts, (), values, 0), len(packed))

    def _seal(self, segment: Segment, several: frozenset[int]) -> None:
        self._keeper.put(segment, several)

    def _note_sealed(self, segment: Segment, layout: Layout) -> None:
        with self._viewing:
            if layout.run.last > self.view.floor:  # otherwise it is freed before long
                self.layouts = {**self.layouts, layout.run.number: layout}
        self.drop(segment, self.view.version + 1)
        del self._batches[segment.first]

    def trim(self, floor: int) -> None:
        """Mask the rows up to an id."""
        super().trim(floor)
        with self._viewing:
            self.layouts = {n: each for n, each in self.layouts.items() if each.run.last > floor}

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to seal or to free; tell whether it came to that."""
        return self._keeper.settle(timeout_s)

    def interrupt(self) -> None:
        """Make what the keeper waits for fail at once."""
        self._keeper.interrupt()

    def close(self) -> None:
        """Seal what waits, and end the keeper."""
        self._keeper.close()


def _sealed_upto(name: str, stored: Stored, last: int) -> int:
    """The id up to which rows stand in runs, or were trimmed with theirs."""
    done = max([stored.floor, *(each.run.last for each in stored.runs.values())])
    if stored.newest:
        with suppress(TypeError, ValueError):  # who loads it says so
            last = int(wire.unpack(stored.newest[0])[0]) - 1
    if last > done:
        raise BackendCorrupt(f"{name}: the events from {done + 1} to {last} are not indexed")
    return last


def _column(column: Iterable[str | list[str] | None]) -> list[Value]:
    return [tuple(value) if type(value) is list else value for value in column]  # type: ignore[misc]
