"""The daemon's three sockets: their options, their limits, and how they are bound."""

import errno
import fcntl
import os
import random
from contextlib import ExitStack
from typing import Final

import zmq

from zstream.endpoints import Endpoints, is_ipv6
from zstream.errors import ConfigError, EndpointTaken
from zstream.limits import MAX_FRAME_BYTES, MAX_SUBSCRIPTION_BYTES

LINGER_MS: Final = 1_000
#: Messages that libzmq holds for one subscriber before it drops, whole messages: some 13 MB of
#: them, unless events are larger than a publication. Of those under way the subscriber's own
#: libzmq and the kernels hold as many again, and what is lost is found by ``prev``.
PUBLISH_HWM: Final = 200
#: A subscriber that takes nothing at all for so long, in ms, is disconnected: stopped, or the
#: machine is gone. It connects again by itself, and what was held for it is free until then.
STALLED_MS: Final = 30_000
#: Replies that libzmq holds for one peer before further ones are lost: a page has up to 1 MiB, so
#: a peer that asks and never reads must not be given a thousand. Sixteen may be under way.
QUERY_HWM: Final = 256
#: Requests that libzmq holds of one peer while the daemon reads no more; each may have 4 MiB.
REQUEST_HWM: Final = 64
#: Messages that libzmq holds for one producer that waits for the writer.
INSERT_HWM: Final = 64
#: Tries to find three free ports in a row, and where they are looked for at first: below those
#: that connections leave from, which may be taken by one when the daemon is started again.
_PORT_TRIES: Final = 100
_PORTS: Final = range(20_000, 32_000)


class Sockets:
    """A private context with ROUTER, PULL and XPUB. One thread uses them.

    Attributes:
        query, insert, publish: The sockets.
        endpoints: Where they really listen, once bound.
    """

    def __init__(self) -> None:
        if zmq.zmq_version_info() < (4, 3, 3):
            raise ConfigError(
                f"libzmq {zmq.zmq_version()} has known holes; pyzmq needs to bring 4.3.3 or newer"
            )
        self._context = zmq.Context()
        self._cleanup = ExitStack()
        self.query = self._make(zmq.ROUTER, MAX_FRAME_BYTES)
        self.query.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.query.setsockopt(zmq.SNDHWM, QUERY_HWM)
        self.query.setsockopt(zmq.RCVHWM, REQUEST_HWM)
        # Who comes back under an identity of its own is heard, even while TCP has not noticed that
        # its old connection is dead.
        self.query.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.insert = self._make(zmq.PULL, MAX_FRAME_BYTES)
        self.insert.setsockopt(zmq.RCVHWM, INSERT_HWM)
        self.publish = self._make(zmq.XPUB, MAX_SUBSCRIPTION_BYTES)
        self.publish.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.publish.setsockopt(zmq.SNDHWM, PUBLISH_HWM)
        self.publish.setsockopt(zmq.TCP_MAXRT, STALLED_MS)  # where the system has it, as Linux
        self.endpoints = Endpoints("", "", "")

    def bind(self, endpoints: Endpoints) -> None:
        """Bind the three; with port ``*`` in all of them, to three free ports in a row.

        Raises:
            EndpointTaken: Somebody else listens there.
            ConfigError: It cannot be bound.
        """
        if all(endpoint.endswith(":*") for endpoint in endpoints) and len(set(endpoints)) == 1:
            self.endpoints = self._bind_in_a_row(endpoints.query.removesuffix("*"))
        else:
            pairs = zip((self.query, self.insert, self.publish), endpoints, strict=True)
            self.endpoints = Endpoints(*(self._bind(socket, at) for socket, at in pairs))

    def close(self) -> None:
        """Close the sockets, giving what was sent a second to leave."""
        for socket in (self.query, self.insert, self.publish):
            socket.close(LINGER_MS)
        self._context.term()
        self._cleanup.close()

    def _make(self, kind: int, most_bytes: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
        # TCP finds the peers that vanished, not ZMTP heartbeats from here: libzmq sends its PING to
        # ZMTP 3.0 peers too, and those (go-zeromq) take it for a reply and never answer it. Who
        # wants heartbeats sets them on its own side; libzmq answers them here all the same.
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 6)
        return socket

    def _bind(self, socket: "zmq.Socket[bytes]", endpoint: str) -> str:
        if endpoint.startswith("ipc://"):
            self._lock(endpoint.removeprefix("ipc://"))
        socket.setsockopt(zmq.IPV6, int(is_ipv6(endpoint)))
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                raise EndpointTaken(
                    f"{endpoint} is taken: {os.strerror(error.errno)}; stop who listens there,"
                    " or choose another with --listen"
                ) from error
            raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}") from error
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _bind_in_a_row(self, base: str) -> Endpoints:
        sockets = (self.query, self.insert, self.publish)
        for tried in range(_PORT_TRIES):
            bound: list[str] = []
            try:
                first = str(random.choice(_PORTS)) if tried < _PORT_TRIES // 2 else "*"
                bound.append(self._bind(self.query, f"{base}{first}"))
                port = int(bound[0].rpartition(":")[2])
                for offset, socket in enumerate(sockets[1:], 1):
                    bound.append(self._bind(socket, f"{base}{port + offset}"))
            except ConfigError as error:
                if not bound and not isinstance(error, EndpointTaken):
                    raise
                for socket, endpoint in zip(sockets, bound, strict=False):
                    socket.unbind(endpoint)
                continue
            return Endpoints(*bound)
        raise EndpointTaken(f"found no three free ports in a row at {base}*")

    def _lock(self, path: str) -> None:
        # A second bind of an ipc endpoint steals it silently (libzmq#2059): hence a lock. Its
        # file stays: to remove it would let two daemons lock two files of one name.
        try:
            file = self._cleanup.enter_context(open(f"{path}.lock", "w"))  # noqa: SIM115
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EndpointTaken(f"ipc://{path} is taken by another daemon") from error
        except OSError as error:
            raise ConfigError(f"cannot listen on ipc://{path}: {error.strerror}") from error
