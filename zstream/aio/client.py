"""The client for asyncio, a skin over what `zstream.Client` is a skin over.

The sockets belong to the same background thread: it costs a lone query some 70 µs more than a
socket in the loop would, and gives inserts that wait for no loop, one client for several loops,
forks, and an orderly end in return.
"""

import asyncio
import time
from asyncio import Future
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal, Self, TypeVar, overload

from zstream import calls
from zstream.aio.bridge import in_thread, post, wait_until, wake
from zstream.aio.tail import AsyncTail
from zstream.base import ClientBase
from zstream.calls import Call
from zstream.errors import BufferFull, Error
from zstream.event import Page
from zstream.packing import Fields
from zstream.queries import Filter, make_filter, make_query, make_start, make_trim
from zstream.times import Time

T = TypeVar("T")

#: Events that are packed before other tasks have their turn.
_TURN: Final = 500


class AsyncClient(ClientBase):
    """A connection to a daemon, for asyncio. Tasks, loops and threads may share it.

    Arguments, names, results and errors are those of `zstream.Client`, but every method is
    awaited. Making one does no I/O. As an asynchronous context manager it closes at the end.
    ``on_refused`` is a plain function and runs in the background thread.

    A call that is cancelled is forgotten: a query is given up, an ``insert`` that waited for room
    inserted nothing. Only of an ``insert(wait=True)`` it is unknown whether it was stored, and a
    ``close`` goes on by itself.
    """

    # ------------------------------------------------------------ inserts

    @overload
    async def insert(
        self, event: Fields, *, date: Time | None = None, wait: Literal[False] = False
    ) -> None: ...

    @overload
    async def insert(
        self, event: Fields, *, date: Time | None = None, wait: Literal[True]
    ) -> int: ...

    @overload
    async def insert(
        self, event: Fields, *, date: Time | None = None, wait: bool
    ) -> int | None: ...

    async def insert(
        self, event: Fields, *, date: Time | None = None, wait: bool = False
    ) -> int | None:
        """Insert an event, as `zstream.Client.insert`; it only waits with ``wait``, and for room
        with ``on_full="block"``.
        """
        element = self._packer.element(event, date)
        if wait:
            return (await self._run(calls.insert([element])))[0]
        if self._options.on_full == "block":
            await self._put(element)
        else:
            self._outbox.put(element)
        return None

    async def insert_many(
        self, events: Iterable[Fields] | AsyncIterable[Fields], *, wait: bool = False
    ) -> list[int] | None:
        """Insert events in their order, as `zstream.Client.insert_many`; other tasks have their
        turn meanwhile.

        Args:
            events: Maps; an iterator, asynchronous or not, is read as there is room.
            wait: Wait until all are on disk.
        """
        async with aclosing(self._pack(events)) as elements:
            if wait:
                return await self._run(calls.insert([element async for element in elements]))
            async for element in elements:
                await self._put(element)
        return None

    async def flush(self, timeout: float = 5.0) -> None:
        """Wait until all that was inserted before is on disk, as `zstream.Client.flush`."""
        self._link.check()
        outbox = self._outbox
        flush = outbox.begin_flush()
        await wait_until(outbox, lambda: outbox.progress.settled >= flush.mark, timeout)
        outbox.end_flush(flush, timeout)

    async def _put(self, element: bytes) -> None:
        outbox = self._outbox
        while True:
            try:
                return outbox.put(element, "raise")
            except BufferFull:
                await wait_until(outbox, lambda: outbox.is_ready(element), None)

    async def _pack(
        self, events: Iterable[Fields] | AsyncIterable[Fields]
    ) -> AsyncGenerator[bytes, None]:
        place = 0
        if isinstance(events, AsyncIterable):
            async for event in events:
                yield self._packer.nth(place, event)
                place += 1
            return
        for element in self._packer.elements(events):
            yield element
            place += 1
            if place % _TURN == 0:
                await asyncio.sleep(0)

    # ------------------------------------------------------------ queries

    async def items(
        self, filter: Filter | None = None, /, *, start: int = 0, end: int | None = None,
        since: Time | None = None, until: Time | None = None, before: str | None = None,
        **keys: Any,
    ) -> Page:  # fmt: skip
        """Read events, newest first, as `zstream.Client.items`."""
        query = make_query(filter, keys, since, until, self._tz)
        return await self._run(calls.items(query, start, end, before))

    async def count(
        self, filter: Filter | None = None, /, *, since: Time | None = None,
        until: Time | None = None, **keys: Any,
    ) -> int:  # fmt: skip
        """Count events, as `zstream.Client.count`."""
        return await self._run(calls.count(make_query(filter, keys, since, until, self._tz)))

    async def trim(self, *, before: Time | None = None, upto: int | None = None) -> int:
        """Forget the oldest events for good, as `zstream.Client.trim`."""
        return await self._run(calls.trim(make_trim(before, upto, self._tz)))

    async def info(self) -> dict[str, Any]:
        """What the daemon knows of itself, as `zstream.Client.info`."""
        return await self._run(calls.info())

    async def ping(self) -> float:
        """Ask the daemon for a sign of life; returns the seconds that it took."""
        start = time.perf_counter()
        await self._run(calls.ping())
        return time.perf_counter() - start

    async def _run(self, call: Call[T]) -> T:
        try:
            ask = next(call)
            while True:
                try:
                    reply = await self._ask(*ask)
                except Error as error:
                    ask = call.throw(error)
                else:
                    ask = call.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _ask(
        self, op: str, fields: Mapping[str, Any], packed: Mapping[str, bytes] | None = None
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        answered: Future[None] = loop.create_future()
        request = self._submit(op, fields, packed, lambda _: post(loop, answered))
        # The link's thread ends it in time; the second is for a thread that did not.
        left = max(0.0, request.until - time.monotonic()) + 1.0
        timer = loop.call_later(left, wake, answered)
        try:
            await answered
        finally:
            timer.cancel()
            if not request.is_done:
                request.is_cancelled = True
                self._link.wake()
        return request.result()

    # ------------------------------------------------------------ following

    async def tail(
        self, filter: Filter | None = None, /, *, after: int | str | None = None,
        since: Time | None = None, **keys: Any,
    ) -> AsyncTail:  # fmt: skip
        """Follow events as they are committed, oldest first, as `zstream.Client.tail`."""
        wanted = make_filter(filter, keys)
        start = make_start(after, since, self._tz)
        tail = AsyncTail(self, self._link, start, wanted, self._options.timeout)
        self._tails.add(tail)
        await tail.start()
        return tail

    # ------------------------------------------------------------ the rest

    async def stats(self) -> dict[str, Any]:
        """What this client knows of itself, as `zstream.Client.stats`; it asks nobody."""
        return self._stats()

    async def close(self) -> None:
        """Send what is left and stop, as `zstream.Client.close`."""
        await in_thread(self._close)

    def _close_tails(self) -> None:
        for tail in list(self._tails):
            tail._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
