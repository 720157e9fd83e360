"""The sockets of sessions with a server, which another thread may cut.

Who waits for an answer that will never come is woken so: its driver finds the connection closed.
"""

import os
import socket
import threading
from contextlib import suppress


class Wire:
    """The socket of one session.

    It has a descriptor of its own: the driver may close its own at any moment, and another file
    may have the number by the time that it is cut.

    Attributes:
        is_cut: Whether it was cut, so that the session is of no more use.
    """

    def __init__(self, wires: "Wires", descriptor: int) -> None:
        self._wires = wires
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self.is_cut = False

    def cut(self) -> None:
        """End the connection at both ends, at once."""
        self.is_cut = True
        with suppress(OSError):  # it has ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Forget it; the driver has closed its own descriptor. A second time does nothing."""
        self._wires.forget(self)
        self._socket.close()


class Wires:
    """Those of all sessions of a store. Any thread may call any of this.

    Attributes:
        cuts: How often they were cut: who saw it change need not try again.
    """

    def __init__(self) -> None:
        self.cuts = 0
        self._open: set[Wire] = set()
        self._lock = threading.Lock()

    def add(self, descriptor: int) -> Wire:
        """Note the socket of a session."""
        wire = Wire(self, descriptor)
        with self._lock:
            self._open.add(wire)
        return wire

    def forget(self, wire: Wire) -> None:
        """A session is over."""
        with self._lock:
            self._open.discard(wire)

    def cut(self) -> None:
        """Cut all of them."""
        with self._lock:  # none is closed meanwhile
            self.cuts += 1
            for wire in self._open:
                wire.cut()
