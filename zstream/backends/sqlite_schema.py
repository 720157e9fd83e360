"""The tables of the SQLite store, how a file is known to be one, and how an older one is upgraded.

Rows live in ``events``; ``stream`` is a view of them with readable names. The index is not
here but in a second file, see `zstream.backends.sqlite_index`: it can be rebuilt from the rows
at any time.
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateTable

from zstream.backends.base import Head, Producer, Registration
from zstream.errors import BackendCorrupt, StoreMismatch
from zstream.limits import MAX_INTEGER

#: Of the tables and of what stands in them. A newer one is refused, an older one upgraded:
#: 1 had its index, ``x`` and ``events_ts``, in the same file, and no identity.
SCHEMA: Final = 2
#: "zstr", in the header of the file: it is a store of zstream.
APPLICATION_ID: Final = 0x7A737472

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")


def _tables(keys: int) -> list[Table]:
    meta = MetaData()
    return [
        events_table(keys, "events", meta),
        Table("meta", meta, _text("name", key=True), _text("value"), sqlite_with_rowid=False),
        Table(
            "head", meta, _integer("node", key=True), _integer("last"), _integer("floor"),
            _integer("arrival"),
        ),
        Table("runs", meta, _integer("n", key=True), _integer("run"), _integer("began_after")),
        Table(
            "producers", meta, _blob("id", key=True), _integer("epoch"), _integer("last"),
            _integer("refused"), _blob("refusals"), _integer("seen"), sqlite_with_rowid=False,
        ),
        Table("marks", meta, _integer("arrival", key=True), _integer("id")),
        _filters(meta),
    ]  # fmt: skip


def _filters(meta: MetaData) -> Table:
    columns = _blob("name", key=True), _text("text"), _integer("seen")
    return Table("filters", meta, *columns, sqlite_with_rowid=False)


def events_table(keys: int, name: str, meta: MetaData) -> Table:
    """The table of rows, under any name."""
    columns = [Column(f"k{position}", Text) for position in range(keys)]
    # The body stands last: what lies before it is read without its overflow pages.
    return Table(name, meta, _integer("id", key=True), _integer("ts"), *columns, _blob("body"))


def _integer(name: str, key: bool = False) -> Column[int]:
    return Column(name, Integer, primary_key=key, nullable=False)


def _text(name: str, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _blob(name: str, key: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, primary_key=key, nullable=False)


def create(db: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Make the tables and the first rows of a new store, within the caller's transaction."""
    for table in _tables(len(keys)):
        db.execute(_making(table))
    db.execute(view(keys))
    db.execute("INSERT INTO meta VALUES ('keys', ?)", (json.dumps(keys, ensure_ascii=False),))
    _give_identity(db)
    db.execute("INSERT INTO head VALUES (0, 0, 0, 0)")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def _making(table: Table, unless_there: bool = False) -> str:
    make = CreateTable(table, if_not_exists=unless_there)
    return str(make.compile(dialect=dialect.dialect()))


def _give_identity(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO meta VALUES ('store', ?)", (secrets.token_hex(16),))


def upgrade(db: sqlite3.Connection) -> None:
    """Bring an older schema up to this one, within the caller's transaction."""
    if _number(db, "PRAGMA user_version") == 1:
        db.execute("DROP TABLE x")
        db.execute("DROP INDEX events_ts")
        _give_identity(db)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
    # An older version of zstream does not miss it, so it is no other schema.
    db.execute(_making(_filters(MetaData()), unless_there=True))


def view(keys: Sequence[str]) -> str:
    """The statement that makes the view of the rows with readable names."""
    quote = dialect.dialect().identifier_preparer.quote_identifier
    taken = {"id", "date", "body"}
    columns = []
    for position, key in enumerate(keys):
        name = key
        while name.lower() in taken:  # SQL does not tell User from user
            name = f"key {name}"
        taken.add(name.lower())
        columns.append(f"CAST(k{position} AS TEXT) AS {quote(name)}")
    date = (
        "strftime('%Y-%m-%dT%H:%M:%S', ts / 1000000, 'unixepoch') || printf('.%06dZ', ts % 1000000)"
    )
    return (
        f"CREATE VIEW stream AS SELECT id, {date} AS date, {', '.join(columns)}, body FROM events"
    )


def check_file(path: str) -> None:
    """Look at a file without SQLite, which might change what is not ours.

    Never while this process has it open: closing a file drops the locks that SQLite has on it.

    Raises:
        BackendCorrupt: It is there, is not empty, and is not a store of zstream.
        OSError: It cannot be read or written.
    """
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        return
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        if _has_journal(path):
            return  # perhaps the power was cut while it was made: SQLite undoes that, or refuses
        raise BackendCorrupt(f"{path} is not a store of zstream, nor any SQLite database")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise BackendCorrupt(f"{path} is an SQLite database, but not a store of zstream")
    # SQLite would open what is read-only, and leave a log behind that is read-only for ever.
    os.close(os.open(path, os.O_RDWR))


def _has_journal(path: str) -> bool:
    try:
        with open(f"{path}-journal", "rb") as file:
            return file.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC
    except FileNotFoundError:
        return False


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether nothing was made in the file yet."""
    return _number(db, "SELECT count(*) FROM sqlite_master") == 0


def check_schema(db: sqlite3.Connection, path: str) -> None:
    """Refuse a schema that this version can neither use nor upgrade.

    Raises:
        StoreMismatch: It is newer.
        BackendCorrupt: There is none.
    """
    version = _number(db, "PRAGMA user_version")
    if version > SCHEMA:
        raise StoreMismatch(
            f"{path} has schema {version}; this version of zstream reads up to {SCHEMA}:"
            " use a newer zstream"
        )
    if version < 1 or _number(db, "PRAGMA application_id") != APPLICATION_ID:
        raise BackendCorrupt(f"{path} is an SQLite database, but not a store of zstream")


def stored_keys(db: sqlite3.Connection, path: str) -> tuple[str, ...]:
    """The keys that the store was made with."""
    row = db.execute("SELECT value FROM meta WHERE name = 'keys'").fetchone()
    if row is None:
        raise BackendCorrupt(f"{path}: its table meta does not name its keys")
    return tuple(json.loads(row[0]))


def stored_identity(db: sqlite3.Connection, path: str) -> str:
    """The random name that the store was given when it was made."""
    row = db.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()
    if row is None:
        raise BackendCorrupt(f"{path}: its table meta does not name the store")
    return str(row[0])


def begin_run(db: sqlite3.Connection, keys: tuple[str, ...]) -> Head:
    """Note that the store was opened, within the caller's transaction; return what it knows."""
    node, last, floor, arrival = db.execute(
        "SELECT node, last, floor, arrival FROM head"
    ).fetchone()
    run = secrets.randbelow(MAX_INTEGER) + 1
    db.execute("INSERT INTO runs (run, began_after) VALUES (?, ?)", (run, last))
    rows = db.execute("SELECT run, began_after FROM runs ORDER BY n").fetchall()
    ends = [began for _, began in rows[1:]] + [last]
    runs = tuple((run, end) for (run, _), end in zip(rows, ends, strict=True))
    producers = db.execute("SELECT * FROM producers").fetchall()
    known = {row[0]: Producer(*row) for row in producers}
    filters = db.execute("SELECT name, text, seen FROM filters").fetchall()
    registered = {row[0]: Registration(*row) for row in filters}
    return Head(run, runs, node, last, floor, arrival, keys, known, registered)


def check_keys(wanted: Sequence[str], stored: Sequence[str], path: str) -> None:
    """Refuse other keys than the store's; their order does not matter.

    Raises:
        StoreMismatch: They differ.
    """
    if sorted(wanted) != sorted(stored):
        raise StoreMismatch(
            f"{path} was made with the keys {','.join(stored)}, not {','.join(wanted)}: name no"
            " keys and its own are used, or change them with: zstreamd reindex --store"
            f" sqlite:///{path} --keys {','.join(wanted)}"
        )


def _number(db: sqlite3.Connection, sql: str) -> int:
    return int(db.execute(sql).fetchone()[0])
