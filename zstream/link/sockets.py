"""The client's sockets: how each is set up, and whether somebody is at the other end."""

import random
import socket
import struct
from typing import Final

import zmq

from zstream.endpoints import Endpoints, is_ipv6
from zstream.errors import ConfigError
from zstream.limits import MAX_FRAME_BYTES

#: Messages that libzmq holds on the way out: what it holds is lost with the connection.
_INSERT_HWM: Final = 16
_LINGER_MS: Final = 200
#: Milliseconds between tries to connect: from a random one, doubling to the last.
_RECONNECT_MS: Final = (100, 300, 2_000)

_EVENT = struct.Struct("=HI")
_WATCHED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

Socket = zmq.Socket[bytes]


class Port:
    """A connected socket and its monitor.

    Attributes:
        socket: The socket.
        monitor: Readable when the connection came or went.
        is_connected: Whether there is a connection, as far as ``read_monitor`` saw.
        was_connected: Whether there ever was one.
    """

    def __init__(self, context: "zmq.Context[Socket]", kind: int, endpoint: str) -> None:
        self.socket = context.socket(kind)
        self.monitor = self.socket.get_monitor_socket(_WATCHED)
        self.is_connected = self.was_connected = False
        self._set_up(kind)
        self.socket.setsockopt(zmq.IPV6, int(is_ipv6(endpoint)))
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot connect to {endpoint}: {error.strerror}") from error

    def read_monitor(self) -> list[bool]:
        """What happened since the last call: True for a connection, False for the end of one."""
        happened: list[bool] = []
        while True:
            try:
                frames = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return happened
            event, _ = _EVENT.unpack(frames[0])
            self.is_connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.was_connected |= self.is_connected
            happened.append(self.is_connected)

    def close(self) -> None:
        """Close both, giving what was sent a moment to leave."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(_LINGER_MS)

    def _set_up(self, kind: int) -> None:
        first, last, longest = _RECONNECT_MS
        options = {
            zmq.LINGER: _LINGER_MS,
            zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
            zmq.HANDSHAKE_IVL: 5_000,
            zmq.HEARTBEAT_IVL: 10_000,
            zmq.HEARTBEAT_TIMEOUT: 30_000,
            zmq.HEARTBEAT_TTL: 60_000,
            # Random, so that a daemon that comes back is not met by all at once.
            zmq.RECONNECT_IVL: random.randint(first, last),
            zmq.RECONNECT_IVL_MAX: longest,
        }
        if kind == zmq.PUSH:
            options |= {zmq.IMMEDIATE: 1, zmq.SNDHWM: _INSERT_HWM}
        elif kind == zmq.DEALER:
            # A request that waits for a connection can still be taken back.
            options |= {zmq.IMMEDIATE: 1}
        elif kind == zmq.SUB:
            # The mark counts subscriptions there, and drops them silently.
            options |= {zmq.SNDHWM: 0}
        for option, value in options.items():
            self.socket.setsockopt(option, value)


class Bell:
    """A descriptor that wakes a poll. Any thread rings, also a finalizer: it takes no lock."""

    def __init__(self) -> None:
        self._inner, self._outer = socket.socketpair()
        self._inner.setblocking(False)
        self._outer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._inner.fileno()

    def ring(self) -> None:
        """Wake the poll; does nothing once the bell is closed."""
        try:
            self._outer.send(b"\0")
        except OSError:
            return  # it is full, so it rings already; or it is closed

    def quiet(self) -> None:
        """Hear no more of the rings so far."""
        try:
            self._inner.recv(4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both ends."""
        self._inner.close()
        self._outer.close()


def check_libzmq() -> None:
    """Refuse a libzmq that must not be connected to anything; raises ConfigError."""
    if zmq.zmq_version_info() < (4, 3, 3):
        raise ConfigError(
            f"libzmq {zmq.zmq_version()} has known holes; pyzmq needs to bring 4.3.3 or newer"
        )


class Sockets:
    """A private context and the three sockets of a client, each opened when it is needed.

    One thread uses them.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self._endpoints = endpoints
        self._ports: list[Port] = []

    def query(self) -> Port:
        """Open a DEALER."""
        return self._open(zmq.DEALER, self._endpoints.query)

    def insert(self) -> Port:
        """Open a PUSH."""
        return self._open(zmq.PUSH, self._endpoints.insert)

    def publish(self) -> Port:
        """Open a SUB."""
        return self._open(zmq.SUB, self._endpoints.publish)

    def drop(self, port: Port) -> None:
        """Close one of them."""
        self._ports.remove(port)
        port.close()

    def close(self) -> None:
        """Close all of it."""
        for port in self._ports:
            port.close()
        self._context.term()

    def _open(self, kind: int, endpoint: str) -> Port:
        port = Port(self._context, kind, endpoint)
        self._ports.append(port)
        return port
