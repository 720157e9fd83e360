"""The spool: one background thread that keeps a client's inserts in files.

It takes events out of the outbox, commits them, and only then hands them to the link. Callers meet
it nowhere: they leave events in the outbox, which wakes it.
"""

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Final

from zstream.errors import Closed
from zstream.outbox import Outbox
from zstream.source import Waker
from zstream.spool.adopter import Adopter
from zstream.spool.folder import Folder
from zstream.spool.source import FileSource
from zstream.spool.writer import Writer

#: Seconds that the end waits for the disk.
_END_S: Final = 5.0

_log = logging.getLogger("zstream")


class Spool:
    """The thread. See `zstream.source.Keeper` for what the link needs of it.

    Args:
        path: Of the folder, which exists.
        url: The daemon's query endpoint.
        sync_s: Seconds after an insert in which it is synced.
        limit: Bytes that all lanes in the folder may have, about.
        outbox: Where the events are.

    """

    def __init__(self, path: str, url: str, sync_s: float, limit: int, outbox: Outbox) -> None:
        self.path = path
        self._outbox = outbox
        # Its put is safe in signal handlers and finalizers.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        folder = Folder(path, url)
        self._writer = Writer(folder, sync_s, limit, outbox, self.ring)
        self._adopter = Adopter(folder, self.ring, self._send)

    # ------------------------------------------------------------ any thread

    @property
    def source(self) -> FileSource:
        """The client's own lane, for the link."""
        return self._writer.source

    @property
    def unwritten(self) -> int:
        """Events that were put and are in memory only."""
        return self._writer.unwritten

    @property
    def problem(self) -> str | None:
        """Why nothing can be written, or None."""
        return self._writer.problem

    def stats(self) -> dict[str, Any]:
        """What ``Client.stats`` tells of it."""
        own, source = self._writer.source.file, self._adopter.source
        adopted = source.file if source is not None else None
        times = [file.oldest for file in (own, adopted) if file and file.oldest is not None]
        return {
            "events": own.events if own else 0,
            "bytes": own.bytes if own else 0,
            "adopted": adopted.events if adopted else 0,
            "oldest": min(times, default=None),
            "problem": self.problem,
        }

    def ring(self) -> None:
        """Wake the thread. It takes no lock."""
        self._bell.put(None)

    def meet(self, link: Waker) -> None:
        """Know the link, which starts this with itself."""
        self._link = link
        self._outbox.wake = self._wake

    def _wake(self) -> None:
        if self._thread is None:
            self._link.wake()
        self.ring()

    def start(self) -> None:
        """Start the thread, if the interpreter starts any more; no lock may be held."""
        thread = threading.Thread(target=self._run, name="zstream-spool", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def help(self) -> None:
        """Do the thread's work in the link's, if it could not be started."""
        if self._thread is None:
            self._turn()

    def stop(self) -> None:
        """Write and sync what is left, and close the files, for which it does not wait.

        The link uses the sources no more.
        """
        self._is_stopped = True
        self.ring()
        if self._thread is None:
            self._end()

    def join(self) -> None:
        """Wait for the end, as long as a disk may take."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_END_S)

    # ------------------------------------------------------------ the thread

    def _turn(self) -> None:
        now = time.monotonic()
        self._writer.others = self._adopter.others
        is_new = self._writer.turn(now)
        is_new |= self._adopter.turn(self._writer.path, now)
        if is_new:
            self._link.wake()

    def _run(self) -> None:
        self._outbox.threads.add(threading.get_ident())
        try:
            while not self._is_stopped:
                self._turn()
                self._sleep()
            self._end()
        except Exception:  # noqa: BLE001 - a defect must be heard of; what is written is safe
            _log.exception("the spool's thread failed")
            self._writer.problem = "the spool's thread failed; the log says more"
            self._outbox.close()

    def _sleep(self) -> None:
        now = time.monotonic()
        wakes = (self._writer.wake_at(now), self._adopter.wake_at())
        wait_s = min(each for each in wakes if each is not None) - now
        if now >= self._writer.takes_at() and wait_s > 0 and not self._outbox.sleep():
            wait_s = 0.0
        try:
            self._bell.get(timeout=max(0.0, wait_s))
            while True:  # before the turn, which sees whatever they were rung for
                self._bell.get_nowait()
        except Empty:
            self._outbox.wake_up()

    def _end(self) -> None:
        self._writer.finish(time.monotonic())
        self._adopter.finish()

    def _send(self, source: FileSource) -> None:
        try:
            self._link.send(source)
        except Closed:
            _log.debug("the client is closed: an adopted lane waits for another one")
