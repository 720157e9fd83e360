"""What a segment of rows in memory knows of one key; see `zstream.backends.index`."""

import threading
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from zstream.keys import Value

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
