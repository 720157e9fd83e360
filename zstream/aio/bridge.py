"""From a client's thread to the loops that await it, and from a loop to a thread that may wait."""

import asyncio
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from zstream.outbox import Outbox

T = TypeVar("T")


def post(loop: AbstractEventLoop, waiting: "Future[None]") -> None:
    """Wake whoever awaits the future, from another thread."""
    try:
        loop.call_soon_threadsafe(wake, waiting)
    except RuntimeError:
        if not loop.is_closed():  # then nobody waits there any more
            raise


def wake(waiting: "Future[None]") -> None:
    """Wake whoever awaits the future, unless he was woken or gave up."""
    if not waiting.done():
        waiting.set_result(None)


class Waiters:
    """Tasks of any loops, which wait for the same thing."""

    def __init__(self) -> None:
        self._waiting: list[tuple[AbstractEventLoop, Future[None]]] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._waiting)

    def wake(self) -> None:
        """Wake them all; from any thread."""
        for loop, waiting in list(self._waiting):
            post(loop, waiting)

    async def wait(self, until: float | None, look: Callable[[], T | None]) -> T | None:
        """Wait until they are woken, or by the loop's clock it is time.

        Args:
            until: When to stop waiting, or None.
            look: What to wait for may be there already; looked for once.

        Returns:
            What ``look`` found; then there is no waiting, and nothing to be cancelled.
        """
        loop = asyncio.get_running_loop()
        waiting: Future[None] = loop.create_future()
        self._waiting.append((loop, waiting))
        timer = None if until is None else loop.call_at(until, wake, waiting)
        try:
            found = look()  # at what came before it was known who waits
            if found is None:
                await waiting
            return found
        finally:
            self._waiting.remove((loop, waiting))
            if timer is not None:
                timer.cancel()


async def wait_until(outbox: Outbox, happened: Callable[[], bool], timeout: float | None) -> None:
    """Wait until something happened to the outbox, or it is time.

    Args:
        outbox: What tells of it.
        happened: Whether it did; called in any thread, with the outbox's lock held or not.
        timeout: Seconds to wait at the most; None waits for ever.
    """
    if happened():
        return
    loop = asyncio.get_running_loop()
    waiting: Future[None] = loop.create_future()

    def look() -> None:
        if happened():
            post(loop, waiting)

    timer = None if timeout is None else loop.call_later(timeout, wake, waiting)
    outbox.watchers.append(look)
    try:
        look()  # at what happened since the first look
        await waiting
    finally:
        outbox.watchers.remove(look)
        if timer is not None:
            timer.cancel()


async def in_thread(work: Callable[[], None]) -> None:
    """Do something that waits in a thread of its own. It goes on if this is cancelled."""
    done: futures.Future[None] = futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            done.set_exception(error)
        else:
            done.set_result(None)

    try:
        threading.Thread(target=run, name="zstream-aio", daemon=True).start()
    except RuntimeError:
        run()  # the interpreter is ending, and starts no more threads
    await asyncio.wrap_future(done)
