"""The thread that keeps the PostgreSQL store's partitions: room ahead, indexes behind.

It has a connection of its own, so that no append waits for it while there is room. What it
cannot do just now, such as against a person's open transaction, it tries again.
"""

import logging
import threading
from contextlib import suppress
from typing import Final

import psycopg

from zstream.backends import postgres_link as link
from zstream.backends import postgres_parts as parts
from zstream.backends.postgres_rows import Rows
from zstream.backends.wires import Wires
from zstream.errors import BackendError

#: How long the server may take to hear that a statement is to end, in seconds.
_CANCEL_S: Final = 1.0

_log = logging.getLogger("zstream.backends.postgres")


class Widths:
    """How many rows a partition is to hold, by what the newest rows were like.

    Args:
        rows, body_bytes, text_bytes: None holds more.
        first_rows: So many the first one holds, when nothing is known of the rows yet.
    """

    def __init__(self, rows: int, body_bytes: int, text_bytes: int, first_rows: int) -> None:
        self._rows, self._body_bytes, self._text_bytes = rows, body_bytes, text_bytes
        self._width = min(first_rows, rows)
        self._seen = [0, 0, 0]

    def note(self, rows: int, body_bytes: int, text_bytes: int) -> None:
        """Rows were appended."""
        seen = self._seen
        if seen[0] > self._rows:  # what was long ago counts less and less
            seen[:] = [each // 2 for each in seen]
        for place, more in enumerate((rows, body_bytes, text_bytes)):
            seen[place] += more

    def start_from(self, width: int) -> None:
        """A store that exists goes on as it was until rows come."""
        self._width = min(width, self._rows)

    def next(self) -> int:
        """The rows of the next partition."""
        rows, body_bytes, text_bytes = self._seen
        if rows >= self._width // 2 and rows > 0:
            by_bodies = self._body_bytes * rows // max(body_bytes, 1)
            by_texts = self._text_bytes * rows // max(text_bytes, 1)
            self._width = max(min(self._rows, by_bodies, by_texts), 1)
        return self._width


class Keeper(threading.Thread):
    """Attaches partitions ahead of the rows, and seals those that are full.

    Args:
        address: The store.
        rows: What its readers see.
        keys: How many keys it has.
        widths: How large partitions are to be.
        lock_timeout_s: How long a statement waits for somebody else's transaction, in seconds.
        retry_s: How long to wait after a failure, in seconds.
        wires: Where its connection is noted, so that it can be cut.

    Attributes:
        failure: Why the last try failed, or None.
    """

    def __init__(
        self, address: link.Address, rows: Rows, keys: int, widths: Widths,
        *, lock_timeout_s: float, retry_s: float, wires: Wires,
    ) -> None:  # fmt: skip
        super().__init__(name="zstream-postgres-keeper", daemon=True)
        self._address, self._rows, self._keys, self._widths = address, rows, keys, widths
        self._lock_timeout_s, self._retry_s, self._wires = lock_timeout_s, retry_s, wires
        self._attaching = threading.Lock()
        self._wanted = threading.Event()
        self._wanted.set()
        self._stepped = threading.Condition()
        self._ending = threading.Event()
        self._db: link.Connection | None = None
        self._before: tuple[int, str] | None = None
        self.failure: str | None = None

    def wake(self) -> None:
        """There may be something to do."""
        self._wanted.set()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; return whether it came to that."""
        self.wake()
        with self._stepped:
            return self._stepped.wait_for(self._is_at_rest, timeout_s)

    def hold_back(self, most: int, timeout_s: float) -> None:
        """Wait a little while too many full partitions wait for their indexes.

        Their rows stand in memory. If indexing them fails, there is nothing to wait for.

        Args:
            most: So many may wait.
            timeout_s: How long to wait, in seconds.
        """
        if len(self._all_full()) > most and self.failure is None:
            with self._stepped:
                self._stepped.wait_for(
                    lambda: len(self._all_full()) <= most or self.failure is not None, timeout_s
                )

    def _is_at_rest(self) -> bool:
        return not self.lacks_room() and not self._all_full()

    def stop(self) -> None:
        """End it, also in the midst of a statement: what that did is undone."""
        self._ending.set()
        self._wanted.set()
        while self.is_alive():
            db = self._db
            if db is not None and not link.was_cut(db):  # else nobody would hear of it
                with suppress(psycopg.Error):  # it was about to end by itself
                    _cancel(db)
            self.join(0.1)

    def run(self) -> None:
        """Work whenever there is something to do."""
        try:
            while not self._ending.is_set():
                self._wanted.wait()
                self._wanted.clear()
                self._work()
        finally:
            self._disconnect()

    def _work(self) -> None:
        try:
            while not self._ending.is_set() and self._step():
                self.failure = None
                with self._stepped:
                    self._stepped.notify_all()
        except (psycopg.Error, BackendError) as error:
            if self._ending.is_set():
                return
            said = " ".join(str(error).split())
            if said != self.failure:
                _log.warning("%s: a partition cannot be kept yet: %s", self._address.name, said)
            self.failure = said
            with self._stepped:
                self._stepped.notify_all()
            if self._db is not None and link.broken(self._db):
                self._disconnect()
            self._ending.wait(self._retry_s)
            self._wanted.set()
        else:
            self.failure = None

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _connection(self) -> link.Connection:
        if self._db is not None and link.broken(self._db):
            self._disconnect()
        if self._db is None:
            self._db = db = link.connect(self._address, self._lock_timeout_s, self._wires)
            db.execute(parts.SETTINGS)
            before, self._before = self._before, link.identity(db)
            if before is not None:  # it may live on at the server, with its locks
                link.end(db, [before])
        return self._db

    def _step(self) -> bool:
        """Do one thing; return whether there was one."""
        now = self._rows.snapshot
        if self.lacks_room():
            self.reserve(self._connection(), now.room + 1)
            return True
        full = self._all_full()
        if not full:
            return False
        part = full[0]
        try:
            sealed = parts.seal(self._connection(), part, self._keys)
        except psycopg.errors.UndefinedTable:
            if part in self._rows.snapshot.parts:
                raise
            return True  # it was trimmed and dropped meanwhile
        self._rows.seal(sealed)
        return True

    def _all_full(self) -> list[parts.Part]:
        """The partitions that are full, not sealed, and not trimmed altogether."""
        now = self._rows.snapshot
        view = now.view
        return [part for part in now.parts if view.floor < part.last <= view.head]

    def lacks_room(self) -> bool:
        """Whether there is no empty partition beyond the one that rows come into."""
        now = self._rows.snapshot
        return not now.parts or now.parts[-1].first <= now.view.head + 1

    def reserve(self, db: link.Connection, last: int) -> None:
        """Attach partitions until there is room up to an id.

        Args:
            db: The caller's connection: the writer may be in greater need than this thread.
            last: The id.
        """
        with self._attaching:
            now = self._rows.snapshot
            if now.room < last:
                # One that is there already: its commit was not heard of.
                for part in parts.load(db)[0]:
                    if part.first > now.room:
                        self._rows.attach(part)
            while (room := self._rows.snapshot.room) < last:
                part = parts.Part(room + 1, room + self._widths.next())
                parts.attach(db, part)
                self._rows.attach(part)


def _cancel(db: link.Connection) -> None:
    # The older way waits for the server with the GIL in its hand, for ever if nothing comes.
    if hasattr(db, "cancel_safe"):
        db.cancel_safe(timeout=_CANCEL_S)
    else:
        db.cancel()
