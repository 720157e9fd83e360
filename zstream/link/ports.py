"""What one link's thread waits for: its bell, its sockets and their monitors."""

from collections.abc import Iterator

import zmq

from zstream.link.sockets import Bell, Port


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

    def wait(self, wait_ms: int) -> None:
        """Wait until something happened, and silence the bell."""
        if self._bell.fileno() in dict(self._poller.poll(wait_ms)):
            self._bell.quiet()
