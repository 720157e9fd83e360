"""Messages off a socket, without waiting, and bounded in frames and bytes.

libzmq bounds the size of a frame but not how many of them make a message, and each costs some
microseconds to take: a message of two million empty frames, 4 MB on the wire, would hold up
everybody for ten seconds.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from operator import attrgetter
from typing import Final, cast

import zmq

#: Frames of such a message that one turn passes over.
_TURN_FRAMES: Final = 2_000
#: Frames that are taken before their size is looked at, and how large that must not be lest the
#: next are taken one by one.
_BURST_FRAMES: Final = 16
_BURST_BYTES: Final = 256 << 10

_NOBLOCK: Final = int(zmq.NOBLOCK)
_more = attrgetter("more")
_bytes = attrgetter("bytes")


class Receiver:
    """Takes messages off a socket; of one with too many frames only the first ones.

    Args:
        socket: To read from; nobody else does.
        most: A message of more frames is cut after one more than these; the rest of it is passed
            over, in this turn and in the next.

    Attributes:
        inside: Whether the rest of a cut message is yet to be passed over.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", most: int) -> None:
        self._socket, self._most = socket, most
        self.inside = False

    def messages(self, most: int) -> Iterator[list[bytes]]:
        """Yield what is there, at the most so many messages."""
        try:
            for _ in range(most):
                if not self.pass_over():
                    return
                yield self._finish([self._socket.recv(zmq.NOBLOCK)])
        except zmq.Again:
            return

    def burst(self, most: int, most_bytes: int) -> list[bytes | list[bytes]]:
        """Take what is there, for a socket on which a message of one frame is the rule.

        To ask the socket whether a message goes on costs more than to take a frame: here the
        frames say it, and the loops over them run in C.

        Args:
            most: Frames after which it ends, with the message that it is in.
            most_bytes: Bytes after which it ends, about.

        Returns:
            A message of one frame as its bytes, another as a list of its frames.
        """
        if not self.pass_over():
            return []
        frames: list[zmq.Frame] = []
        receive = cast(Callable[[int, bool], zmq.Frame], self._socket.recv)
        size, burst = 0, _BURST_FRAMES
        try:
            while len(frames) < most and size <= most_bytes:
                # What came before the socket had no more stays in the list.
                frames.extend(map(receive, repeat(_NOBLOCK, burst), repeat(False)))
                bytes_ = sum(map(len, frames[-burst:]))
                size += bytes_
                if bytes_ > _BURST_BYTES:
                    burst = 1
        except zmq.Again:
            pass
        if any(map(_more, frames)):
            return self._messages(frames)
        return list(map(_bytes, frames))

    def _messages(self, frames: list[zmq.Frame]) -> list[bytes | list[bytes]]:
        """Put frames together; the last message may have more of them in the socket."""
        taken: list[bytes | list[bytes]] = []
        message: list[bytes] = []
        for frame in frames:
            if len(message) <= self._most:
                message.append(frame.bytes)
            if not frame.more:
                taken.append(message if len(message) > 1 else message[0])
                message = []
        if message:
            taken.append(self._finish(message))
        return taken

    def _finish(self, frames: list[bytes]) -> list[bytes]:
        """Take the further frames of a message whose first ones have been taken."""
        while self._socket.getsockopt(zmq.RCVMORE):
            if len(frames) > self._most:
                self.inside = True
                break
            frames.append(self._socket.recv(zmq.NOBLOCK))
        return frames

    def pass_over(self) -> bool:
        """Pass over what a cut message still has; tell whether that is done."""
        if self.inside:
            for _ in range(_TURN_FRAMES):
                self._socket.recv(zmq.NOBLOCK)
                if not self._socket.getsockopt(zmq.RCVMORE):
                    self.inside = False
                    break
        return not self.inside
