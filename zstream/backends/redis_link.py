"""The Redis store's place: its URL and its sessions."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha1
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import NoScriptError
from redis.retry import Retry

from zstream.backends.redis_errors import translated
from zstream.errors import BackendUnavailable, ConfigError

_SCHEMES: Final = ("redis", "rediss", "unix")
_PREFIX: Final = "zstream"
_LONGEST_PREFIX: Final = 100
_HINT: Final = (
    "write redis://user:password@host:6379/0, rediss:// for TLS or unix:///path/of/socket, and"
    " ?prefix=name if not 'zstream'"
)
#: Parameters of the URL, and what the driver calls them.
_TLS: Final = {"ssl_ca": "ssl_ca_certs", "ssl_cert": "ssl_certfile", "ssl_key": "ssl_keyfile"}
#: How long to wait for a connection, and for each of its first answers, in seconds.
_CONNECT_S: Final = 1.0
#: The client name of the daemon's sessions, in Redis' ``CLIENT LIST``.
_CLIENT: Final = "zstreamd"
#: What stores add to their prefixes: no prefix may be a key of another store.
_OWN: Final = re.compile(
    r":(trial2?|newest|openings|marks|producers|filters|runs|unfinished|changed|rows:\d+|run:\d+:.*)$"
)
_SECRET: Final = re.compile(r"password|auth", re.IGNORECASE)


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        name: The store as it may be shown, without a password.
        prefix: What all of its keys begin with.
        kind: The driver's kind of connection.
        options: What the driver is given.
    """

    name: str
    prefix: str
    kind: type[Any]
    options: dict[str, Any]


def address_of(url: str) -> Address:
    """Take a URL apart: ``redis://user:password@host:port/db?prefix=name``.

    Raises:
        ConfigError: It is not of this kind. Nothing of a password is in the message.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:  # which may quote a part of a password
        raise ConfigError(f"the store's URL has no usable host or port; {_HINT}") from None
    if parts.scheme not in _SCHEMES or not url.startswith(f"{parts.scheme}://") or parts.fragment:
        raise ConfigError(f"a store in Redis has another URL; {_HINT}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = given.pop("prefix", _PREFIX)
    if not prefix.isprintable() or not 0 < len(prefix.encode()) <= _LONGEST_PREFIX:
        raise ConfigError(f"the store's prefix has 1 to {_LONGEST_PREFIX} bytes; {_HINT}")
    if _OWN.search(prefix):
        raise ConfigError("the store's prefix ends as a key of another store may; choose another")
    options: dict[str, Any] = {"db": _database(parts.scheme, parts.path, given)}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    kind, where = _place(parts.scheme, parts.hostname, port, parts.path, given, options)
    if given:
        known = ", ".join(("prefix", *(("db",) if parts.scheme == "unix" else ()), *_TLS))
        unknown = ", ".join(sorted(given))
        raise ConfigError(f"the store's URL has unknown parameters: {unknown}; known: {known}")
    shown = "" if prefix == _PREFIX else f"prefix={quote(prefix)}"
    if parts.scheme == "unix" and options["db"]:
        shown = f"db={options['db']}" + (f"&{shown}" if shown else "")
    return Address(f"{where}{'?' if shown else ''}{shown}", prefix, kind, options)


def _database(scheme: str, path: str, given: dict[str, str]) -> int:
    text = given.pop("db", "0") if scheme == "unix" else path.strip("/") or "0"
    if not text.isascii() or not text.isdecimal():
        raise ConfigError(f"the store's URL names no database by its number; {_HINT}")
    return int(text)


def _place(
    scheme: str, host: str | None, port: int, path: str, given: dict[str, str],
    options: dict[str, Any],
) -> tuple[type[Any], str]:  # fmt: skip
    """The kind of connection and how to show the place; the driver's options are added."""
    user = f"{quote(options['username'])}@" if "username" in options else ""
    if scheme == "unix":
        if host or not path.strip("/"):
            raise ConfigError(f"the store's URL names no socket; {_HINT}")
        options["path"] = unquote(path)
        return UnixDomainSocketConnection, f"unix://{user}{path}"
    options |= {"host": host or "127.0.0.1", "port": port, "socket_keepalive": True}
    at = f"[{host}]" if ":" in (host or "") else options["host"]
    where = f"{scheme}://{user}{at}:{port}/{options['db']}"
    if scheme == "redis":
        return Connection, where
    options["ssl_check_hostname"] = True
    for each in [name for name in _TLS if name in given]:
        options[_TLS[each]] = given.pop(each)
        with suppress(OSError), open(options[_TLS[each]], "rb"):
            continue
        raise ConfigError(f"the store's URL: {each} names no file that can be read")
    return SSLConnection, where


class Script:
    """A Lua script, which the server is told once and then knows by its hash."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.hash = sha1(text.encode(), usedforsecurity=False).hexdigest()


class Session:
    """One connection. What it raises is a `BackendError`, after which it is of no more use."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        """Connect.

        Args:
            address: Where the server is.
            timeout_s: How long an answer may take, in seconds.
        """
        self._name, self._prefix = address.name, address.prefix
        self._asking = False
        #: Whether the call under way, or the last one, was made to fail.
        self.interrupted = False
        soon_s = min(_CONNECT_S, timeout_s)
        with translated(address.name):
            self._connection = address.kind(
                **address.options, socket_timeout=soon_s, socket_connect_timeout=soon_s,
                client_name=_CLIENT, protocol=2, retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
            self._connection.socket_timeout = soon_s  # redis-py 5.0.0 forgets it of a unix socket
            try:
                self._connection.connect()
            except redis.AuthenticationError as error:
                # Who knows which part of what was said is the password?
                hidden = _SECRET.search(str(error))
                said = "it does not take the user's password" if hidden else str(error)
                raise BackendUnavailable(f"{address.name}: {said}") from None
            # Who listens and says nothing is given up soon; what is asked later may take longer.
            self._connection._sock.settimeout(timeout_s)

    def ask(self, *command: Any) -> Any:
        """Execute a command and return its answer."""
        with translated(self._name):
            return self._ask(*command)

    def run(self, script: Script, *args: Any) -> Any:
        """Execute a script, whose one key is the store's prefix, and return its answer."""
        with translated(self._name):
            try:
                return self._ask("EVALSHA", script.hash, 1, self._prefix, *args)
            except NoScriptError:  # a server that was restarted has forgotten them all
                return self._ask("EVAL", script.text, 1, self._prefix, *args)

    def _ask(self, *command: Any) -> Any:
        connection = self._connection
        self.interrupted, self._asking = False, True
        try:
            connection.send_command(*command, check_health=False)
            return connection.read_response()
        finally:
            self._asking = False

    def interrupt(self) -> None:
        """Make the call under way, which another thread waits for, fail at once."""
        wire = getattr(self._connection, "_sock", None)
        if self._asking and wire is not None:
            self.interrupted = True
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; a second time does nothing."""
        self._connection.disconnect()


class Pool:
    """Sessions that read: as many as there are readers at once, kept for the next ones."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        """Remember the place; nothing is connected yet."""
        self._address, self._timeout_s = address, timeout_s
        self._idle: list[Session] = []
        self._busy: set[Session] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def session(self) -> Iterator[tuple[Session, bool]]:
        """Lend one, and tell whether it had waited here: then the server may have closed it.

        One that an error came out of is not lent again.
        """
        with self._lock:
            if self._closed:
                raise BackendUnavailable(f"{self._address.name} is not open")
            session = self._idle.pop() if self._idle else None
        waited = session is not None
        session = session or Session(self._address, self._timeout_s)
        with self._lock:
            self._busy.add(session)
        try:
            yield session, waited
        except BaseException:
            with self._lock:
                self._busy.discard(session)
            session.close()
            raise
        with self._lock:
            self._busy.discard(session)
            if not self._closed:
                self._idle.append(session)
                return
        session.close()

    def forget(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def interrupt(self) -> None:
        """Make what waits for an answer fail at once."""
        self.forget()
        with self._lock:
            for session in self._busy:
                session.interrupt()

    def close(self) -> None:
        """Lend no more."""
        with self._lock:
            self._closed = True
        self.forget()
