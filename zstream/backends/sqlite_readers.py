"""The connections that read a SQLite store: one is lent to a thread for the time of a page."""

from collections.abc import Iterator
from contextlib import contextmanager

from zstream.backends import sqlite_file, sqlite_index
from zstream.backends.sqlite_read import Reader


class Readers:
    """Readers that are idle; a thread that finds none makes one.

    Args:
        path: The row file.
        busy_s: How long to wait for another program's transaction, in seconds.
        budget: Rows that one page looks at.
    """

    def __init__(self, path: str, busy_s: float, budget: int) -> None:
        self._path, self._busy_s, self._budget = path, busy_s, budget
        self.idle: list[Reader] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Reader]:
        """Lend one; it is thrown away if an error comes out of it."""
        try:
            reader = self.idle.pop()
        except IndexError:
            index = sqlite_index.path_of(self._path)
            db = sqlite_file.connect_reader(self._path, index, self._busy_s)
            reader = Reader(db, self._budget)
        try:
            yield reader
        except BaseException:
            reader.db.close()
            raise
        self.idle.append(reader)
        if self._closed:  # meanwhile
            self.close()

    def close(self) -> None:
        """Close those that are idle now, and the others when they come back."""
        self._closed = True
        while self.idle:
            self.idle.pop().db.close()
