"""The link: one background thread that owns a client's sockets.

Callers leave events in the outbox and commands in a queue, and wake the thread if it sleeps. It
starts with the first of them. No code of a caller runs in it but ``on_refused``.
"""

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from zstream import lifecycle
from zstream.endpoints import Endpoints
from zstream.errors import Closed
from zstream.link.follows import FollowChannel
from zstream.link.greeting import Greeting
from zstream.link.inserts import InsertChannel, Tell
from zstream.link.ports import Ports
from zstream.link.queries import QueryChannel, Request
from zstream.link.sockets import Bell, Port, Sockets, check_libzmq
from zstream.link.telling import OnRefused, Telling
from zstream.outbox import Outbox
from zstream.outcome import warn_of_end
from zstream.patched import check_unpatched
from zstream.source import Keeper, MemoryQueue, Source

#: Seconds to wait for the thread's end once it was told.
_JOIN_S: Final = 2.0
#: Seconds between turns when the interpreter starts no more threads, and all work is done in one.
_LATE_S: Final = 0.005

_log = logging.getLogger("zstream")


class Link:
    """The thread.

    Args:
        endpoints: Of the daemon.
        outbox: Where the events are; it wakes this link.
        on_refused: Hears of refused events, in the thread.
        keeper: Takes the events out of the outbox and keeps them beyond the process; None to let
            this link take them and keep them in memory.

    Attributes:
        greeting: What is known of the daemon.
        is_connected: Whether a socket has a connection.
    """

    def __init__(
        self, endpoints: Endpoints, outbox: Outbox, on_refused: OnRefused | None,
        keeper: Keeper | None = None,
    ) -> None:  # fmt: skip
        check_libzmq()
        self.url = endpoints.query
        self.is_connected = False
        self._endpoints = endpoints
        self._outbox = outbox
        self._pid = os.getpid()
        # Reentrant, because a signal handler or a finalizer may come in the middle. They are two
        # because `drain` waits for the outbox, which wakes, and so starts, with its lock held.
        self._start_lock, self._drain_lock = threading.RLock(), threading.RLock()
        self._starts = itertools.count()
        self._commands: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._is_dozing = self._is_retired = self._is_stopped = self._is_drained = False
        self._has_more = self._is_late = False
        self._queries = QueryChannel(endpoints.query)
        self.greeting = Greeting(endpoints.query, self._queries.submit)
        self.follows = FollowChannel(endpoints.query, self._queries.submit)
        self._inserts = InsertChannel(
            self._queries.submit, self.follows.follow, self.follows.leave, self.greeting.hear
        )
        self._telling = Telling(outbox, on_refused)
        self._keeper = keeper
        self._queue: MemoryQueue | None = None
        if keeper is None:
            outbox.wake = self.wake
            self._queue = MemoryQueue()
            self._inserts.add(self._queue, self._telling.memory)
        else:
            keeper.meet(self)
            self._inserts.add(keeper.source, self._telling.spooled)

    # ------------------------------------------------------------ any thread

    def wake(self) -> None:
        """Wake the thread; start it if it does not run."""
        if self._thread is None:
            self._start()
        if self._bell is not None:
            self._bell.ring()

    def submit(self, request: Request) -> Request:
        """Send a request; wait for the reply with its ``wait``.

        Raises:
            Closed: The link is stopped, or belongs to the process that this one was forked from.
        """
        self.do(lambda: self._queries.submit(request))
        if self._is_stopped:  # perhaps before it saw this
            request.finish(error=Closed("the client is closed"))
        return request

    def send(self, source: Source, tell: Tell | None = None) -> None:
        """Send what another source has, until it is over; raises Closed as ``submit`` does.

        Args:
            source: It calls ``wake`` when it has something new.
            tell: Hears what became of it, in the thread; without it ``on_refused`` hears of what
                was refused, and the log.
        """
        self.do(lambda: self._inserts.add(source, tell or self._telling.adopted))

    def do(self, command: Callable[[], None]) -> None:
        """Have something done in the thread. Raises Closed as ``submit`` does."""
        if self._is_over():
            raise Closed("the client is closed")
        self._commands.append(command)
        if self._is_dozing or self._thread is None:
            self.wake()
        if self._is_late:
            raise Closed("the process is ending, and starts no more threads")

    def hand(self, command: Callable[[], None]) -> None:
        """Have something done in the thread if it runs. It takes no lock: finalizers call it."""
        self._commands.append(command)
        if self._bell is not None:
            self._bell.ring()

    def retire(self) -> None:
        """Nobody uses the client any more: send what it has, then stop. It takes no lock."""
        self._is_retired = True
        if self._bell is not None:
            self._bell.ring()

    def drain(self, start: float, timeout: float, alone: float) -> None:
        """Send what is left, then stop.

        Args:
            start: By the monotonic clock; from when the seconds count.
            timeout: Seconds to wait at the most.
            alone: Seconds to wait as long as nobody is connected.
        """
        if self._thread is threading.current_thread():
            self.retire()  # on_refused closes the client: it cannot wait for itself
            return
        with self._drain_lock:
            if self._is_over():
                return
            if self._is_late:
                self._run(lambda: self._outbox.is_drained(start, timeout, alone))
            missing = self._outbox.drain(start, timeout, alone)
            is_first, self._is_drained = not self._is_drained, True
            self._is_stopped = True
            if self._bell is not None:
                self._bell.ring()
            if self._thread is not None:
                self._thread.join(_JOIN_S)
            if self._keeper is not None:
                self._keeper.join()
        if missing and is_first:
            warn_of_end(missing, self.url, self.is_connected, self._keeper)

    def disown(self) -> None:
        """Close what a forked child can close of its parent's without touching libzmq."""
        if self._bell is not None:
            self._bell.close()

    def check(self) -> None:
        """Refuse to wait for a link that is stopped, or in its own thread.

        Raises:
            Closed: It is stopped, or belongs to the process that this one was forked from.
            RuntimeError: This is its own thread, which would wait for itself for ever.
        """
        if self._is_over():
            raise Closed("the client is closed")
        if self._thread is threading.current_thread():
            raise RuntimeError("on_refused runs in the client's own thread: it must not wait there")

    def _is_over(self) -> bool:
        return self._is_stopped or self._pid != os.getpid()

    def _start(self) -> None:
        check_unpatched()  # once more: a worker may patch what it was forked with
        with self._start_lock:
            # One step, not a look and a note: a signal handler's insert may come in between, and
            # the lock lets it in.
            if self._is_stopped or next(self._starts):
                return  # it runs, or is about to
            lifecycle.register(self)
            self._bell = Bell()
            thread = threading.Thread(target=self._run, name="zstream-link", daemon=True)
            try:
                lifecycle.start(thread)
            except RuntimeError:
                self._is_late = True  # the interpreter is ending: `drain` does the work
                return
            self._thread = thread

    # ------------------------------------------------------------ the thread

    def _run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        assert self._bell is not None
        self._outbox.threads.add(threading.get_ident())
        try:
            if self._keeper is not None:
                self._keeper.start()
            self._sockets = Sockets(self._endpoints)
            self._ports = Ports(self._bell)
            self._insert: Port | None = None
            self.follows.begin(lambda: self._ports.watch(self._sockets.publish()), self._drop)
            try:
                self._query = self._ports.watch(self._sockets.query())
                while not (self._is_stopped or is_over()):
                    self._turn(time.monotonic())
                    self._sleep()
            finally:
                self._sockets.close()
        except Exception:  # noqa: BLE001 - a defect must be heard of; callers time out, none hangs
            _log.exception("the client's thread failed")
            self.greeting.problem = "the client's thread failed; the log says more"
        finally:
            self._is_stopped = True
            self._outbox.close()
            self._queries.close()
            self.follows.close()
            if self._keeper is not None:
                self._keeper.stop()
            self._bell.close()
            lifecycle.forget(self)

    def _turn(self, now: float) -> None:
        while self._commands:
            self._commands.popleft()()
        self._read_monitors()
        self.greeting.turn(now)
        self._has_more = self.follows.turn(now)
        self._queries.turn(self._query, now)
        if self._queue is not None:
            self._queue.put(self._outbox.take())
        elif self._keeper is not None:
            self._keeper.help()
        if self._insert is None and (self._outbox.unsettled or self._inserts.count > 1):
            self._insert = self._ports.watch(self._sockets.insert())
        if self._insert is not None:
            self._inserts.turn(self._insert, now)
            self._queries.turn(self._query, now)
            self._ports.poll_out(self._insert, self._inserts.is_blocked, reads=False)
        self._ports.poll_out(self._query, self._queries.is_blocked(self._query))
        if self._is_retired and not self._outbox.unsettled:
            self._is_stopped = True

    def _sleep(self) -> None:
        now = time.monotonic()
        self._is_dozing = True
        is_napping = self._inserts.nap_until > now
        if (
            self._commands
            or self._has_more
            or self._inserts.has_answers  # it came with this turn's last look at the socket
            or self._is_stopped
            or not (is_napping or self._queue is None or self._outbox.sleep())
        ):
            self._ports.wait((), now)
        else:
            self._ports.wait((
                self._queries.wake_at(), self._inserts.wake_at(), self.greeting.wake_at,
                self._inserts.nap_until if is_napping else None, self.follows.wake_at(),
                now + _LATE_S if self._is_late else None,
            ), now)  # fmt: skip
        self._is_dozing = False
        if self._queue is not None:
            self._outbox.wake_up()

    def _read_monitors(self) -> None:
        for port in self._ports:
            happened = port.read_monitor()
            if not happened:
                continue
            if port is self._insert:
                self._inserts.monitor(happened)
            elif port is self._query and not all(happened):
                self._queries.disconnected()
            elif port is self.follows.port:
                self.follows.monitor(happened)
            is_connected = any(each.is_connected for each in (self._query, self._insert) if each)
            if is_connected != self.is_connected:
                self.is_connected = is_connected
                self._outbox.tell_connected(is_connected)

    def _drop(self, port: Port) -> None:
        self._ports.forget(port)
        self._sockets.drop(port)
