"""The query threads: a request in, a page out. Every operation is a method in one table."""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from zstream import wire
from zstream.errors import (
    BackendError,
    BackendUnavailable,
    BadRequest,
    DecodeError,
    Error,
    InternalError,
    TimedOut,
    Unavailable,
    VersionMismatch,
)
from zstreamd.operations import Operations, Reply
from zstreamd.outage import RETRY_S, Outage
from zstreamd.request import decode, fields, identity

#: Seconds that a request may wait for a thread, and its thread for the store.
DEADLINE_S: Final = 30.0
#: Operations that cannot be answered without the store.
_OF_THE_STORE: Final = frozenset({"items", "replay", "count", "trim"})

_log = logging.getLogger("zstreamd.query")


class Request(NamedTuple):
    """A request as the I/O thread read it.

    Attributes:
        payload: The frame behind the envelope.
        answer: Takes the reply's frame; from any thread, once.
        came_s: When, by the monotonic clock.
    """

    payload: bytes
    answer: Callable[[bytes], None]
    came_s: float


class _Asking:
    """A request whose thread is asking the store; whoever is first answers it."""

    def __init__(self, id: object, answer: Callable[[bytes], None]) -> None:
        self.id, self.op, self._answer = id, "", answer
        self.since_s = time.monotonic()
        self._lock = threading.Lock()
        self._is_answered = False

    def answer(self, frame: bytes) -> None:
        with self._lock:
            if self._is_answered:
                return
            self._is_answered = True
        self._answer(frame)


class QueryPool:
    """A few threads that take requests from one queue.

    Args:
        operations: What can be asked.
        threads: How many.
        outage: Knows whether the store is away.
    """

    def __init__(self, operations: Operations, threads: int, outage: Outage) -> None:
        self._operations, self._outage = operations, outage
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._asking: set[_Asking] = set()
        self._threads = [
            threading.Thread(target=self._serve, name=f"zstreamd-query-{n}", daemon=True)
            for n in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; its ``answer`` is called in any case."""
        self._requests.put(request)

    def give_up(self, why: BackendError) -> None:
        """Answer who waits for the store: it has stopped answering."""
        for asking in self._asking.copy():
            if asking.op == "info":  # it tells just then what it knows
                reply = self._operations.info(asks=False)
                asking.answer(wire.encode_reply(_with_id(reply.fields, asking.id)))
            elif asking.op in _OF_THE_STORE:
                asking.answer(wire.encode_error(_unavailable(why), asking.id))

    def is_overdue(self) -> bool:
        """Whether somebody has waited for the store for far too long."""
        oldest_s = min((each.since_s for each in self._asking.copy()), default=math.inf)
        return time.monotonic() - oldest_s > DEADLINE_S

    def stop(self, timeout_s: float) -> None:
        """Answer what was submitted, then end the threads, waiting so long for them."""
        for _ in self._threads:
            self._requests.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            asking = _Asking(identity(request.payload), request.answer)
            self._asking.add(asking)
            try:
                answer = self._handle(request, asking)
            finally:
                self._asking.discard(asking)
            if answer is not None:
                asking.answer(answer)

    def _handle(self, request: Request, asking: _Asking) -> bytes | None:
        """The reply, or None if the writer gives it."""
        id = asking.id
        try:
            try:
                return self._run(request, asking)
            except BackendUnavailable:
                # It may have been ended together with what hung, or at the end of an outage.
                if self._outage.away is not None:
                    raise
                return self._run(request, asking)
        except BackendError as error:
            return wire.encode_error(_unavailable(error), id)
        except DecodeError as error:
            return wire.encode_error(BadRequest(str(error)), id)
        except Error as error:
            return wire.encode_error(error, id)
        except Exception:  # noqa: BLE001 - a defect is answered and logged, the thread lives
            _log.exception("a query failed")
            return wire.encode_error(InternalError("a defect; the daemon's log says more"), id)

    def _run(self, request: Request, asking: _Asking) -> bytes | None:
        head, id = decode(request.payload), asking.id
        asking.op = head.op
        if head.v != wire.VERSION:
            raise VersionMismatch(f"protocol version {head.v}; this daemon speaks {wire.VERSION}")
        if time.monotonic() - request.came_s > DEADLINE_S:
            raise TimedOut(f"the request waited more than {DEADLINE_S:.0f} s for its turn")
        if head.op in _OF_THE_STORE and (away := self._outage.away) is not None:
            raise away
        if head.op == "insert":
            self._operations.insert(bytes(head.events), _on_stored(id, request.answer))
        elif head.op == "trim":
            self._operations.trim(fields(head), _on_stored(id, request.answer))
        elif head.op == "filter":
            self._operations.register(fields(head), _on_stored(id, request.answer))
        else:
            reply = self._operations.run(head.op, fields(head))
            return wire.encode_reply(_with_id(reply.fields, id), reply.packed)
        return None


def _unavailable(why: BackendError) -> Unavailable:
    return Unavailable(f"the store: {why}", retry_s=RETRY_S)


def _with_id(reply: dict[str, Any], id: object) -> dict[str, Any]:
    return reply if id is None else {"id": id, **reply}


def _on_stored(id: object, answer: Callable[[bytes], None]) -> Callable[[Reply | Error], None]:
    def stored(reply: Reply | Error) -> None:
        if isinstance(reply, Error):
            answer(wire.encode_error(reply, id))
        else:
            answer(wire.encode_reply(_with_id(reply.fields, id)))

    return stored
