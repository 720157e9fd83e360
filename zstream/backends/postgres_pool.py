"""The connections that read the PostgreSQL store: as many as there are readers at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zstream.backends import postgres_link as link
from zstream.backends.wires import Wires
from zstream.errors import BackendUnavailable


class Pool:
    """Lends connections, and keeps them for the next ones."""

    def __init__(self, address: link.Address, lock_timeout_s: float, wires: Wires) -> None:
        """Remember the place; nothing is connected yet."""
        self._address, self._wires = address, wires
        self._lock_timeout_s = lock_timeout_s
        self._idle: list[link.Connection] = []
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[link.Connection]:
        """Lend one. One that an error came out of is not lent again."""
        if self._closed:
            raise BackendUnavailable(f"{self._address.name} is not open")
        db = self._kept() or link.connect_reader(self._address, self._lock_timeout_s, self._wires)
        try:
            yield db
        except BaseException:
            db.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(db)
                return
        db.close()

    def _kept(self) -> link.Connection | None:
        while True:
            try:
                db = self._idle.pop()
            except IndexError:
                return None
            if not link.broken(db):
                return db
            db.close()

    @property
    def idle(self) -> bool:
        """Whether the next one may have been closed by the server meanwhile."""
        return bool(self._idle)

    def forget(self) -> None:
        """Close those that nobody uses: the server may have closed them."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Lend no more."""
        with self._lock:
            self._closed = True
        self.forget()
