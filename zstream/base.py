"""What all clients have, however they wait: their settings, what they hold, what a fork does."""

import os
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

from zstream import lifecycle
from zstream.endpoints import Endpoints
from zstream.link.queries import Request
from zstream.link.telling import OnRefused
from zstream.link.thread import Link
from zstream.options import Options, find_endpoints
from zstream.outbox import OnFull, Outbox
from zstream.packing import Default, Packer
from zstream.patched import check_unpatched

if TYPE_CHECKING:
    from zstream.spool.thread import Spool


class ClientBase:
    """The part of a client that never waits. The arguments are those of ``Client``; see there."""

    def __init__(
        self,
        url: str | Endpoints | None = None,
        *,
        timeout: float = 5.0,
        buffer_bytes: int = 64 << 20,
        on_full: OnFull = "drop",
        spool: str | os.PathLike[str] | None = None,
        spool_sync: float = 0.05,
        spool_bytes: int = 1 << 30,
        default: Default | None = None,
        tz: tzinfo | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        check_unpatched()
        self._endpoints = find_endpoints(url)
        self.url = self._endpoints.query
        self._options = Options(
            timeout, buffer_bytes, on_full, spool, spool_sync, spool_bytes, default, tz, on_refused
        )
        self._packer = Packer(default, tz)
        self._begin()
        lifecycle.track(self)

    @property
    def _tz(self) -> tzinfo | None:
        return self._options.tz

    def _begin(self) -> None:
        options = self._options
        self._outbox = Outbox(options.buffer_bytes, options.on_full, options.on_refused is None)
        self._spool = self._make_spool()
        self._link = Link(self._endpoints, self._outbox, options.on_refused, self._spool)
        self._tails: weakref.WeakSet[Any] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, self._link.retire)
        self._finalizer.atexit = False

    def _make_spool(self) -> "Spool | None":
        spool = self._options.spool
        if spool is None:
            return None
        from zstream.spool.thread import Spool  # it needs sqlite3, which others need not load

        sync_s, limit = self._options.spool_sync, self._options.spool_bytes
        return Spool(os.fspath(spool), self.url, sync_s, limit, self._outbox)

    def _submit(
        self, op: str, fields: Mapping[str, Any], packed: Mapping[str, bytes] | None = None,
        done: Callable[[Request], None] | None = None,
    ) -> Request:  # fmt: skip
        """Send a request; ``done`` is called in the link's thread when it has its reply."""
        self._link.check()
        return self._link.submit(Request(op, fields, self._options.timeout, done, packed))

    def _stats(self) -> dict[str, Any]:
        return {
            **self._outbox.stats(),
            "tails": sum(not tail.is_closed for tail in self._tails),
            "connected": self._link.is_connected,
            "daemon": self._link.greeting.version,
            "durability": self._link.greeting.durability,
            "problem": self._link.greeting.problem or self._link.follows.problem,
            "spool": self._spool.stats() if self._spool is not None else None,
        }

    def _close(self) -> None:
        """Send what is left and stop. This is the one thing here that waits."""
        self._close_tails()
        self._finalizer.detach()
        alone = min(self._options.timeout, lifecycle.EXIT_ALONE_S)
        self._link.drain(time.monotonic(), self._options.timeout, alone)

    def _close_tails(self) -> None:
        for tail in list(self._tails):
            tail.close()

    def after_fork(self) -> None:
        """Begin anew in a forked child; called by itself."""
        self._link.disown()
        lifecycle.keep((self._link, self._outbox, list(self._tails)))
        self._finalizer.detach()
        self._begin()
