"""A tail as callers hold it: the rules of `zstream.tail` over the link of a client."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from zstream import wire
from zstream.errors import Busy, Closed, DecodeError, Error, TimedOut, Unavailable, VersionMismatch
from zstream.event import Event
from zstream.link.queries import Request, unavailable
from zstream.link.thread import Link
from zstream.tail import TailCore

#: Bytes of publications that wait for a tail's reader; what comes beyond them is dropped.
FEED_BYTES: Final = 16 << 20
#: What a publication takes in memory beside its bytes, about.
_OVERHEAD: Final = 200
#: Seconds between two tries of a replay that the daemon had no time for, at the least.
_RETRY_S: Final = 0.1


class Feed:
    """Publications on their way from the link's thread to a reader, bounded in bytes."""

    def __init__(self, limit: int = FEED_BYTES) -> None:
        self.changed = threading.Condition()
        self.is_closed = False
        self._limit = limit
        self._frames: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._is_cut = False

    def push(self, header: bytes, body: bytes) -> None:
        """Take one, or drop it and all after it until the reader has come so far."""
        size = len(header) + len(body) + _OVERHEAD
        with self.changed:
            if self.is_closed or self._is_cut:
                return
            if self._bytes + size > self._limit and self._frames:
                self._is_cut = True
                return
            self._frames.append((header, body))
            self._bytes += size
            self.changed.notify_all()

    def pop(self) -> tuple[bytes, bytes] | None:
        """The next one, or None."""
        with self.changed:
            if not self._frames:
                return None
            frames = self._frames.popleft()
            self._bytes -= len(frames[0]) + len(frames[1]) + _OVERHEAD
            return frames

    def mend(self) -> bool:
        """Whether publications were dropped behind the last one; then it takes them again."""
        with self.changed:
            was_cut, self._is_cut = self._is_cut, False
            return was_cut

    def wait(self, until: float | None, is_there: Callable[[], bool] | None = None) -> bool:
        """Wait until the feed is closed, or it is there, or by default: until there is a frame.

        Args:
            until: By the monotonic clock; None waits for ever.
            is_there: What to wait for instead of frames; `notify` makes it look again.

        Returns:
            False if it is time and nothing happened.
        """
        if is_there is None:
            is_there = self._has_frames
        with self.changed:
            while not (self.is_closed or is_there()):
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self.changed.wait(left)
            return True

    def _has_frames(self) -> bool:
        return bool(self._frames) or self._is_cut

    def notify(self, request: Request) -> None:
        """A request of the reader is done."""
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits; take no more."""
        with self.changed:
            self.is_closed = True
            self._frames.clear()
            self.changed.notify_all()


class Tail:
    """Events of a filter as they are committed: an iterator that ends when the tail is closed.

    Made by ``Client.tail``. One thread at a time reads it; any thread may close it.
    """

    def __init__(
        self, owner: object, link: Link, topic: bytes, core: TailCore, timeout: float
    ) -> None:
        self._owner = owner  # a client that is let go of stops, and a tail needs it
        self._link, self._topic, self._core, self._timeout = link, topic, core, timeout
        self._feed = Feed()
        self._pid = os.getpid()
        self._reading = threading.Lock()
        self._request: Request | None = None
        self._retry_at = 0.0

    @property
    def cursor(self) -> str:
        """Where to resume: ``client.tail(filter, after=cursor)`` goes on behind the event that
        was read last, without a hole and without a double.
        """
        return self._core.cursor

    @property
    def is_closed(self) -> bool:
        """Whether the tail was closed, by itself or with its client."""
        return self._feed.is_closed

    def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimedOut: No event came in time. The tail goes on.
            TailGap: Events were missed; ``error.cursor`` says where to go on from.
            CursorLost, Trimmed: The store cannot go on from there.
            Unavailable, Busy: A page of history could not be had (so does TimedOut); the next
                call tries again.
            Closed: The tail is closed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        self._check()
        with self._reading:
            while (event := self._core.take()) is None:
                if self._feed.is_closed:
                    raise Closed("the tail is closed")
                if not self._step(until):
                    raise TimedOut(f"no event within {timeout:g} s")
            return event

    def close(self) -> None:
        """Stop following. From any thread; a reader that waits stops waiting."""
        # A forked child must not touch the parent's locks: another thread may have held them.
        if self._pid == os.getpid() and not self._feed.is_closed:
            self._feed.close()
            self._link.leave(self._topic, self._feed.push)

    def start(self) -> None:
        """Subscribe, and wait for the first HELLO; ``Client.tail`` does."""
        until = time.monotonic() + self._timeout
        self._link.check()
        self._link.follow(self._topic, self._feed.push)
        try:
            while not self._core.has_started:
                self._core.take()
                if self._feed.is_closed:
                    raise Closed("the client is closed")
                if not self._step(until):
                    raise self._no_hello()
        except BaseException:
            self.close()
            raise

    def _no_hello(self) -> Error:
        if not self._link.is_connected:
            return unavailable(self._link.url)
        return TimedOut(f"tail: the daemon did not answer within {self._timeout:g} s")

    def _step(self, until: float | None) -> bool:
        """Do one thing that may bring the next event: read a publication, get a page, wait.

        Returns:
            False if it is time and there was nothing to do.
        """
        if self._core.wants_publications:
            frames = self._feed.pop()
            if frames is not None:
                self._publication(*frames)
            elif self._feed.mend():
                self._core.dropped()
            else:
                self._core.caught_up()
                return self._feed.wait(until)
            return True
        if self._request is None:
            return self._ask(until)
        request = self._request
        if not self._feed.wait(until, lambda: request.is_done):
            return False
        if request.is_done:
            self._request = None
            self._take_page(request)
        return True

    def _publication(self, header: bytes, body: bytes) -> None:
        try:
            self._core.publication(wire.decode_header(header), body)
        except (DecodeError, VersionMismatch) as error:
            self._core.fail(error)

    def _ask(self, until: float | None) -> bool:
        fields = self._core.wanted()
        if fields is None:
            return True
        soon = self._retry_at if until is None else min(self._retry_at, until)
        if time.monotonic() < soon and not self._feed.wait(soon, lambda: False):
            return until is None or time.monotonic() < until
        self._request = self._link.submit(
            Request("replay", fields, self._timeout, self._feed.notify)
        )
        return True

    def _take_page(self, request: Request) -> None:
        try:
            self._core.page(request.result())
        except (Unavailable, Busy, TimedOut) as error:
            # It may be better soon: the caller decides, and the next call asks again.
            self._retry_at = time.monotonic() + max(_RETRY_S, getattr(error, "retry_s", 0.0))
            raise
        except Error as error:
            self._core.fail(error)

    def _check(self) -> None:
        if self._feed.is_closed:
            raise Closed("the tail is closed")
        if self._pid != os.getpid():
            raise Closed("the tail belongs to the process that this one was forked from")
        self._link.check()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return self.get()
        except Closed:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # No locks: the garbage collector may run in the middle of anything.
        if self._pid == os.getpid():
            self._link.leave(self._topic, self._feed.push)
