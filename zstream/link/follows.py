"""Subscriptions over one SUB: what comes under a topic goes to all that follow it."""

from collections.abc import Callable
from typing import Final

import zmq

from zstream.link.sockets import Port

#: Takes the header and the body of a publication, in the link's thread.
Sink = Callable[[bytes, bytes], None]

_TURN: Final = 256


class FollowChannel:
    """The topics of one client, in the link's thread."""

    def __init__(self) -> None:
        self._sinks: dict[bytes, list[Sink]] = {}

    def follow(self, port: Port, topic: bytes, sink: Sink) -> None:
        """Follow a topic, whoever else does: each gets a HELLO of its own."""
        # What is there already is older than this wish; a HELLO of it would start in the past.
        self.read(port)
        self._sinks.setdefault(topic, []).append(sink)
        port.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def leave(self, port: Port, topic: bytes, sink: Sink) -> None:
        """Follow it no more."""
        sinks = self._sinks.get(topic, [])
        if sink in sinks:
            sinks.remove(sink)
            port.socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        if not sinks:
            self._sinks.pop(topic, None)

    def read(self, port: Port) -> bool:
        """Hand out what came; True if there may be more."""
        for _ in range(_TURN):
            try:
                frames = port.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            if len(frames) == 3:
                for sink in self._sinks.get(frames[0], ()):
                    sink(frames[1], frames[2])
        return True
