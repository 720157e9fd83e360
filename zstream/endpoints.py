"""The three endpoints of a daemon, and how two of them follow from the first."""

import ipaddress
import os
import re
from typing import Final, NamedTuple

from zstream.errors import ConfigError

#: Where a daemon listens for queries, and a client looks for one, if nothing else is said.
DEFAULT_QUERY: Final = "tcp://127.0.0.1:5570"

_TCP = re.compile(
    r"tcp://(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+|\*):(?P<port>\d{1,5}|\*)"
)
_MAX_IPC_BYTES = 107  # sizeof(sockaddr_un.sun_path) less its NUL


class Endpoints(NamedTuple):
    """Where the three sockets of a daemon are, as libzmq spells endpoints."""

    query: str
    insert: str
    publish: str


def derive(
    query: str, insert: str | None = None, publish: str | None = None, *, bind: bool = False
) -> Endpoints:
    """Complete a daemon's endpoints from the query endpoint.

    Args:
        query: ``tcp://host:port`` (the others follow at port + 1 and + 2) or ``ipc://path`` (the
            others are ``path-insert`` and ``path-publish``). ``localhost`` becomes 127.0.0.1,
            because libzmq binds it to another address than it connects it to.
        insert, publish: Named endpoints, which win over the derived ones.
        bind: They are to be bound, not connected to: host and port may be ``*``. From port
            ``*`` the others follow as ``*`` too.

    Raises:
        ConfigError: One of them is no such endpoint, or two are the same.
    """
    query = normalize(query, bind=bind)
    insert = _follow(query, 1, "insert") if insert is None else normalize(insert, bind=bind)
    publish = _follow(query, 2, "publish") if publish is None else normalize(publish, bind=bind)
    endpoints = Endpoints(query, insert, publish)
    fixed = [endpoint for endpoint in endpoints if not endpoint.endswith(":*")]
    if len(set(fixed)) != len(fixed):
        raise ConfigError(f"the three endpoints must differ: {', '.join(endpoints)}")
    return endpoints


def normalize(endpoint: str, *, bind: bool = False) -> str:
    """Check one endpoint and spell it as libzmq needs it.

    Raises:
        ConfigError: It is no ``tcp://host:port`` or ``ipc://path`` that can be used so.
    """
    if not isinstance(endpoint, str):
        raise ConfigError(f"an endpoint is text like {DEFAULT_QUERY}, not {endpoint!r}")
    if endpoint.startswith("ipc://"):
        return _check_ipc(endpoint)
    match = _TCP.fullmatch(endpoint)
    if match is None:
        raise ConfigError(f"{endpoint!r} is no endpoint: write tcp://host:port or ipc://path")
    host, port = match["host"], match["port"]
    if not bind and "*" in (host, port):
        raise ConfigError(
            f"{endpoint!r} can be listened on but not connected to: name host and port"
        )
    if port != "*" and not 1 <= int(port) <= 65535:
        raise ConfigError(f"{endpoint!r}: a port is from 1 to 65535")
    host = "127.0.0.1" if host.lower() == "localhost" else host
    return f"tcp://{host}:{port if port == '*' else int(port)}"


def is_local(endpoint: str) -> bool:
    """Say whether only this machine can reach a normalized endpoint: ipc or loopback."""
    if endpoint.startswith("ipc://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_ipv6(endpoint: str) -> bool:
    """Say whether a normalized endpoint names an IPv6 address, which libzmq must be told."""
    return endpoint.startswith("tcp://[")


def _check_ipc(endpoint: str) -> str:
    path = endpoint.removeprefix("ipc://")
    if path in ("", "*") or "\0" in path:
        raise ConfigError(f"{endpoint!r} names no path: write ipc:///run/zstream.sock")
    if len(os.fsencode(path)) > _MAX_IPC_BYTES:
        raise ConfigError(f"{endpoint!r} is too long: a socket's path has at most 107 bytes")
    return endpoint


def _follow(query: str, offset: int, name: str) -> str:
    if query.startswith("ipc://"):
        return _check_ipc(f"{query}-{name}")
    base, _, port = query.rpartition(":")
    if port == "*":
        return query
    if int(port) + offset > 65535:
        raise ConfigError(f"{query!r} leaves no port for {name}: name the {name} endpoint")
    return f"{base}:{int(port) + offset}"
