"""The tables of the PostgreSQL store, and how a schema is known to be one.

Rows live in ``events``, partitioned by ranges of ids; ``stream`` is a view of them with readable
names. Every text is compared byte by byte (collation "C").
"""

import json
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from zstream.backends.postgres_link import NAME_BYTES, Address, Connection
from zstream.errors import BackendCorrupt, StoreMismatch

#: Of the tables and of what stands in them. A newer one is refused.
SCHEMA: Final = 1

_TABLES: Final = """
CREATE TABLE meta (name text COLLATE "C" PRIMARY KEY, value text NOT NULL);
CREATE TABLE head (
    node integer PRIMARY KEY, last bigint NOT NULL, floor bigint NOT NULL, arrival bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE runs (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bigint NOT NULL, began_after bigint NOT NULL
);
CREATE TABLE producers (
    id bytea PRIMARY KEY, epoch bigint NOT NULL, last bigint NOT NULL, refused bigint NOT NULL,
    refusals bytea NOT NULL, seen bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE marks (arrival bigint PRIMARY KEY, id bigint NOT NULL);
CREATE TABLE partitions (
    first bigint PRIMARY KEY, last bigint NOT NULL, sealed boolean NOT NULL,
    min_ts bigint, max_ts bigint, several smallint[], sums jsonb
);
INSERT INTO head VALUES (0, 0, 0, 0);
"""
#: Older versions of zstream had none, and do not miss it.
_FILTERS: Final = """
CREATE TABLE IF NOT EXISTS filters (
    name bytea PRIMARY KEY, text text COLLATE "C" NOT NULL, seen bigint NOT NULL
)
"""


def names(keys: int) -> str:
    """The columns of ``events`` in their order: a list stands in ``lists``, by its position."""
    return f"id, ts, {', '.join(f'k{position}' for position in range(keys))}, lists, body"


def create(db: Connection, address: Address, keys: Sequence[str]) -> None:
    """Make the schema and its tables, within the caller's transaction."""
    schema = sql.Identifier(address.schema)
    columns = sql.SQL(", ".join(f'k{position} text COLLATE "C"' for position in range(len(keys))))
    if not _exists(db, address):  # a role that may not make one can be given one
        db.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    db.execute(_TABLES)
    db.execute(
        sql.SQL(
            "CREATE TABLE events (id bigint PRIMARY KEY, ts bigint NOT NULL, {}, lists jsonb,"
            " body bytea NOT NULL) PARTITION BY RANGE (id)"
        ).format(columns)
    )
    db.execute(_view(keys))
    stored = json.dumps(list(keys), ensure_ascii=False)
    db.execute("INSERT INTO meta VALUES ('schema', %s), ('keys', %s)", (str(SCHEMA), stored))


def add_filters(db: Connection) -> None:
    """Make the table of registered filters if it is not there, within the transaction."""
    if db.execute("SELECT to_regclass('filters')").fetchone() == (None,):
        db.execute(_FILTERS)


def _view(keys: Sequence[str]) -> sql.Composed:
    columns = []
    taken = {"id", "ts", "date", "lists", "body"}
    for position, key in enumerate(keys):
        name, number = _cut(key, NAME_BYTES), 1
        while name in taken:
            number += 1
            name = f"{_cut(key, NAME_BYTES - 4)} {number}"
        taken.add(name)
        column = sql.Identifier(f"k{position}")
        columns.append(sql.SQL("{} AS {}").format(column, sql.Identifier(name)))
    return sql.SQL(
        "CREATE VIEW stream AS SELECT id, ts,"
        " timestamptz 'epoch' + ts * interval '1 microsecond' AS date, {}, lists, body"
        " FROM events WHERE id > (SELECT floor FROM head)"
    ).format(sql.SQL(", ").join(columns))


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


def _exists(db: Connection, address: Address) -> bool:
    found = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    return db.execute(found, (address.schema,)).fetchone() is not None


def check_server(db: Connection, address: Address) -> None:
    """Refuse a database that cannot hold every text.

    Raises:
        StoreMismatch: Its encoding is not UTF8.
    """
    encoding = db.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreMismatch(f"{address.name}: the database must have encoding UTF8, not {encoding}")


def is_new(db: Connection, address: Address) -> bool:
    """Whether no store was made in the schema yet.

    Raises:
        BackendCorrupt: Something else is in it that would be in the way.
    """
    rows = db.execute(
        "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname = %s AND relname IN"
        " ('meta', 'head', 'runs', 'producers', 'marks', 'partitions', 'events', 'stream',"
        " 'filters')",
        (address.schema,),
    ).fetchall()
    if rows and ("meta",) not in rows:
        raise BackendCorrupt(
            f"{address.name}: the schema {address.schema} has a table {rows[0][0]} that is not"
            " zstream's; name another schema with ?schema=name"
        )
    return not rows


def check_schema(db: Connection, address: Address) -> tuple[str, ...]:
    """Refuse a schema that this version does not know.

    Returns:
        The keys that the store was made with.

    Raises:
        StoreMismatch: It is newer.
        BackendCorrupt: It is none.
    """
    try:
        known: dict[str, str] = dict(db.execute("SELECT name, value FROM meta").fetchall())
        version, keys = int(known["schema"]), json.loads(known["keys"])
    except (psycopg.ProgrammingError, KeyError, ValueError) as error:
        raise BackendCorrupt(
            f"{address.name}: its table meta is not that of a store of zstream; name another"
            " schema with ?schema=name"
        ) from error
    if version > SCHEMA:
        raise StoreMismatch(
            f"{address.name} has schema {version}; this version of zstream reads up to {SCHEMA}:"
            " use a newer zstream"
        )
    return tuple(keys)


def check_keys(wanted: Sequence[str], stored: Sequence[str], name: str) -> None:
    """Refuse other keys than the store's; their order does not matter.

    Raises:
        StoreMismatch: They differ.
    """
    if sorted(wanted) != sorted(stored):
        raise StoreMismatch(
            f"{name} was made with the keys {','.join(stored)}, not {','.join(wanted)}: name no"
            " keys and its own are used, or export its events and import them into a new store"
        )
