"""The life of the process that serves: ready, signals, stopped."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

from zstream import __version__
from zstreamd.cli.exits import Exit, exit_code, explain
from zstreamd.notify import notify
from zstreamd.settings import Settings

if TYPE_CHECKING:
    from zstreamd.server import Server

# The name that the log's lines have said since there is a log.
log = logging.getLogger("zstreamd.cli")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(settings: Settings) -> Exit:
    """Serve until a signal says stop, or until it cannot go on."""
    # Late, so that --help and --version load no server.
    from zstreamd.server import Server

    try:
        server = Server(settings)
        with closing(server), stop_on_signals(server.stop, server.stop_fd):
            server.open()
            _say_ready(settings, server)
            try:
                server.run()
            finally:
                notify("STOPPING=1")
                try:
                    server.close()
                finally:
                    _say_stopped(server)
    except Exception as error:  # The last place where it can be logged.
        code = exit_code(error)
        if code is Exit.FORCED:
            log.critical("a defect ended zstreamd: %r", error, exc_info=True)
        else:
            message = explain(error, code, settings.store_name)
            log.error("%s", message, extra={"event": "failed", "exit": int(code)})
        return code
    return Exit.OK


def _say_ready(settings: Settings, server: "Server") -> None:
    query, insert, publish = server.endpoints
    keys = list(server.head.keys)
    log.info(
        "zstreamd %s ready: query %s insert %s publish %s store %s keys %s",
        __version__, query, insert, publish, settings.store_name, ",".join(keys),
        extra={
            "event": "ready", "query": query, "insert": insert, "publish": publish,
            "store": settings.store_name, "keys": keys, "version": __version__,
            "pid": os.getpid(),
        },
    )  # fmt: skip
    notify(f"READY=1\nSTATUS=Serving {query}")


def _say_stopped(server: "Server") -> None:
    counters = server.counters
    received, stored, refused = counters.received, counters.stored, counters.refused
    lost = received - stored - refused
    log.log(
        logging.ERROR if lost else logging.INFO,
        "stopped: received %d = stored %d + refused %d%s",
        received, stored, refused, f" + not known to be stored {lost}" if lost else "",
        extra={
            "event": "stopped", "received": received, "stored": stored, "refused": refused,
            "lost": lost,
        },
    )  # fmt: skip


@contextmanager
def stop_on_signals(stop: Callable[[], None], stop_fd: int = -1) -> Iterator[None]:
    """Call ``stop`` at the first signal that asks for it; at the second leave at once.

    Args:
        stop_fd: Gets a byte the moment a signal comes. ``handle`` runs between two bytecodes of
            the main thread only: a signal that meets it on its way into ``poll()``, or that the
            kernel gives to another thread, would not be noticed before ``poll()`` returns.
    """
    told = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(Exit.FORCED)
        told = True
        stop()

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handle)
    before_fd = signal.set_wakeup_fd(stop_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)


def hold_standard_files() -> None:
    """Open what of stdin, stdout and stderr the parent closed.

    The next file opened would take the free descriptor, and a log line would go into a socket.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
