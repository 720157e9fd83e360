"""What happens to clients when the process ends, and when it forks."""

import atexit
import gc
import os
import sys
import threading
import time
import weakref
from typing import Any, Final, Protocol

from zstream.errors import Closed

#: Seconds that the end of the process waits for confirmations: as long as a daemon is there,
#: and when nobody is.
EXIT_S: Final = 5.0
EXIT_ALONE_S: Final = 0.7


class Drainable(Protocol):
    """A link that runs."""

    def drain(self, start: float, timeout: float, alone: float) -> None:
        """Send what is left, within so many seconds from ``start``, and stop."""


class Forkable(Protocol):
    """A client."""

    def after_fork(self) -> None:
        """Begin anew in a forked child."""


_running: dict[int, Drainable] = {}
_clients: "weakref.WeakSet[Any]" = weakref.WeakSet()
#: What a forked child has of its parent's sockets: they must neither be used nor collected.
_inherited: list[object] = []
_finalized_pid = 0
_has_ended = False


def register(link: Drainable) -> None:
    """A link begins to run: it is to be drained at the end.

    Raises:
        Closed: The end has been, and what it were given now would be lost.
    """
    if _has_ended:
        raise Closed("the process is ending")
    _running[id(link)] = link
    _finalize_in_worker()


def start(thread: threading.Thread) -> None:
    """Start a thread under a lock that inserts take.

    The start waits until the thread runs. Were garbage collected in the thread before, a finalizer
    that inserts would wait for the lock, and so each for the other.

    Raises:
        RuntimeError: The interpreter starts no more threads.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        thread.start()
    finally:
        if was_enabled:
            gc.enable()


def forget(link: Drainable) -> None:
    """The link has stopped."""
    _running.pop(id(link), None)


def track(client: Forkable) -> None:
    """The client wants to know of forks."""
    _clients.add(client)


def keep(thing: object) -> None:
    """Never collect this: it belongs to the process that this one was forked from."""
    _inherited.append(thing)


def drain_all() -> None:
    """Drain every link that runs; they have the same seconds, because their threads all work."""
    global _has_ended
    _has_ended = True
    start = time.monotonic()
    for link in list(_running.values()):
        link.drain(start, EXIT_S, EXIT_ALONE_S)


def _finalize_in_worker() -> None:
    # A multiprocessing child ends by os._exit, after its own finalizers.
    global _finalized_pid
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is None or process is None or _finalized_pid == os.getpid():
        return
    if process.parent_process() is not None:
        _finalized_pid = os.getpid()
        util.Finalize(None, drain_all, exitpriority=0)


def _after_fork() -> None:
    keep(list(_running.values()))
    _running.clear()
    for client in list(_clients):
        client.after_fork()


atexit.register(drain_all)
os.register_at_fork(after_in_child=_after_fork)
