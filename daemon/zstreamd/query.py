"""The query threads: a request in, a page out. Every operation is a method in one table."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from zstream import wire
from zstream.errors import (
    BackendError,
    BadRequest,
    DecodeError,
    Error,
    InternalError,
    TimedOut,
    Unavailable,
    VersionMismatch,
)
from zstreamd.operations import Operations, Reply
from zstreamd.request import decode, fields, identity

#: Seconds that a request may wait for a thread.
DEADLINE_S: Final = 30.0

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


class QueryPool:
    """A few threads that take requests from one queue.

    Args:
        operations: What can be asked.
        threads: How many.
    """

    def __init__(self, operations: Operations, threads: int) -> None:
        self._operations = operations
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
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

    def stop(self, timeout_s: float) -> None:
        """Answer what was submitted, then end the threads, waiting so long for them."""
        for _ in self._threads:
            self._requests.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            self._handle(request)

    def _handle(self, request: Request) -> None:
        id = identity(request.payload)
        try:
            head = decode(request.payload)
            if head.v != wire.VERSION:
                raise VersionMismatch(
                    f"protocol version {head.v}; this daemon speaks {wire.VERSION}"
                )
            if time.monotonic() - request.came_s > DEADLINE_S:
                raise TimedOut(f"the request waited more than {DEADLINE_S:.0f} s for its turn")
            if head.op == "insert":
                self._operations.insert(bytes(head.events), _on_stored(id, request.answer))
                return
            if head.op == "trim":
                self._operations.trim(fields(head), _on_stored(id, request.answer))
                return
            if head.op == "filter":
                self._operations.register(fields(head), _on_stored(id, request.answer))
                return
            reply = self._operations.run(head.op, fields(head))
            answer = wire.encode_reply(_with_id(reply.fields, id), reply.packed)
        except BackendError as error:
            answer = wire.encode_error(Unavailable(f"the store: {error}"), id)
        except DecodeError as error:
            answer = wire.encode_error(BadRequest(str(error)), id)
        except Error as error:
            answer = wire.encode_error(error, id)
        except Exception:  # noqa: BLE001 - a defect is answered and logged, the thread lives
            _log.exception("a query failed")
            answer = wire.encode_error(InternalError("a defect; the daemon's log says more"), id)
        request.answer(answer)


def _with_id(reply: dict[str, Any], id: object) -> dict[str, Any]:
    return reply if id is None else {"id": id, **reply}


def _on_stored(id: object, answer: Callable[[bytes], None]) -> Callable[[Reply | Error], None]:
    def stored(reply: Reply | Error) -> None:
        if isinstance(reply, Error):
            answer(wire.encode_error(reply, id))
        else:
            answer(wire.encode_reply(_with_id(reply.fields, id)))

    return stored
