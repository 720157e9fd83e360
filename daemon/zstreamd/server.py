"""The I/O thread: it owns every socket, never decodes an event, and carries what others made.

Per turn: subscriptions first, then what the writer and the query threads have to say, then
requests, then inserts; each drained without blocking and bounded.
"""

import gc
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import zmq

from zstream import __version__
from zstream.backends import open_backend
from zstream.backends.base import Backend, Head
from zstream.endpoints import Endpoints
from zstream.errors import DecodeError
from zstreamd.counters import Counters
from zstreamd.inbox import Inbox, Item, Malformed, Numbered, Subscription, costs
from zstreamd.opening import Limits
from zstreamd.operations import Operations
from zstreamd.outage import Outage
from zstreamd.outbox import Outbox
from zstreamd.query import QueryPool
from zstreamd.receive import Receiver
from zstreamd.rejects import Rejects
from zstreamd.router import Router
from zstreamd.settings import Settings
from zstreamd.sockets import Sockets
from zstreamd.watch import Patience, Watch
from zstreamd.writer import Writer

#: What one turn takes from a socket at the most.
_TURN_MESSAGES: Final = 256
_TURN_BYTES: Final = 8 << 20
#: How often one turn looks into the insert socket at the most, as long as it finds so much.
_TURN_BURSTS: Final = 4
_FULL_BURST: Final = 32
#: Publications after which libzmq's own thread is given a moment to send them: thousands at once,
#: as after many subscriptions over one connection, would pass its high-water mark.
_SEND_BURST: Final = 40
_SEND_PAUSE_S: Final = 0.001
#: Seconds for the last bounded drain of the insert socket, and for queries to end, at the stop.
_LAST_DRAIN_S: Final = 0.1
_QUERIES_END_S: Final = 5.0


class Server:
    """One daemon: its store, its sockets, its threads.

    Args:
        settings: As checked; nothing is opened yet.

    Attributes:
        endpoints: Where it really listens, once open.
        head: What the store said when it was opened.
    """

    endpoints: Endpoints
    head: Head

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._backend: Backend | None = None
        self._sockets: Sockets | None = None
        self._watch: Watch | None = None
        self._outbox = Outbox(settings.publish_bytes)
        self._inbox = Inbox(settings.queue_bytes, self._outbox.ring)
        self._stop_reader, self._stop_writer = os.pipe()
        os.set_blocking(self._stop_writer, False)
        self._started = time.time_ns() // 1000

    @property
    def stop_fd(self) -> int:
        """A descriptor that ends ``run`` when a byte is written to it; it never blocks."""
        return self._stop_writer

    @property
    def counters(self) -> Counters:
        """What was received, stored and refused since the start."""
        return self._writer.counters

    def open(self) -> None:
        """Open the store and listen.

        Raises:
            ConfigError, EndpointTaken, StoreLocked, StoreMismatch, BackendError: As they say.
        """
        settings = self._settings
        backend = open_backend(settings.store)
        self.head = backend.open(settings.keys)
        self._backend = backend
        self._sockets = Sockets()
        self._sockets.bind(settings.endpoints)
        self.endpoints = self._sockets.endpoints
        outage, patience = Outage(), Patience()
        self._writer = Writer(
            backend, self.head, self._inbox, self._outbox, Rejects(settings.reject_path),
            outage, patience, commit_events=settings.commit_events,
            limits=Limits(settings.max_filters, settings.keep, settings.producer_keep),
            on_end=self.stop,
        )  # fmt: skip
        operations = Operations(backend, self._writer, self._inbox, outage, self._about)
        self._pool = pool = QueryPool(operations, settings.query_threads, outage)
        self._watch = Watch(backend, outage, patience, pool.give_up, pool.is_overdue)
        self._inserts = Receiver(self._sockets.insert, 2)
        self._subscriptions = Receiver(self._sockets.publish, 1)
        self._router = Router(self._sockets.query, self._pool, self._outbox)

    def run(self) -> None:
        """Serve until ``stop`` is called.

        Raises:
            BackendError: The store was lost for good; what waited could not be stored.
        """
        # The GIL's switch interval is what a query waits for beside a busy writer.
        sys.setswitchinterval(0.0005)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        self._writer.start()
        self._pool.start()
        assert self._watch is not None
        self._watch.start()
        try:
            self._serve()
        finally:
            self._finish()
        if self._writer.failure is not None:
            raise self._writer.failure

    def stop(self) -> None:
        """End ``run``; from a signal handler or any thread, any number of times."""
        try:
            os.write(self._stop_writer, b"!")
        except (BlockingIOError, OSError):
            return  # it was told often enough, or it is closed

    def close(self) -> None:
        """Close sockets and store; a second time does nothing."""
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        if self._backend is not None:
            self._backend.close()  # under watch: it may wait for a server that does not answer
            if self._watch is not None:
                self._watch.end()
                self._backend.close()  # what was opened for the last probe
            self._backend = None

    def _about(self) -> Mapping[str, Any]:
        now = time.time_ns() // 1000
        return {
            "version": __version__,
            "store": self._backend.name if self._backend else "",
            "endpoints": self.endpoints._asdict(),
            "started": self._started,
            "uptime_s": (now - self._started) / 1e6,
            "drops": self._outbox.dropped,
        }

    # ------------------------------------------------------------ the loop

    def _serve(self) -> None:
        sockets = self._sockets
        assert sockets is not None
        poller = zmq.Poller()
        for readable in (self._stop_reader, self._outbox.fileno()):
            poller.register(readable, zmq.POLLIN)
        reads_inserts = reads_queries = False
        while True:
            if reads_inserts is self._inbox.full:  # back-pressure goes on or off
                reads_inserts = not reads_inserts
                for socket in (sockets.insert, sockets.publish):  # subscriptions wait there too
                    poller.modify(socket, zmq.POLLIN if reads_inserts else 0)
            if reads_queries is self._router.is_crowded:
                reads_queries = not reads_queries
                poller.modify(sockets.query, zmq.POLLIN if reads_queries else 0)
            ready = dict(poller.poll())
            if self._stop_reader in ready:
                return
            if sockets.publish in ready:
                self._take_subscriptions()
            if self._outbox.fileno() in ready:
                self._send()
            if sockets.query in ready:
                self._router.take()
            if sockets.insert in ready:
                self._take_inserts()

    def _take_subscriptions(self) -> None:
        taken: list[Item] = []
        for frames in self._subscriptions.messages(_TURN_MESSAGES):
            frame = frames[0]
            if len(frames) == 1 and frame[:1] in (b"\0", b"\1"):
                taken.append(Subscription(frame[1:], frame[:1] == b"\1"))
            else:
                error = DecodeError("the publish socket takes subscriptions and nothing else")
                taken.append(Malformed(b"".join(frames), error))
        self._inbox.put(taken, costs(taken))

    def _take_inserts(self) -> None:
        taken: list[Item] = []
        size = 0
        # libzmq holds few messages of a producer: while one batch of them is put together here,
        # the next has come, and to look again is cheaper than to poll.
        for _ in range(_TURN_BURSTS):
            messages = self._inserts.burst(_TURN_MESSAGES, _TURN_BYTES)
            burst: list[Item] = [
                _multipart(message) if isinstance(message, list) else message
                for message in messages
            ]
            taken += burst
            size += costs(burst)
            if len(burst) < _FULL_BURST or len(taken) > _TURN_MESSAGES or size > _TURN_BYTES:
                break
        self._inbox.put(taken, size)

    def _send(self) -> None:
        replies, publications = self._outbox.take()
        for reply, request_bytes in replies:
            self._router.answer(reply, request_bytes)
        assert self._sockets is not None
        send = self._sockets.publish.send_multipart
        for count, message in enumerate(publications, 1):
            send(message, zmq.NOBLOCK, copy=True)
            if count % _SEND_BURST == 0:
                time.sleep(_SEND_PAUSE_S)

    # ------------------------------------------------------------ the end

    def _finish(self) -> None:
        """Commit what was read, answer, publish; then end the threads."""
        assert self._sockets is not None
        until = time.monotonic() + _LAST_DRAIN_S
        while time.monotonic() < until and self._sockets.insert.poll(0):
            self._take_inserts()
        self._pool.stop(_QUERIES_END_S)
        self._writer.stop()
        while self._writer.is_alive():
            self._writer.join(0.02)
            self._send()
        self._send()


def _multipart(frames: list[bytes]) -> Item:
    if len(frames) == 2:
        return Numbered(*frames)
    error = DecodeError("an insert is one frame, or the two of a numbered batch; these are more")
    return Malformed(b"".join(frames), error)
