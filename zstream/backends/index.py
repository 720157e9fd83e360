"""An index of rows in memory: one writer appends while readers read without a lock.

Rows stand in segments. For each key a segment numbers the values it meets; a value's number
leads to its newest entry, and every entry to the one before it, in flat arrays: a quarter of a
million rows cost some 40 MB where a list for each value costs 70 and feeds the collector.

The writer only ever appends, and a row is there for a reader once the reader's snapshot counts
it. So every structure is complete up to a row before that row is counted, and what is beyond it
is passed over. Columns may wait to be indexed until somebody asks for a value of theirs: rows
that nobody queries before they are sealed elsewhere then cost next to nothing.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import le
from typing import NamedTuple, TypeVar

from zstream.backends.index_key import KeyIndex
from zstream.keys import Value

T = TypeVar("T")


class Segment:
    """Rows and their index.

    Attributes:
        first: The lowest id that it may hold.
        last: The highest id, once no row is appended any more; until then None.
        ids, ts, bodies: By slot. A store that keeps its bodies elsewhere leaves them out.
        keys: One index a key.
        ordered: Whether slots rise by (ts, id).
        peaks: By slot, if they do not: the highest time up to there.
        min_ts, max_ts: No row is outside.
    """

    __slots__ = ("bodies", "bytes", "first", "ids", "keys", "last", "max_ts", "min_ts", "ordered",
                 "peaks", "slots_by_id", "ts")  # fmt: skip

    def __init__(self, first: int, keys: int) -> None:
        self.first = first
        self.last: int | None = None
        self.ids = array("q")
        self.ts = array("q")
        self.bodies: list[bytes] = []
        self.bytes = 0
        self.keys = [KeyIndex() for _ in range(keys)]
        self.ordered = True
        self.peaks = array("q")
        self.min_ts = self.max_ts = -1
        #: Slots by rising id, where that is not the slots' own order.
        self.slots_by_id: array[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def extend(
        self,
        ids: Iterable[int],
        ts: Sequence[int],
        columns: Sequence[Iterable[Value]],
        bodies: Sequence[bytes] = (),
    ) -> None:
        """Append rows, ids rising. Without rows it does nothing."""
        if not ts:
            return
        if (self.ts and ts[0] < self.ts[-1]) or not all(map(le, ts, islice(ts, 1, None))):
            late = True
        else:
            late = not self.ordered
        if late:
            if self.ordered:
                self.peaks.extend(self.ts)
            before = self.peaks[-1] if self.peaks else 0
            self.peaks.extend(islice(accumulate(ts, max, initial=before), 1, None))
            self.ordered = False
        low, high = min(ts), max(ts)
        self.min_ts = low if self.min_ts < 0 else min(self.min_ts, low)
        self.max_ts = max(self.max_ts, high)
        self.ids.extend(ids)
        self.ts.extend(ts)
        self.bodies.extend(bodies)
        self.bytes += sum(map(len, bodies))
        for key, column in zip(self.keys, columns, strict=True):
            key.append(column)

    def settle(self, columns: int | None = None) -> bool:
        """Index what waits, or so many columns a key; tell whether more waits."""
        left = [key.settle(columns) for key in self.keys]
        return any(left)

    def count(self, head: int) -> int:
        """How many of its rows, from slot 0, a reader with this head may look at."""
        if self.slots_by_id is not None:  # whoever sees it sees all of it
            return len(self.ids)
        return (head if self.last is None else min(head, self.last)) - self.first + 1

    def sealed(self, last: int) -> "Segment":
        """This segment without a row above ``last``, in order, to be appended to no more."""
        self.last = last
        count = last - self.first + 1
        if self.ordered:
            return self
        order = sorted(range(count), key=self.ts.__getitem__)
        new = Segment(self.first, len(self.keys))
        columns = [_picked(key.column(count), order) for key in self.keys]
        bodies = _picked(self.bodies, order) if self.bodies else ()
        new.extend(_picked(self.ids, order), _picked(self.ts, order), columns, bodies)
        new.slots_by_id = array("i", sorted(range(count), key=new.ids.__getitem__))
        new.last = last
        return new


@dataclass(frozen=True, slots=True)
class View:
    """What a reader sees: segments by rising id, and the ids that count.

    Attributes:
        segments: The rows in memory.
        head, floor: Ids up to the one and above the other count.
        version: Which sealed rows stand before the segments; as the store numbers it.
    """

    segments: tuple[Segment, ...]
    head: int
    floor: int
    version: int = 0


class Row(NamedTuple):
    """Where an event is."""

    segment: Segment
    slot: int

    @property
    def id(self) -> int:
        """The event's id."""
        return self.segment.ids[self.slot]

    @property
    def ts(self) -> int:
        """The event's time."""
        return self.segment.ts[self.slot]


def _picked(column: Sequence[T], order: Iterable[int]) -> list[T]:
    return [column[slot] for slot in order]
