"""An index of rows in memory: one writer appends while readers read without a lock.

Rows stand in segments. For each key a segment numbers the values it meets; a value's number
leads to its newest entry, and every entry to the one before it, in flat arrays: a quarter of a
million rows cost some 40 MB where a list for each value costs 70 and feeds the collector.

The writer only ever appends, and a row is there for a reader once the reader's snapshot counts
it. So every structure is complete up to a row before that row is counted, and what is beyond it
is passed over. Columns may wait to be indexed until somebody asks for a value of theirs: rows
that nobody queries before they are sealed elsewhere then cost next to nothing.
"""

import threading
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import le
from typing import NamedTuple, TypeVar

from zstream.keys import Value

T = TypeVar("T")

#: The number of a row that has no value, and of one that has several.
_NONE, _SEVERAL = -1, -2


class KeyIndex:
    """What one segment knows of one key.

    Attributes:
        numbers: Every value of the segment, and its number.
        newest: By number: the value's newest entry.
        sizes: By number: how many rows have the value.
        codes: By slot: the number of the row's value, or that it has none or several.
        several: By slot, for rows with a list: the numbers of its values.
    """

    __slots__ = ("_lock", "_more_older", "_more_slots", "_older", "_waiting", "codes", "newest",
                 "numbers", "several", "sizes")  # fmt: skip

    def __init__(self) -> None:
        self._waiting: deque[Iterable[Value]] = deque()
        self._lock = threading.Lock()
        self.numbers: dict[str, int] = {}
        self.newest = array("i")
        self.sizes = array("i")
        self.codes = array("i")
        self.several: dict[int, tuple[int, ...]] = {}
        # A row's first value has the entry of the row's slot; the others of a list have entries
        # from -2 downwards, which stand in arrays of their own.
        self._older = array("i")
        self._more_older = array("i")
        self._more_slots = array("i")

    def append(self, column: Iterable[Value]) -> None:
        """Append rows, to be indexed before the next look at them; the column is kept till then."""
        self._waiting.append(column)

    def settle(self, columns: int | None = None) -> bool:
        """Index what waits, or so many columns of it; tell whether more waits."""
        # Whoever finds nothing waiting while another thread still indexes the last of it waits
        # for that thread: the lock is taken before a column is.
        while (self._waiting or self._lock.locked()) and columns != 0:
            with self._lock:
                if self._waiting:
                    self._extend(self._waiting.popleft())
            columns = None if columns is None else columns - 1
        return bool(self._waiting)

    def _extend(self, column: Iterable[Value]) -> None:
        numbers, newest, sizes = self.numbers, self.newest, self.sizes
        find, code, link = numbers.get, self.codes.append, self._older.append
        for slot, value in enumerate(column, len(self.codes)):
            if value is None:
                link(-1)
                code(_NONE)
            elif type(value) is tuple:
                self._extend_several(slot, value)
            else:
                number = find(value)  # type: ignore[arg-type]
                if number is None:
                    link(-1)
                    newest.append(slot)
                    sizes.append(1)
                    number = len(numbers)
                    numbers[value] = number  # type: ignore[index]  # now a reader can find it
                else:
                    link(newest[number])
                    newest[number] = slot
                    sizes[number] += 1
                code(number)

    def _extend_several(self, slot: int, values: tuple[str, ...]) -> None:
        numbers = []
        entry = slot
        for value in values:
            number = self.numbers.get(value)
            older = -1 if number is None else self.newest[number]
            if entry == slot:
                self._older.append(older)
            else:
                self._more_slots.append(slot)
                self._more_older.append(older)
            if number is None:
                number = len(self.newest)
                self.newest.append(entry)
                self.sizes.append(1)
                self.numbers[value] = number
            else:
                self.newest[number] = entry
                self.sizes[number] += 1
            numbers.append(number)
            entry = -2 - len(self._more_slots)
        self.several[slot] = tuple(numbers)
        self.codes.append(_SEVERAL)

    def wanted(self, values: Iterable[str]) -> frozenset[int]:
        """The numbers of those values that occur here; the first thing to ask for."""
        self.settle()
        found = map(self.numbers.get, values)
        return frozenset(number for number in found if number is not None)

    def matches(self, slot: int, wanted: frozenset[int]) -> bool:
        """Whether a row has one of the values."""
        code = self.codes[slot]
        return code in wanted or (code == _SEVERAL and not wanted.isdisjoint(self.several[slot]))

    def size(self, wanted: Iterable[int]) -> int:
        """Rows that have one of the values, a row with several of them counted for each."""
        return sum(map(self.sizes.__getitem__, wanted))

    def slots(self, number: int, end: int) -> Iterator[int]:
        """The slots below ``end`` of the rows that have a value, newest first."""
        older, more_slots, more_older = self._older, self._more_slots, self._more_older
        entry = self._enter(number, end)
        while entry != -1:
            if entry >= 0:
                yield entry
                entry = older[entry]
            else:
                yield more_slots[-2 - entry]
                entry = more_older[-2 - entry]

    def _enter(self, number: int, end: int) -> int:
        """The value's newest entry below a slot.

        Walks the chain down and the rows down, in step: of a frequent value a row turns up
        soon, and the chain of a rare one is short.
        """
        codes, row = self.codes, end - 1
        entry = self.newest[number]
        while entry != -1:
            slot = entry if entry >= 0 else self._more_slots[-2 - entry]
            if slot < end:
                return entry
            if row >= 0:
                if codes[row] == number:
                    return row
                row = -1 if codes[row] == _SEVERAL else row - 1
            entry = self._older[entry] if entry >= 0 else self._more_older[-2 - entry]
        return -1

    def column(self, count: int) -> list[Value]:
        """The values of the first rows, as they were appended."""
        self.settle()
        names: list[Value] = [*self.numbers, None]  # None is met by _NONE = -1
        several = self.several
        return [
            names[code] if code != _SEVERAL else tuple(str(names[n]) for n in several[slot])
            for slot, code in enumerate(islice(self.codes, count))
        ]


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
