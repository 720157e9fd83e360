"""The session of the Redis store that writes: its lock, and the run that it writes in."""

import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from zstream.backends import redis_link as link
from zstream.backends import redis_scripts as scripts
from zstream.backends import redis_server as server
from zstream.backends.redis_errors import Moved, is_refusal
from zstream.errors import (
    BackendConflict,
    BackendError,
    BackendUnavailable,
    StoreLocked,
    StoreMismatch,
    StoreRewound,
)  # fmt: skip

#: How long until a lock is tried again, in seconds.
_PAUSE_S: Final = 0.02


class Opened:
    """What was opened: which runs there were, and how far it has come.

    Attributes:
        run: The run that this opening began.
        head: The last id that is known to be stored.
        closed: Whether nobody is to be told of what others did.
    """

    def __init__(
        self, name: str, run: int, earlier: Iterable[int], head: int, acts: int, word: str
    ) -> None:
        """Begin with what a store says of itself.

        Args:
            name: The store, as it may be shown.
            run, earlier: The run that is written in, and those before it.
            head: The last id.
            acts: How much was done to it; see `redis_scripts`.
            word: The last word of the lock.
        """
        self._name, self._earlier = name, frozenset(earlier)
        self.run, self.head, self.closed = run, head, False
        self._acts, self._word = acts, word
        self._noting = threading.Lock()

    def note(self, acts: int) -> None:
        """From now on the store has seen so many acts. Any thread."""
        with self._noting:
            self._acts = max(self._acts, acts)

    def judge(self, moved: Moved) -> BackendError:
        """What it means that a script found the store otherwise."""
        if self.closed:
            return BackendUnavailable(f"{self._name} is not open")
        if moved.run is None:
            return StoreRewound(f"{self._name}: the store was emptied while it was open")
        if moved.run in self._earlier:
            return StoreRewound(f"{self._name}: the store is an older copy of what was opened")
        if moved.run != self.run:
            return BackendConflict(f"{self._name}: another daemon has the store")
        if moved.last is None or moved.last < self.head:
            return StoreRewound(
                f"{self._name}: the server has events up to {moved.last or 0} only, and had them up"
                f" to {self.head}"
            )
        if moved.acts < self._acts:
            return StoreRewound(f"{self._name}: the server lost what was done last")
        if moved.word != self._word:
            return BackendConflict(f"{self._name}: somebody else took its lock meanwhile")
        return BackendConflict(
            f"{self._name}: the last id is {moved.last}, and not the one that was expected"
        )

    def ask(self, session: link.Session, script: link.Script, *args: Any) -> Any:
        """Execute a script that checks the run and the head first.

        Raises:
            StoreRewound, BackendConflict: It found them otherwise.
        """
        try:
            return session.run(script, self.run, self.head, *args, self._acts, self._word)
        except Moved as moved:
            raise self.judge(moved) from moved


class Lock:
    """Who writes to the store: a session that is still connected.

    The store's hash names it by the life of the server, the number of its connection there and a
    random word; so nothing has to be renewed, and who has died has given it back.

    Attributes:
        word: The random word: the last 16 characters of the text.
        held: The text of the lock as it was taken last.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.word, self.held = secrets.token_hex(8), ""

    def of(self, session: link.Session, life: str) -> str:
        """The text of this lock when it is held by a session, as it is to be from now on."""
        self.held = f"{life} {session.ask('CLIENT', 'ID')} {self.word}"
        return self.held

    def holder(self, session: link.Session, text: str, life: str) -> str:
        """Who holds the lock with this text, in words; "" if nobody does."""
        held, _, rest = text.partition(" ")
        number = rest.partition(" ")[0]
        if not number.isdecimal() or held != life:
            return ""
        listed = session.ask("CLIENT", "LIST", "ID", number).decode(errors="replace").split()
        address = next((each[5:] for each in listed if each.startswith("addr=")), "")
        return f"connection {number} from {address}" if address else ""

    def await_free(self, session: link.Session, prefix: str, life: str, patience_s: float) -> str:
        """Wait until nobody holds the lock; return what stands there all the same.

        Raises:
            StoreLocked: Somebody held it for all of this time.
        """
        until = time.monotonic() + patience_s
        while True:
            found = session.ask("HGET", prefix, "lock")
            text = "" if found is None else str(found.decode(errors="replace"))
            mine = text.endswith(f" {self.word}")  # over a connection that was given up
            who = "" if mine else self.holder(session, text, life)
            if not who:
                return text
            if time.monotonic() > until:
                raise StoreLocked(f"{self._name}: another daemon has the store open ({who})")
            time.sleep(_PAUSE_S)


class Writer:
    """One session, with the lock; made anew when it is lost."""

    def __init__(
        self, address: link.Address, session: link.Session, lock: Lock, opened: Opened,
        timeout_s: float,
    ) -> None:  # fmt: skip
        self._address, self._timeout_s = address, timeout_s
        self._session: link.Session | None = session
        self._lock, self.opened = lock, opened
        self._mutex = threading.Lock()
        self._closed = False

    def run(self, script: link.Script, *args: Any) -> Any:
        """Execute a script, which is told of the lock; see `Opened.ask`."""
        with self._mutex:
            session = self._session or self._connect()
            try:
                return self.opened.ask(session, script, *args, self._lock.held)
            except (StoreRewound, BackendConflict):
                raise
            except BaseException as error:
                if not (isinstance(error, BackendError) and is_refusal(error)):
                    self._drop()
                raise

    def _connect(self) -> link.Session:
        if self._closed:
            raise BackendUnavailable(f"{self._address.name} is not open")
        session = self._session = link.Session(self._address, self._timeout_s)
        try:
            life = server.check(session, self._address.name).id
            self.opened.ask(session, scripts.RELOCK, self._lock.of(session, life))
        except StoreMismatch as error:  # somebody set the server otherwise, and may set it back
            self._drop()
            raise BackendUnavailable(str(error)) from error
        except BaseException:
            self._drop()
            raise
        return session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def interrupt(self) -> None:
        """Make the call under way fail at once."""
        session = self._session
        if session is not None:
            session.interrupt()

    def close(self) -> None:
        """Give the lock back and end the session."""
        with self._mutex:
            self._closed = True
            if self._session is not None:
                with suppress(BackendError):  # who opens it next finds the connection gone
                    self._session.run(scripts.UNLOCK, self._lock.held)
            self._drop()
