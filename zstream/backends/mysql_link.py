"""The MySQL store's place: its URL, its sessions and its lock."""

import getpass
import hashlib
import os
import re
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT

from zstream.backends.wires import Wire, Wires
from zstream.errors import BackendUnavailable, ConfigError, StoreLocked, TooLarge

_SCHEMES: Final = ("mysql", "mariadb")
_HINT: Final = "write mysql://user:password@host/database, and ?unix_socket=/path for a local one"
_TLS: Final = ("ssl_ca", "ssl_cert", "ssl_key")
#: How long to wait for a connection, and for each of its first answers, in seconds.
CONNECT_S: Final = 2.0
#: How long to wait for somebody else's transaction, in seconds.
_LOCK_WAIT_S: Final = 5
#: How long a session that is ended may take for it, in seconds.
_END_S: Final = 1
#: A packet that the server must take: the largest event twice, because its escaped text may be
#: as long, and a row around it.
LEAST_PACKET: Final = 4 << 20
#: The oldest servers, for window functions and JSON_ARRAYAGG.
_OLDEST: Final = {"MariaDB": (10, 5), "MySQL": (8, 0)}

#: Whoever set the server up may have set any of this otherwise. Bytes go both ways as they are.
_SETUP: Final = (
    "SET NAMES binary",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
    " group_concat_max_len = 1073741824, sql_safe_updates = 0, sql_big_selects = 1,"
    " sql_select_limit = DEFAULT, wait_timeout = 2147483,"
    f" lock_wait_timeout = {_LOCK_WAIT_S}, innodb_lock_wait_timeout = {_LOCK_WAIT_S}",
)


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        name: The store as it may be shown, without a password.
        options: What the driver is given.
    """

    name: str
    options: dict[str, Any]


def address_of(url: str) -> Address:
    """Take a URL apart: ``mysql://user:password@host:port/database?unix_socket=/path``.

    Raises:
        ConfigError: It is not of this kind. Nothing of a password is in the message.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the store's URL has no usable host or port; {_HINT}") from error
    database = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in _SCHEMES or not url.startswith(f"{parts.scheme}://"):
        raise ConfigError(f"a store in MySQL or MariaDB has another URL; {_HINT}")
    if not database or "/" in database or "\0" in database or parts.fragment:
        raise ConfigError(f"the store's URL names no database; {_HINT}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(given) - {"unix_socket", *_TLS}):
        known = ", ".join(("unix_socket", *_TLS))
        raise ConfigError(f"the store's URL has unknown parameters: {', '.join(unknown)}; {known}")
    for each in _TLS:
        if given.get(each) and not os.path.isfile(given[each]):
            raise ConfigError(f"the store's URL: {each} names no file, {given[each]}")
    user = unquote(parts.username) if parts.username else getpass.getuser()
    options: dict[str, Any] = {
        "user": user,
        "password": unquote(parts.password or "").encode(),
        "host": parts.hostname or "localhost",
        "port": port or 3306,
        "database": database,
    }
    options |= {key: value for key, value in given.items() if value}
    if "unix_socket" in options:
        options["ssl_disabled"] = True
    elif "ssl_ca" in options:  # else the driver does not look at whom it speaks to
        options |= {"ssl_verify_cert": True, "ssl_verify_identity": True}
    where = f"{parts.hostname or 'localhost'}{f':{port}' if port else ''}"
    socket = f"?unix_socket={given['unix_socket']}" if given.get("unix_socket") else ""
    return Address(f"{parts.scheme}://{user}@{where}{parts.path}{socket}", options)


def driver(
    address: Address, timeout_s: float, kind: type[pymysql.Connection] = pymysql.Connection
) -> pymysql.Connection:
    """What the driver makes of an address; it is not connected yet.

    Args:
        address: Where to.
        timeout_s: How long to wait for an answer, in seconds.
        kind: The class of it.
    """
    made = kind(
        **address.options,
        charset="utf8mb4",
        autocommit=True,
        client_flag=CLIENT.FOUND_ROWS,
        read_timeout=timeout_s,
        write_timeout=timeout_s,
        defer_connect=True,
    )
    # Over TLS or to a local socket a password may go as it is.
    made._secure = "unix_socket" in address.options
    return made


class Session:
    """One connection, set up; used by one thread at a time.

    Attributes:
        id: The server's number of it.
        server: What the server is, such as ``MariaDB 10.11.6``.
        packet: Bytes of a statement that it takes.
        lock: The name of the lock that it was given or refused.
    """

    lock = ""
    packet = LEAST_PACKET
    _wire: Wire | None = None

    def __init__(
        self, address: Address, timeout_s: float | None, wires: Wires | None = None
    ) -> None:
        """Connect.

        Args:
            address: Where to.
            timeout_s: How long to wait for an answer, in seconds; None for ever.
            wires: Where to note the connection, so that it can be cut.
        """
        self._db = driver(address, CONNECT_S)
        try:
            made = connected(address, CONNECT_S)
            if wires is not None:
                self._wire = wires.add(made.fileno())
            self._db.connect(made)
            for statement in _SETUP:
                self.run(statement)
            version, self.id, self.packet = self.row(
                "SELECT VERSION(), CONNECTION_ID(), @@max_allowed_packet"
            )
            kind = "MariaDB" if b"mariadb" in version.lower() else "MySQL"
            if kind == "MySQL":  # else sizes of tables are those of yesterday
                self.run("SET SESSION information_schema_stats_expiry = 0")
            self.wait_for(timeout_s)
        except BaseException:
            self.close()
            raise
        self.server = f"{kind} {version.decode(errors='replace').partition('-')[0]}"

    def wait_for(self, timeout_s: float | None) -> None:
        """How long to wait for an answer from now on, in seconds; None for ever."""
        self._db._read_timeout = self._db._write_timeout = timeout_s

    @property
    def is_cut(self) -> bool:
        """Whether it was cut on purpose."""
        return self._wire is not None and self._wire.is_cut

    def run(self, sql: str | bytes) -> int:
        """Execute a statement; return how many rows it touched or found."""
        text = sql.encode("utf-8", "surrogatepass") if isinstance(sql, str) else sql
        return int(self._db.query(text))

    def rows(self, sql: str) -> tuple[tuple[Any, ...], ...]:
        """Execute a query; return its rows. Texts are bytes.

        Raises:
            TooLarge: The server would not take it.
        """
        text = sql.encode("utf-8", "surrogatepass")
        if len(text) >= self.packet:
            raise TooLarge(
                f"a filter as long as this makes a statement of {len(text)} bytes, and the server"
                f" takes {self.packet} (max_allowed_packet): ask for fewer values at once"
            )
        with self._db.cursor() as cursor:
            cursor.execute(text)
            found: tuple[tuple[Any, ...], ...] = cursor.fetchall()
        return found

    def row(self, sql: str) -> tuple[Any, ...]:
        """Execute a query that gives one row."""
        return self.rows(sql)[0]

    def close(self) -> None:
        """Close it, whatever state it is in; a second time does nothing."""
        if self._db.open:
            self._db.close()
        if self._wire is not None:
            self._wire.close()

    def variables(self, names: tuple[str, ...]) -> dict[str, str]:
        """The server's own settings of these names, as far as it has them."""
        wanted = ",".join(f"'{name}'" for name in names)
        rows = self.rows(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({wanted})")
        return {name.decode(): value.decode() for name, value in rows}


def connected(address: Address, timeout_s: float) -> socket.socket:
    """A connected socket: the driver's own way leaves one behind where nobody listens."""
    local, options = address.options.get("unix_socket"), address.options
    if local is None:
        made = socket.create_connection((options["host"], options["port"]), timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout_s)
        made.connect(local)
    except BaseException:
        made.close()
        raise
    return made


def check_server(session: Session, name: str) -> None:
    """Refuse a server that cannot keep a store.

    Raises:
        BackendUnavailable: It is too old, or takes too small packets.
    """
    kind, _, version = session.server.partition(" ")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST[kind]:
        oldest = ".".join(map(str, _OLDEST[kind]))
        raise BackendUnavailable(f"{name}: this is {session.server}; {kind} {oldest} is needed")
    if session.packet < LEAST_PACKET:
        raise BackendUnavailable(
            f"{name}: the server takes packets of {session.packet} bytes, and an event may need"
            f" {LEAST_PACKET}: set max_allowed_packet = 16M in its configuration"
        )


def _lock_name(session: Session) -> str:
    database, folded = session.row("SELECT DATABASE(), @@lower_case_table_names")
    text = database.lower() if folded else database
    return f"zstream-{hashlib.sha256(text).hexdigest()[:32]}"


def lock(session: Session, name: str, wait_s: int, ours: Collection[int] = ()) -> None:
    """Keep other daemons away from the store until the session ends.

    Args:
        session: Whose lock it will be.
        name: The store, as it may be shown.
        wait_s: How long to wait for another one, in seconds.
        ours: Sessions of this daemon that were lost, and may be alive on the server with the
            lock and a commit under way: they are ended.

    Raises:
        StoreLocked: Another one has it.
    """
    text = session.lock = _lock_name(session)
    if session.row(f"SELECT GET_LOCK('{text}', {0 if ours else wait_s})")[0] == 1:
        return
    holder = session.row(f"SELECT IS_USED_LOCK('{text}')")[0]
    if ours and (holder is None or holder in ours):
        if holder is not None:
            kill(session, holder)
        if session.row(f"SELECT GET_LOCK('{text}', {_END_S})")[0] == 1:
            return
        raise BackendUnavailable(f"{name}: the server has not ended the lost connection yet")
    raise StoreLocked(f"{name} is open in another daemon (the server's connection {holder})")


def unlock(session: Session) -> None:
    """Let the next daemon in at once, and not when the server notices that the session ended."""
    session.wait_for(CONNECT_S)
    with suppress(pymysql.err.Error, OSError):  # a session that is lost has lost its lock
        session.run(f"DO RELEASE_LOCK('{session.lock}')")


def kill(session: Session, other: int) -> None:
    """End another session of the same user, if it is still there."""
    try:
        session.run(f"KILL CONNECTION {other}")
    except pymysql.err.Error as error:
        if error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:
            raise
