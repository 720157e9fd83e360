"""A way to a daemon's socket on which bytes can vanish while the connection stands."""

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 1 << 16


class Way:
    """A TCP listener that passes bytes on to an endpoint and back, each connection by two threads.

    Args:
        endpoint: Of the daemon, as ``tcp://host:port``.

    Attributes:
        url: The listener's endpoint.
        connections: How many there were.
        swallows_up: Whether what clients send vanishes.
        swallowed: Bytes that have vanished.
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = self.swallowed = 0
        self.swallows_up = False
        self._dead_up_to = 0
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def kill_silently(self) -> None:
        """From the connections that there are, nothing arrives any more, and none ends."""
        self._dead_up_to = self.connections

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed at the other end
        for thread in list(self._threads):
            thread.join(10)
        for each in self._sockets:
            each.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            self.connections += 1
            self._start(self._pass, near, far, self.connections, True)
            self._start(self._pass, far, near, self.connections, False)

    def _pass(self, source: socket.socket, target: socket.socket, number: int, up: bool) -> None:
        try:
            while data := source.recv(_CHUNK):
                if number <= self._dead_up_to or (up and self.swallows_up):
                    self.swallowed += len(data)
                else:
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
