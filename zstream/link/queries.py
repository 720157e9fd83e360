"""Requests and replies over one DEALER.

The link's thread uses the channel; any thread may wait for a request.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import zmq

from zstream import wire
from zstream.errors import Closed, DecodeError, Error, TimedOut, TooLarge, Unavailable
from zstream.limits import MAX_FRAME_BYTES
from zstream.link.sockets import Port

#: Requests under way at once; the daemon refuses more than 16 of one peer.
_IN_FLIGHT: Final = 12
#: Replies that one turn takes.
_TURN: Final = 64

_ids = itertools.count(1)


class Request:
    """One request, from the caller's wish to the reply.

    Args:
        op, fields: As in `docs/protocol.md`.
        timeout: Seconds until it fails.
        done: Called when the reply or the failure is there, in the link's thread.
        packed: Fields that are packed already.

    Raises:
        TooLarge: The daemon would not take it.
    """

    def __init__(
        self, op: str, fields: Mapping[str, Any], timeout: float,
        done: Callable[["Request"], None] | None = None,
        packed: Mapping[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.id = next(_ids)
        self.op = op
        self.frame = wire.encode_request(op, self.id, fields, packed)
        if len(self.frame) > MAX_FRAME_BYTES:
            # The daemon would reset the connection, again and again.
            raise TooLarge(f"{op}: the request is over {MAX_FRAME_BYTES} bytes")
        self.until = time.monotonic() + timeout
        self.timeout = timeout
        self.was_sent = self.is_cancelled = False
        self._done = done
        self._event = threading.Event()
        self._reply: bytes | None = None
        self._error: Error | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a reply or a failure."""
        return self._event.is_set()

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again if the connection broke under it."""
        return self.op != "insert"

    def finish(self, reply: bytes | None = None, error: Error | None = None) -> None:
        """Give it its reply or its failure; only the first counts."""
        if self._event.is_set():
            return
        self._reply, self._error = reply, error
        self._event.set()
        if self._done is not None:
            self._done(self)

    def wait(self) -> dict[str, Any]:
        """Wait for the reply, and read it.

        Raises:
            TimedOut, Unavailable: There is none.
            Error: The one that the daemon answered with.
        """
        # The link's thread ends it in time; the second is for a thread that did not.
        self._event.wait(max(0.0, self.until - time.monotonic()) + 1.0)
        return self.result()

    def result(self) -> dict[str, Any]:
        """Read the reply; raises as `wait` does."""
        reply = wire.decode_reply(self._frame())
        error = wire.reply_error(reply)
        if error is not None:
            raise error
        return reply

    def split(self, name: str) -> tuple[dict[str, Any], bytes]:
        """Read the reply but for one field, which stays packed; raises as `wait` does."""
        fields, packed = wire.split_reply(self._frame(), name)
        error = wire.reply_error(fields)
        if error is not None:
            raise error
        return fields, packed

    def _frame(self) -> bytes:
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise TimedOut(f"{self.op}: no answer within {self.timeout:g} s")
        return self._reply


class QueryChannel:
    """The requests of one client.

    Args:
        url: What the errors name.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: deque[Request] = deque()
        self._sent: dict[bytes, Request] = {}

    def submit(self, request: Request) -> None:
        """Take a request, to be sent when the socket takes it."""
        self._waiting.append(request)

    def turn(self, port: Port, now: float) -> None:
        """Read what came, give up what is overdue, send what waits."""
        self._read(port.socket)
        self._expire(now, port.was_connected)
        # For a millisecond after the connection broke libzmq still takes what nobody will send.
        while port.is_connected and self._waiting and len(self._sent) < _IN_FLIGHT:
            request = self._waiting[0]
            key = request.id.to_bytes(8, "big")
            try:
                # What stands before the empty frame comes back with the reply.
                port.socket.send_multipart([key, b"", request.frame], zmq.NOBLOCK)
            except zmq.Again:
                break
            request.was_sent = True
            self._sent[key] = self._waiting.popleft()

    def disconnected(self) -> None:
        """The connection broke: ask again what may be asked twice."""
        again = [request for request in self._sent.values() if request.is_repeatable]
        for request in again:
            del self._sent[request.id.to_bytes(8, "big")]
        self._waiting.extendleft(reversed(again))

    def is_blocked(self, port: Port) -> bool:
        """Whether a request waits for room in the socket."""
        return port.is_connected and bool(self._waiting) and len(self._sent) < _IN_FLIGHT

    def wake_at(self) -> float | None:
        """When the first request is overdue."""
        return min((request.until for request in self._all()), default=None)

    def close(self) -> None:
        """Fail what is left."""
        for request in self._all():
            request.finish(error=Closed("the client is closed"))
        self._waiting.clear()
        self._sent.clear()

    def _all(self) -> Iterable[Request]:
        return [*self._sent.values(), *self._waiting]

    def _read(self, socket: "zmq.Socket[bytes]") -> None:
        for _ in range(_TURN):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            request = self._sent.pop(frames[0], None)
            if request is None:
                continue  # it came too late
            if len(frames) == 3 and not frames[1]:
                request.finish(frames[2])
            else:
                request.finish(error=DecodeError("a reply is one frame behind an empty one"))

    def _expire(self, now: float, was_connected: bool) -> None:
        for request in self._all():
            # What was sent counts as under way until it is answered, wanted or not: the daemon
            # counts it too.
            is_unwanted = request.is_cancelled and request in self._waiting
            if now < request.until and not is_unwanted:
                continue
            if request.was_sent:
                error: Error = TimedOut(f"{request.op}: no answer within {request.timeout:g} s")
            elif was_connected:
                error = Unavailable(f"the daemon at {self._url} is away")
            else:
                error = unavailable(self._url)
            self._sent.pop(request.id.to_bytes(8, "big"), None)
            if request in self._waiting:
                self._waiting.remove(request)
            request.finish(error=error)


def unavailable(url: str) -> Unavailable:
    """Make the error that says that nobody is there."""
    return Unavailable(
        f"no zstream daemon answers at {url}; is it running (zstreamd), and is that its query"
        " endpoint?"
    )
