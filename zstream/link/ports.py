"""What one link's thread waits for: its bell, its sockets and their monitors."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import zmq

from zstream.link.sockets import Bell, Port

#: Seconds that one wait lasts at the most.
_LONGEST_S: Final = 60.0


class Ports:
    """The open ports.

    Args:
        bell: Wakes ``wait``.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._poller = zmq.Poller()
        self._poller.register(bell, zmq.POLLIN)
        self._flags: dict[Port, int] = {}

    def __iter__(self) -> Iterator[Port]:
        return iter(list(self._flags))

    def watch(self, port: Port) -> Port:
        """Wait for it too."""
        self._flags[port] = zmq.POLLIN
        self._poller.register(port.socket, zmq.POLLIN)
        self._poller.register(port.monitor, zmq.POLLIN)
        return port

    def forget(self, port: Port) -> None:
        """Wait for it no more; then it can be closed."""
        del self._flags[port]
        self._poller.unregister(port.socket)
        self._poller.unregister(port.monitor)

    def poll_out(self, port: Port, wanted: bool, *, reads: bool = True) -> None:
        """Wait until it takes something, or no more for that.

        Args:
            reads: There may be something to read.
        """
        flags = (zmq.POLLIN if reads else 0) | (zmq.POLLOUT if wanted else 0)
        if self._flags[port] != flags:
            self._flags[port] = flags
            self._poller.modify(port.socket, flags)

    def wait(self, times: Sequence[float | None], now: float) -> None:
        """Wait until something happened or it is one of these times, and silence the bell.

        Args:
            times: By the monotonic clock; none of them is now.
            now: By the same.
        """
        until = min(
            (each for each in times if each is not None), default=math.inf if times else now
        )
        wait_ms = math.ceil(min(max(0.0, until - now), _LONGEST_S) * 1000)
        if self._bell.fileno() in dict(self._poller.poll(wait_ms)):
            self._bell.quiet()
