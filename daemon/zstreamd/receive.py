"""Messages off a socket, without waiting, and bounded in frames.

libzmq bounds the size of a frame but not how many of them make a message, and each costs some
microseconds to take: a message of two million empty frames, 4 MB on the wire, would hold up
everybody for ten seconds.
"""

from collections.abc import Iterator
from typing import Final

import zmq

#: Frames of such a message that one turn passes over.
_TURN_FRAMES: Final = 2_000


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
                yield self.finish(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return

    def finish(self, frame: bytes) -> list[bytes]:
        """Take the further frames of a message whose first has been taken."""
        frames = [frame]
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
