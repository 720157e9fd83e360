"""The session of the MySQL store that writes: its lock and transactions, and if it is lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from zstream.backends import mysql_link as link
from zstream.backends.mysql_errors import translated
from zstream.backends.wires import Wires
from zstream.errors import BackendConflict, BackendUnavailable, StoreLocked, StoreRewound


class Writer:
    """One session, with the lock; made anew when it is lost.

    Attributes:
        run: The run that this opening began, 0 before; nobody writes but in the newest run.
        last: The last id that is known to be stored.
    """

    def __init__(
        self, address: link.Address, lock_s: int, timeout_s: float | None, wires: Wires
    ) -> None:
        """Remember what sessions are made of; nothing is connected yet.

        Args:
            address: Where the server is.
            lock_s: How long to wait for another daemon that is ending, in seconds.
            timeout_s: How long an answer may take, in seconds.
            wires: Where to note the session, so that it can be cut.
        """
        self._wires = wires
        self._address, self._lock_s, self._timeout_s = address, lock_s, timeout_s
        self._mutex = threading.RLock()
        self._db: link.Session | None = None
        self._ours: set[int] = set()
        self._closed = False
        self.run = self.last = 0

    def connect(self) -> link.Session:
        """Make the first session and take the lock.

        Raises:
            StoreLocked: Another daemon has it.
        """
        self._db = db = link.Session(self._address, self._timeout_s, self._wires)
        link.check_server(db, self._address.name)
        link.lock(db, self._address.name, self._lock_s)
        self._ours = {db.id}
        return db

    @property
    def lost(self) -> bool:
        """Whether the session is gone, so that nobody knows whether it has committed."""
        db = self._db
        return (db is None or db.is_cut) and not self._closed

    def session(self) -> link.Session:
        """The session; if the last one was lost, another, and that one has ended.

        Raises:
            BackendConflict: Another daemon has been here meanwhile.
            StoreRewound: The store has less than is known to be stored.
        """
        with self._mutex:
            if self._closed:
                raise BackendUnavailable(f"{self._address.name} is not open")
            if self._db is not None and self._db.is_cut:
                self.drop()
            if self._db is None:
                self._db = self._connect_again()
            return self._db

    def _connect_again(self) -> link.Session:
        db = link.Session(self._address, self._timeout_s, self._wires)
        try:
            with suppress(StoreRewound):  # it will say so again
                self.check(db)  # before a session is ended that has only the number of ours
            before = set(self._ours)
            self._ours.add(db.id)  # it may have the lock although its answer is lost
            try:
                link.lock(db, self._address.name, self._lock_s, ours=before)
            except StoreLocked as error:
                raise BackendConflict(str(error)) from error
            self.check(db)
        except BaseException:
            db.close()
            raise
        self._ours = {db.id}
        return db

    def check(self, db: link.Session) -> int:
        """The last id that is stored, if the store is still ours; see `session`."""
        name = self._address.name
        newest, last, known = db.row(
            f"SELECT run, last, (SELECT COUNT(*) FROM runs WHERE run = {self.run}) FROM head"
        )
        if not known or (newest == self.run and last < self.last):
            raise StoreRewound(f"{name} went back to an earlier state: its last id is {last}")
        if newest != self.run:
            raise BackendConflict(f"{name}: another daemon was here while we were not")
        return int(last)

    @contextmanager
    def transaction(self) -> Iterator[link.Session]:
        """What the block does is committed at its end, or nothing of it."""
        with self._mutex:
            db = self.session()
            try:
                db.run("START TRANSACTION")
                yield db
                db.run("COMMIT")
            except BaseException as error:
                self._undo(db, error)
                raise

    def _undo(self, db: link.Session, error: BaseException) -> None:
        # Who was interrupted in the midst of an answer cannot go on with the session.
        if isinstance(error, Exception):
            try:
                with translated(self._address.name):
                    db.run("ROLLBACK")
                return
            except BackendUnavailable as failure:
                error.add_note(f"nor could it be rolled back: {failure}")
        self.drop()

    def drop(self) -> None:
        """Leave the session as it is; the next one ends it on the server."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def close(self) -> None:
        """Give the lock back and end the session."""
        with self._mutex:
            self._closed = True
            if self._db is not None:
                link.unlock(self._db)
            self.drop()
