"""Rows of the store that the writer has in memory whole: producers, and registered filters."""

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from zstream.backends.base import Producer, Registration

Row = TypeVar("Row", Producer, Registration)


class Aged(NamedTuple, Generic[Row]):
    """What becomes of some rows with time.

    Attributes:
        heard: Rows to write, because what they stand for was heard of since they were written.
        gone: Keys of the rows to forget.
    """

    heard: list[Row]
    gone: list[bytes]


class Rows(Generic[Row]):
    """Rows by their keys, with the changes of the transaction that is being made.

    Args:
        known: The rows of the store. They change here only by ``commit`` and ``settle``, once
            the store has them.

    Attributes:
        stored: What the store has; any thread may read it.
    """

    def __init__(self, known: Mapping[bytes, Row]) -> None:
        self.stored: dict[bytes, Row] = dict(known)
        self._changed: dict[bytes, Row] = {}
        self._heard: dict[bytes, int] = {}

    def changes(self) -> list[Row]:
        """The rows that the transaction writes."""
        return list(self._changed.values())

    def commit(self) -> None:
        """The store has the changes: make them known."""
        self.stored.update(self._changed)
        self._changed.clear()

    def hear(self, key: bytes, now: int) -> None:
        """Note that a row is of use; from any thread, and without writing it.

        Args:
            key: The row's; it may not be there.
            now: Microseconds since 1970 UTC.
        """
        if key in self.stored:
            self._heard[key] = now

    def age(self, keys: Iterable[bytes], stale_us: int, keep_us: int | None, now: int) -> Aged[Row]:
        """Look which of some rows are to be written because they are of use, and which to go.

        Args:
            keys: The rows'; they need not be there any more.
            stale_us: A row that was heard of so much later than it says is written.
            keep_us: A row that was not heard of for so long goes; None keeps all.
            now: Microseconds since 1970 UTC.
        """
        found: Aged[Row] = Aged([], [])
        for key in keys:
            row = self.stored.get(key)
            if row is None:
                continue
            heard = max(row.seen, self._heard.get(key, 0))
            if heard > row.seen + stale_us:
                found.heard.append(row._replace(seen=heard))
            elif keep_us is not None and heard < now - keep_us:
                found.gone.append(key)
        return found

    def settle(self, aged: Aged[Row]) -> None:
        """The store has done what ``age`` found."""
        self.stored.update((row[0], row) for row in aged.heard)
        for key in aged.gone:
            del self.stored[key]
            self._heard.pop(key, None)
