"""The PostgreSQL store's place: its URL, its connections and its lock."""

import hashlib
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import psycopg
from psycopg import conninfo, sql

from zstream.backends.wires import Wire, Wires
from zstream.errors import ConfigError, StoreMismatch

_SCHEMES: Final = ("postgresql", "postgres")
_DEFAULT_SCHEMA: Final = "zstream"
#: What PostgreSQL cuts longer names to, in bytes.
NAME_BYTES: Final = 63
#: The oldest server whose partitions can be attached while others read and write.
_OLDEST: Final = 12_00_00
#: libpq's parameters, where the URL has none: a server that has vanished is noticed.
_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "zstreamd",
    "connect_timeout": 2,
    "keepalives_idle": 60,
    "tcp_user_timeout": 30_000,
}
#: How long until a lock is tried again.
_PAUSE_S: Final = 0.02
#: Statements that a reader keeps planned.
_PREPARED: Final = 50
#: No statement is prepared only because it came so often.
_NEVER: Final = 1 << 40
_HINT: Final = "write postgresql://user@host/database, and ?schema=name if not 'zstream'"


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        conninfo: What libpq is given.
        schema: The schema whose tables the store is.
        name: The store as it may be shown, without a password.
    """

    conninfo: str
    schema: str
    name: str


def address_of(url: str) -> Address:
    """Take a URL apart: ``schema`` is zstream's own parameter, all others are libpq's.

    Raises:
        ConfigError: libpq does not take it, or the schema cannot be one. Nothing of a password
            is in the message.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not url.startswith(f"{parts.scheme}://"):
        raise ConfigError(f"a store in PostgreSQL has another URL; {_HINT}")
    before, _, query = url.partition("?")
    given = [each for each in query.split("&") if each]
    schemas = [unquote(each[7:]) for each in given if each.startswith("schema=")]
    rest = "&".join(each for each in given if not each.startswith("schema="))
    schema = schemas[-1] if schemas else _DEFAULT_SCHEMA
    if not 0 < len(schema.encode()) <= NAME_BYTES or "\0" in schema or schema.startswith("pg_"):
        raise ConfigError(f"{schema!r} cannot be the schema of a store; {_HINT}")
    try:
        known = conninfo.conninfo_to_dict(f"{before}?{rest}" if rest else before)
    except psycopg.ProgrammingError as error:
        # libpq quotes what it does not understand, which may be a part of the password.
        secret = "@" in parts.netloc or "password" in query
        why = "" if secret else f": {' '.join(str(error).split())}"
        raise ConfigError(f"libpq does not take the store's URL{why}; {_HINT}") from None
    info = conninfo.make_conninfo("", **{**_DEFAULTS, **known})
    return Address(info, schema, _shown(known, schema))


def _shown(known: dict[str, Any], schema: str) -> str:
    user = f"{quote(str(known['user']))}@" if "user" in known else ""
    host, port = str(known.get("host", "")), known.get("port")
    parameters = [f"host={quote(host)}"] if host.startswith("/") else []
    if schema != _DEFAULT_SCHEMA:
        parameters.append(f"schema={quote(schema)}")
    at = "" if parameters and host.startswith("/") else host
    port = f":{port}" if port else ""
    asked = f"?{'&'.join(parameters)}" if parameters else ""
    return f"postgresql://{user}{at}{port}/{quote(str(known.get('dbname', '')))}{asked}"


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose rows are tuples, and that another thread may cut."""

    wire: Wire | None = None

    def close(self) -> None:
        """Close it; a second time does nothing."""
        super().close()
        if self.wire is not None:
            self.wire.close()


def connect(address: Address, lock_timeout_s: float, wires: Wires | None = None) -> Connection:
    """Connect, with the store's schema as the one that names are looked up in.

    Args:
        address: The place.
        lock_timeout_s: How long a statement waits for somebody else's transaction, in seconds.
        wires: Where to note the connection, so that it can be cut.
    """
    db = Connection.connect(
        address.conninfo, autocommit=True, prepare_threshold=_NEVER, client_encoding="utf8"
    )
    try:
        if wires is not None:
            db.wire = wires.add(db.fileno())
        if db.info.server_version < _OLDEST:
            raise StoreMismatch(f"{address.name}: zstream needs PostgreSQL 12 or newer")
        wait = max(round(lock_timeout_s * 1000), 1)
        # A role or a database may have settings of its own for all of these.
        db.execute(
            sql.SQL(
                f"SET search_path = {{}}; SET lock_timeout = {wait}; SET statement_timeout = 0;"
                " SET idle_in_transaction_session_timeout = 0; SET default_transaction_isolation ="
                " 'read committed'; SET client_min_messages = warning; SET jit = off;"
                " SET bytea_output = 'hex'; SET standard_conforming_strings = on"
            ).format(sql.Identifier(address.schema))
        )
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(address: Address, lock_timeout_s: float, wires: Wires) -> Connection:
    """A connection that reads only, by the plans that the statements were written for."""
    db = connect(address, lock_timeout_s, wires)
    db.prepared_max = _PREPARED
    try:
        db.execute(
            "SET default_transaction_read_only = on; SET enable_seqscan = off;"
            " SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0;"
            " SET plan_cache_mode = force_generic_plan"
        )
    except BaseException:
        db.close()
        raise
    return db


def row_of(db: Connection, statement: str, args: dict[str, Any], prepare: bool) -> tuple[Any, ...]:
    """Execute a statement that gives one row.

    Args:
        db: The connection.
        statement: Its text, with names for the arguments.
        args: They.
        prepare: Plan it once, whatever it is told the next time. Otherwise what it is told
            stands in the text, and then many values are looked up in a hash.
    """
    if prepare:
        row = db.execute(statement, args, prepare=True, binary=True).fetchone()
    else:
        row = psycopg.ClientCursor(db).execute(statement, args).fetchone()
    assert row is not None  # each of them is an aggregate
    return row


def lock(db: Connection, address: Address, timeout_s: float = 0.0) -> bool:
    """Keep other daemons away for as long as this connection lives.

    Args:
        db: The connection.
        address: The store.
        timeout_s: How long to wait for the lock of one that has just ended, in seconds.

    Returns:
        Whether the lock is ours.
    """
    # The number is looked up within the database, so that a schema of a name has one lock.
    digest = hashlib.sha256(f"zstream:{address.schema}".encode()).digest()
    number = int.from_bytes(digest[:8], "big", signed=True)
    give_up_at = time.monotonic() + timeout_s
    while True:
        row = db.execute(f"SELECT pg_try_advisory_lock({number})").fetchone()
        if row is not None and row[0]:
            return True
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(_PAUSE_S)


def broken(db: Connection) -> bool:
    """Whether a connection is of no more use."""
    return db.closed or was_cut(db) or db.pgconn.status != psycopg.pq.ConnStatus.OK


def was_cut(db: Connection) -> bool:
    """Whether a connection was cut on purpose."""
    return db.wire is not None and db.wire.is_cut


def identity(db: Connection) -> tuple[int, str]:
    """What the server knows a connection by, and no other one, not even after a restart."""
    row = db.execute(
        "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    ).fetchone()
    assert row is not None  # everybody sees what is his own
    return int(row[0]), str(row[1])


def end(db: Connection, others: Iterable[tuple[int, str]]) -> None:
    """Have the server end connections of ours that were lost, and may live on there."""
    for pid, started in others:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid = %s AND backend_start = %s::timestamptz",
            (pid, started),
        )
