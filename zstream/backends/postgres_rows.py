"""What readers of the PostgreSQL store see: the newest rows in memory, and sealed partitions."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zstream.backends import postgres_parts as parts_
from zstream.backends.base import Head
from zstream.backends.index import Segment, View
from zstream.backends.postgres_link import Connection
from zstream.backends.postgres_parts import Part, Sealed
from zstream.errors import BackendCorrupt
from zstream.keys import Value

#: Rows that are read at once when the index in memory is made anew.
_LOADED_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of the store, never changed.

    Attributes:
        view: The rows in memory, the last id and the floor.
        parts: The partitions that are not sealed, by rising ids; the last of them is empty.
        sealed: The partitions that are; none of their rows is in the view.
    """

    view: View
    parts: tuple[Part, ...]
    sealed: tuple[Sealed, ...]

    @property
    def room(self) -> int:
        """The last id that there is room for."""
        if self.parts:
            return self.parts[-1].last
        # Without any the ids still go on where they are: the others were trimmed and dropped.
        return max(self.view.head, self.sealed[-1].run.last if self.sealed else 0)

    def all_parts(self) -> list[Part]:
        """All partitions by rising ids."""
        sealed = [Part(each.run.first, each.run.last) for each in self.sealed]
        return sorted([*sealed, *self.parts])

    def several(self, part: Part) -> list[int]:
        """The keys for which a partition has its entries in a table of their own."""
        found = [each.run.several for each in self.sealed if each.run.first == part.first]
        return sorted(found[0]) if found else []


class Rows:
    """The newest snapshot. The writer appends and trims, another thread seals."""

    def __init__(self, snapshot: Snapshot, keys: int) -> None:
        self.snapshot = snapshot
        self._keys = keys
        self._lock = threading.Lock()

    def append(self, ts: Sequence[int], columns: Sequence[Sequence[Value]]) -> None:
        """Add rows that are committed. A segment ends where its partition does."""
        with self._lock:
            done = 0
            for part, count in pieces(self.snapshot, len(ts)):
                view = self.snapshot.view
                segments = view.segments
                first = view.head + 1
                if segments[-1].first < part.first:
                    segments = self._closed(segments, view.head)
                try:
                    segments[-1].extend(
                        range(first, first + count),
                        ts[done : done + count],
                        [column[done : done + count] for column in columns],
                    )
                except BaseException:
                    # Half a batch stands in the segment: close it below that.
                    self._see(View(self._closed(segments, view.head), view.head, view.floor))
                    raise
                done += count
                self._see(View(segments, view.head + count, view.floor))

    def _closed(self, segments: tuple[Segment, ...], head: int) -> tuple[Segment, ...]:
        *closed, last = segments
        if head >= last.first:
            closed.append(last.sealed(head))
        return (*closed, Segment(head + 1, self._keys))

    def _see(self, view: View) -> None:
        self.snapshot = replace(self.snapshot, view=view)

    def attach(self, part: Part) -> None:
        """There is room for more ids."""
        with self._lock:
            self.snapshot = replace(self.snapshot, parts=(*self.snapshot.parts, part))

    def seal(self, sealed: Sealed) -> None:
        """A partition has its indexes: its rows need not stand in memory any more."""
        with self._lock:
            now, run = self.snapshot, sealed.run
            if all(part.first != run.first for part in now.parts):
                return  # it was trimmed and dropped meanwhile
            segments = tuple(each for each in now.view.segments if each.first > run.last)
            if not segments:
                segments = (Segment(now.view.head + 1, self._keys),)
            parts = tuple(part for part in now.parts if part.first != run.first)
            both = tuple(sorted((*now.sealed, sealed), key=lambda each: each.run.first))
            view = View(segments, now.view.head, now.view.floor)
            self.snapshot = Snapshot(view, parts, both)

    def trim(self, floor: int) -> None:
        """Events up to an id are not seen any more."""
        with self._lock:
            view = self.snapshot.view
            segments = view.segments
            if floor == view.head:
                segments = self._closed(segments, view.head)
            *closed, last = segments
            kept = [each for each in closed if each.last is None or each.last > floor]
            self._see(View((*kept, last), view.head, floor))

    def drop(self, part: Part) -> None:
        """A partition is not there any more."""
        with self._lock:
            now = self.snapshot
            self.snapshot = Snapshot(
                now.view,
                tuple(each for each in now.parts if each.first != part.first),
                tuple(each for each in now.sealed if each.run.first != part.first),
            )


def pieces(snapshot: Snapshot, count: int) -> list[tuple[Part, int]]:
    """How many of the next rows go into which partition."""
    first, found = snapshot.view.head + 1, []
    for part in snapshot.parts:
        if count and part.first <= first <= part.last:
            here = min(count, part.last - first + 1)
            found.append((part, here))
            first += here
            count -= here
    return found


def opened(db: Connection, keys: int, head: Head) -> Rows:
    """Read what there is when a store is opened."""
    parts, sealed = parts_.load(db)
    start = max([head.floor, *(each.run.last for each in sealed)])
    view = View((Segment(start + 1, keys),), start, head.floor)
    rows = Rows(Snapshot(view, tuple(parts), tuple(sealed)), keys)
    load(db, rows, keys, head.id)
    return rows


def load(db: Connection, rows: Rows, keys: int, head: int) -> None:
    """Read the rows above the head of what is in memory, up to an id, into memory."""
    columns = ", ".join(f"array_agg(k{key})" for key in range(keys))
    while (done := rows.snapshot.view.head) < head:
        found = pieces(rows.snapshot, min(head - done, _LOADED_ROWS))
        if not found:
            raise BackendCorrupt(f"there is no partition for the events from {done + 1} on")
        part, count = found[0]
        # As one row: each row that is fetched would hand the GIL over.
        row = db.execute(
            f"SELECT array_agg(ts), jsonb_agg(lists), {columns} FROM (SELECT *"
            f" FROM events_{part.first} WHERE id BETWEEN {done + 1} AND {done + count}"
            " ORDER BY id) e"
        ).fetchone()
        if row is None or row[0] is None or len(row[0]) != count:
            raise BackendCorrupt(f"events from {done + 1} to {done + count} are missing")
        ts, lists, *values = row
        for number, several in enumerate(lists):
            for key, texts in (several or {}).items():
                values[int(key)][number] = tuple(texts)
        rows.append(ts, values)
