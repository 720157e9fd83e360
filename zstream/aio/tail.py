"""A tail for asyncio: the events are those of `zstream.following`; here a task awaits them."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self

from zstream.aio.bridge import Waiters
from zstream.errors import Closed, TimedOut
from zstream.event import Event
from zstream.following import Following
from zstream.link.thread import Link
from zstream.tail import TailCore


class AsyncTail:
    """Events of a filter as they are committed: an iterator that ends when the tail is closed.

    Made by ``await AsyncClient.tail``. It is what `zstream.Tail` is, but awaited. Events that are
    there already are handed out at once; other tasks have their turn between two pages of them.
    A read that is cancelled has taken no event.
    """

    def __init__(
        self, owner: object, link: Link, core: TailCore, filter: Mapping[str, Any], timeout: float
    ) -> None:
        self._owner = owner  # a client that is let go of stops, and a tail needs it
        self._timeout = timeout
        # The link holds these two, and must not hold the tail: it is to be let go of.
        self._waiters = Waiters()
        self._following = Following(link, core, filter, timeout, self._waiters.wake)
        self._reading = threading.Lock()  # for tasks of several loops; held while nobody waits
        self._events: Iterator[Event] = iter(())

    @property
    def cursor(self) -> str:
        """Where to resume, as `zstream.Tail.cursor`."""
        return self._following.cursor

    @property
    def is_closed(self) -> bool:
        """Whether the tail was closed, by itself or with its client."""
        return self._following.is_closed

    async def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event, as `zstream.Tail.get`."""
        for event in self._events:
            return event
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        await asyncio.sleep(0)
        while (found := self._poll() or await self._waiters.wait(until, self._poll)) is None:
            if until is not None and loop.time() >= until:
                raise TimedOut(f"no event within {timeout:g} s")
        return found[0]

    async def close(self) -> None:
        """Stop following; a task that waits for an event stops waiting."""
        self._end()

    async def aclose(self) -> None:
        """Stop following, for `contextlib.aclosing`."""
        self._end()

    async def start(self) -> None:
        """Subscribe, and wait until it is known where it begins; ``AsyncClient.tail`` does."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        started = self._following.has_started
        try:
            self._following.start()
            while not (started() or await self._waiters.wait(until, lambda: started() or None)):
                if loop.time() >= until:
                    raise self._following.no_start()
        except BaseException:
            self._end()
            raise

    def _poll(self) -> tuple[Event] | None:
        """The next event, if it is there; an event may be empty, and then would be false."""
        with self._reading:
            for event in self._events:  # another task may have been here
                return (event,)
            events = self._following.take()
            if events is None:
                return None
            self._events = events
            for event in events:
                return (event,)
        return None

    def _end(self) -> None:
        self._following.close()
        self._events = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        for event in self._events:
            return event
        try:
            return await self.get()
        except Closed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def __del__(self) -> None:
        # No locks: the garbage collector may run in the middle of anything.
        self._following.abandon()
