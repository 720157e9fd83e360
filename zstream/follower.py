"""A tail as callers hold it: it waits for what `zstream.following` brings."""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

from zstream.errors import Closed, TimedOut
from zstream.event import Event
from zstream.following import Following
from zstream.link.thread import Link
from zstream.tail import TailCore


class Tail:
    """Events of a filter as they are committed: an iterator that ends when the tail is closed.

    Made by ``Client.tail``. Whatever happens on the way, the reader gets each matching event once
    and in the order of ids: what was dropped, and what came while the daemon or the reader was
    away, is read from the store. Threads may share it; any thread may close it.
    """

    def __init__(
        self, owner: object, link: Link, core: TailCore, filter: Mapping[str, Any], timeout: float
    ) -> None:
        self._owner = owner  # a client that is let go of stops, and a tail needs it
        self._timeout = timeout
        self._changed = threading.Event()
        self._following = Following(link, core, filter, timeout, self._changed.set)
        self._reading = threading.Lock()
        self._events: Iterator[Event] = iter(())

    @property
    def cursor(self) -> str:
        """Where to resume: ``client.tail(filter, after=cursor)`` goes on behind the event that
        was read last, without a hole and without a double. As long as nothing is unread it moves
        on with the store, also when no event matches.
        """
        return self._following.cursor

    @property
    def is_closed(self) -> bool:
        """Whether the tail was closed, by itself or with its client."""
        return self._following.is_closed

    def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event, also as long as the daemon is away.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimedOut: No event came in time. The tail goes on.
            CursorLost: The store is not the one that was followed, or lost what was read.
            Trimmed: The store no longer has what comes next.
            Closed: The tail is closed.
        """
        for event in self._events:
            return event
        until = None if timeout is None else time.monotonic() + timeout
        with self._reading:
            while True:
                for event in self._events:  # another thread may have been here
                    return event
                self._changed.clear()
                events = self._following.take()
                if events is None:
                    left = None if until is None else until - time.monotonic()
                    if left is not None and (left <= 0 or not self._changed.wait(left)):
                        raise TimedOut(f"no event within {timeout:g} s")
                    if left is None:
                        self._changed.wait()
                else:
                    self._events = events
                    if self._following.is_closed:
                        self._events = iter(())

    def close(self) -> None:
        """Stop following. From any thread; a reader that waits stops waiting."""
        self._following.close()
        self._events = iter(())

    def start(self) -> None:
        """Subscribe, and wait until it is known where the tail begins; ``Client.tail`` does."""
        until = time.monotonic() + self._timeout
        self._following.start()
        try:
            while not self._following.has_started():
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    raise self._following.no_start()
                self._changed.clear()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        for event in self._events:
            return event
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
        self._following.abandon()
