"""The newest rows of a store: indexed in memory until a run of them is sealed elsewhere."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from zstream.backends.index import Segment, View
from zstream.keys import Value

#: Is given a segment that is full, and the keys of which it has lists.
Full = Callable[[Segment, frozenset[int]], None]


class Newest:
    """What readers see beside the sealed runs. The thread that appends calls its methods.

    Args:
        view: What is sealed already: its head is the last id of that, and it has no segment.
        keys: How many keys the store has.
        seal_rows, seal_bytes: Rows, and bytes of what they hold, that make a run.
        full: Is told of a segment to which nothing is appended any more.

    Attributes:
        view: The rows in memory, for any thread.
    """

    def __init__(self, view: View, keys: int, seal_rows: int, seal_bytes: int, full: Full) -> None:
        self._seal_rows, self._seal_bytes, self._full = seal_rows, seal_bytes, full
        self._keys = keys
        self._viewing = threading.Lock()
        self.view = view
        self._begin_segment()

    @property
    def room(self) -> int:
        """Rows that the newest segment takes before it is full, at the most."""
        return self._seal_rows - len(self.view.segments[-1])

    def add(
        self, last: int, ids: Sequence[int], ts: Sequence[int], columns: Sequence[Sequence[Value]],
        size: int, listed: Iterable[int],
    ) -> None:  # fmt: skip
        """Let readers see rows that are stored.

        Args:
            last: The store has no other row up to this id.
            ids, ts, columns: The rows; ids rise.
            size: Bytes that they count for.
            listed: The keys of which they have lists.
        """
        segment = self.view.segments[-1]
        segment.extend(ids, ts, columns)
        self._several.update(listed)
        self._bytes += size
        full = len(segment) >= self._seal_rows or self._bytes >= self._seal_bytes
        several = frozenset(self._several)
        with self._viewing:
            self.view = replace(self.view, head=last)
        if full:
            segment.last = last
            self._begin_segment()
            self._full(segment, several)

    def _begin_segment(self) -> None:
        #: Of the segment that is appended to: the keys that have lists, bytes of its rows.
        self._several, self._bytes = set[int](), 0
        with self._viewing:
            view = self.view
            fresh = Segment(view.head + 1, self._keys)
            self.view = replace(view, segments=(*view.segments, fresh))

    def trim(self, floor: int) -> None:
        """Mask the rows up to an id."""
        with self._viewing:
            self.view = replace(self.view, floor=floor)

    def drop(self, segment: Segment, version: int) -> None:
        """A segment was sealed: the store has it in the runs of this version. Any thread."""
        with self._viewing:
            left = tuple(other for other in self.view.segments if other is not segment)
            self.view = replace(self.view, segments=left, version=version)

    def tidy(self, idle: bool) -> bool:
        """Index a batch that waits for it, if there is nothing else to do; tell if more wait."""
        left = [segment.settle(int(idle)) for segment in self.view.segments]
        return any(left)
