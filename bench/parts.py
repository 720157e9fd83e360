"""Processes that take part in a benchmark: each runs one function, and obeys over a pipe."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

#: Seconds that a part may take for one order.
ORDER_S = 120.0

SPAWN = multiprocessing.get_context("spawn")


class _Failure(str):
    """What went wrong in a part."""


class Part:
    """A process, as `part` gives it.

    Attributes:
        pid: Of the process.
    """

    def __init__(self, pid: int, orders: Connection) -> None:
        self.pid = pid
        self._orders = orders

    def tell(self, *order: Any) -> None:
        """Give an order; returns at once."""
        self._orders.send(order)

    def hear(self, within: float = ORDER_S) -> Any:
        """Wait for what the part says next.

        Raises:
            TimeoutError: It said nothing in time.
            RuntimeError: It failed, and why.
        """
        if not self._orders.poll(within):
            raise TimeoutError(f"a part said nothing for {within:.0f} s")
        try:
            said = self._orders.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("a part ended without a word") from error
        if isinstance(said, _Failure):
            raise RuntimeError(str(said))
        return said

    def has_spoken(self) -> bool:
        """Whether `hear` would not wait."""
        return self._orders.poll()


@contextmanager
def part(work: Callable[..., None], *given: Any) -> Iterator[Part]:
    """Run a module's function in a process of its own until the block ends.

    Args:
        work: Called there with a pipe and ``given``. Orders are tuples; None ends it.
    """
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_live, args=(work, there, given), daemon=True)
    process.start()
    there.close()
    assert process.pid is not None
    try:
        yield Part(process.pid, here)
        here.send(None)
        process.join(20)
    finally:
        process.kill()
        process.join()


def _live(work: Callable[..., None], orders: Connection, given: tuple[Any, ...]) -> None:
    try:
        work(orders, *given)
    except Exception as error:
        orders.send(_Failure(f"{work.__name__}: {error!r}"))
        raise


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process stand still for the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def number() -> Any:
    """A number that parts share: ``.value``, 0 at first. One of them writes, the others read."""
    return SPAWN.RawValue("Q", 0)
