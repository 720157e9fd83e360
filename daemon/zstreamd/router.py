"""The query socket: envelopes, requests under way, replies. The I/O thread uses it."""

import time
from collections import Counter
from typing import Final

import zmq

from zstream import wire
from zstream.errors import BadRequest, Busy
from zstreamd.outbox import Message, Outbox
from zstreamd.query import QueryPool, Request
from zstreamd.receive import Receiver
from zstreamd.request import identity

#: Requests that one turn takes at the most.
_TURN: Final = 64
#: Requests under way: of one peer, of all, and their bytes.
_PEER_REQUESTS: Final = 16
_MOST_REQUESTS: Final = 1_024
_MOST_BYTES: Final = 64 << 20
#: Frames of an envelope: peers behind proxies add one each.
_MOST_ENVELOPE: Final = 16


class Router:
    """Takes requests off a ROUTER, each with its envelope, and sends the replies back.

    Args:
        socket: The ROUTER.
        pool: Answers the requests.
        outbox: Where the answers come to, for the I/O thread to send.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", pool: QueryPool, outbox: Outbox) -> None:
        self._socket, self._pool, self._outbox = socket, pool, outbox
        self._receiver = Receiver(socket, _MOST_ENVELOPE + 2)
        self._peers: Counter[bytes] = Counter()
        self._requests = self._bytes = 0

    @property
    def is_crowded(self) -> bool:
        """Whether so much is under way that no more should be read."""
        return self._requests >= _MOST_REQUESTS or self._bytes >= _MOST_BYTES

    def take(self) -> None:
        """Take what is there, up to a turn's worth."""
        for frames in self._receiver.messages(_TURN):
            self._submit(frames)
            if self.is_crowded:
                return

    def answer(self, reply: Message, request_bytes: int) -> None:
        """Send the reply to a request of so many bytes, which is over with that."""
        self._requests -= 1
        self._bytes -= request_bytes
        peer = reply[0]
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
        self._send(reply)

    def _submit(self, frames: list[bytes]) -> None:
        # A peer's envelope ends with the first empty frame; all of it goes back.
        if b"" not in frames[1 : _MOST_ENVELOPE + 1]:
            error = BadRequest("an empty frame belongs before the request")
            self._send([frames[0], b"", wire.encode_error(error)])
            return
        place = frames.index(b"", 1) + 1
        envelope, payload = frames[:place], frames[place:]
        if len(payload) != 1:
            error = BadRequest("a request is one frame, behind the empty one")
            self._send([*envelope, wire.encode_error(error)])
            return
        request, peer, size = payload[0], frames[0], len(payload[0])
        if self._peers[peer] >= _PEER_REQUESTS:
            busy = Busy(f"{_PEER_REQUESTS} requests of yours are under way", retry_s=0.1)
            self._send([*envelope, wire.encode_error(busy, identity(request))])
            return
        self._peers[peer] += 1
        self._requests += 1
        self._bytes += size

        def answer(reply: bytes) -> None:
            self._outbox.reply([*envelope, reply], size)

        self._pool.submit(Request(request, answer, time.monotonic()))

    def _send(self, message: Message) -> None:
        try:
            self._socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # The peer has gone, or takes no answers; there is nobody to tell.
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
