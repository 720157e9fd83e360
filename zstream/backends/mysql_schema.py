"""The tables of the MySQL store, and how a database is known to be one.

A statement that makes a table commits by itself, so creation is made of steps that can be done
again, and the row that says that all of it is there comes last.
"""

import json
import logging
import unicodedata
from collections.abc import Sequence
from typing import Final

from pymysql import err

from zstream.backends.mysql_link import Session
from zstream.backends.mysql_rows import COLUMNS, literal
from zstream.errors import BackendCorrupt, StoreMismatch

_log = logging.getLogger(__name__)

#: Of the tables and of what stands in them. A newer one is refused.
SCHEMA: Final = 1

_INTEGER: Final = "BIGINT NOT NULL"
#: Bytes are compared as bytes: no case, no accents, no trailing blanks. From 256 on, a column may
#: be stored outside of its row: 64 of them fit.
_VALUE: Final = "VARBINARY(256)"
#: No right to do it: by no grant at all, or not for this.
_DENIED: Final = (1044, 1142, 1227)
_NAME_LENGTH: Final = 64
_VIEW: Final = "stream"
_REPLACED: Final = ("events_old", "lists_old", "meta_old")


def tables(keys: int, suffix: str = "") -> dict[str, str]:
    """The statements that make the tables of the events, by their names.

    Args:
        keys: How many keys there are.
        suffix: Put behind each name.
    """
    columns = "".join(f"k{key} {_VALUE}, " for key in range(keys))
    indexes = "".join(f", KEY by_k{key} (k{key}, ts)" for key in range(min(keys, COLUMNS)))
    made = {
        # The size stands before the body, which then need not be read for it.
        "events": f"id {_INTEGER} PRIMARY KEY, ts {_INTEGER}, {columns}size {_INTEGER},"
        f" body LONGBLOB NOT NULL, KEY by_ts (ts){indexes}",
        "lists": f"k TINYINT NOT NULL, v {_VALUE} NOT NULL, ts {_INTEGER}, id {_INTEGER},"
        " PRIMARY KEY (k, v, ts, id), KEY by_id (id, k)",
    }
    return {f"{name}{suffix}": _create(f"{name}{suffix}", text) for name, text in made.items()}


def _create(name: str, columns: str) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {name} ({columns})"
        " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4"
        " COLLATE utf8mb4_bin COMMENT='zstream'"
    )


def meta_table(name: str = "meta") -> str:
    """The statement that makes the table of names and values."""
    return _create(name, "name VARCHAR(64) NOT NULL PRIMARY KEY, value LONGTEXT NOT NULL")


def _all(keys: int) -> dict[str, str]:
    head = ("node", "last", "floor", "arrival", "run")
    return {
        "meta": meta_table(),
        **tables(keys),
        "head": _create(
            "head",
            "".join(f"{name} {_INTEGER}, " for name in head)
            + "lists BIGINT UNSIGNED NOT NULL, PRIMARY KEY (node)",
        ),
        "runs": _create(
            "runs",
            f"n {_INTEGER} AUTO_INCREMENT PRIMARY KEY, run {_INTEGER}, began_after {_INTEGER}",
        ),
        "producers": _create(
            "producers",
            f"id VARBINARY(255) NOT NULL PRIMARY KEY, epoch {_INTEGER}, last {_INTEGER},"
            f" refused {_INTEGER}, refusals LONGBLOB NOT NULL, seen {_INTEGER}",
        ),
        "marks": _create("marks", f"arrival {_INTEGER} PRIMARY KEY, id {_INTEGER}"),
        "filters": _create(
            "filters",
            f"name VARBINARY(16) NOT NULL PRIMARY KEY, text LONGTEXT NOT NULL, seen {_INTEGER}",
        ),
    }


def prepare(session: Session, name: str, keys: Sequence[str]) -> None:
    """Make the tables if they are not there.

    Args:
        session: The writer's.
        name: The store, as it may be shown.
        keys: What a new store is made with.

    Raises:
        BackendCorrupt: Tables of these names are there which are not zstream's.
        StoreMismatch: They are of a newer version.
    """
    found = _present(session)
    if is_complete(session, name):
        drop_leftovers(session)
        if "filters" not in found:  # older versions of zstream had none, and do not miss it
            session.run(_all(len(keys))["filters"])
        return
    if _VIEW in found and "meta" not in found:
        raise BackendCorrupt(f"{name} is not a store of zstream: it has a {_VIEW} of somebody else")
    _make(session, name, keys, set(found))


def is_complete(session: Session, name: str) -> bool:
    """Whether there is a store, and nothing of it is missing.

    Raises:
        BackendCorrupt: Tables of these names are there which are not zstream's.
        StoreMismatch: They are of a newer version.
    """
    found = _present(session)
    if foreign := sorted(each for each, ours in found.items() if not ours and each != _VIEW):
        raise BackendCorrupt(
            f"{name} is not a store of zstream: it has a table {foreign[0]} of somebody else;"
            " give zstream a database of its own"
        )
    version = get(session, "schema") if "meta" in found else None
    if version is not None and int(version) > SCHEMA:
        raise StoreMismatch(
            f"{name} has schema {version}; this version of zstream reads up to {SCHEMA}:"
            " use a newer zstream"
        )
    return version is not None


def names() -> tuple[str, ...]:
    """The names of all tables."""
    return tuple(_all(1))


def drop_leftovers(session: Session) -> None:
    """Drop the tables that a change of keys has replaced."""
    old = [name for name, ours in _present(session).items() if ours and name in _REPLACED]
    if old:
        session.run(f"DROP TABLE {', '.join(sorted(old))}")


def _present(session: Session) -> dict[str, bool]:
    """Tables of our names, and whether they are ours."""
    ours = ",".join(f"'{each}'" for each in (*names(), *_REPLACED, _VIEW))
    rows = session.rows(
        "SELECT TABLE_NAME, TABLE_COMMENT FROM information_schema.TABLES"
        f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({ours})"
    )
    return {bytes(name).decode(): bytes(comment) == b"zstream" for name, comment in rows}


def _make(session: Session, name: str, keys: Sequence[str], found: set[str]) -> None:
    # What an interrupted creation left may have other columns. Nothing can be in it.
    if "events" in found:
        if session.row("SELECT EXISTS (SELECT 1 FROM events)")[0]:
            raise BackendCorrupt(f"{name}: its table meta does not name its schema")
        session.run("DROP TABLE events")
    for statement in _all(len(keys)).values():
        session.run(statement)
    session.run("INSERT IGNORE INTO head VALUES (0, 0, 0, 0, 0, 0)")
    put(session, "keys", json.dumps(keys, ensure_ascii=False))
    show(session, keys)
    put(session, "schema", str(SCHEMA))


def get(session: Session, name: str) -> str | None:
    """What the table meta says under a name."""
    rows = session.rows(f"SELECT value FROM meta WHERE name = '{name}'")
    return rows[0][0].decode() if rows else None


def put(session: Session, name: str, value: str, table: str = "meta") -> None:
    """Note something in the table meta."""
    session.run(f"REPLACE INTO {table} VALUES ('{name}', {literal(value)})")


def stored_keys(session: Session, name: str) -> tuple[str, ...]:
    """The keys that the store was made with."""
    text = get(session, "keys")
    if text is None:
        raise BackendCorrupt(f"{name}: its table meta does not name its keys")
    return tuple(json.loads(text))


def check_keys(wanted: Sequence[str], stored: Sequence[str], name: str) -> None:
    """Refuse other keys than the store's; their order does not matter.

    Raises:
        StoreMismatch: They differ.
    """
    if sorted(wanted) != sorted(stored):
        raise StoreMismatch(
            f"{name} was made with the keys {','.join(stored)}, not {','.join(wanted)}: name no"
            " keys and its own are used, or change them by zstreamd reindex --keys"
        )


def show(session: Session, keys: Sequence[str]) -> None:
    """Make the view ``stream`` for people: keys by name, dates; without what was trimmed."""
    session.run("SET NAMES utf8mb4")
    try:
        session.run(_view(keys))
    except err.Error as error:
        if error.args[0] not in _DENIED:
            raise
        _log.warning("no view %s is made: %s", _VIEW, error.args[1])
    finally:
        session.run("SET NAMES binary")


def _view(keys: Sequence[str]) -> str:
    columns = "".join(
        f", COALESCE(CONVERT(e.k{position} USING utf8mb4), (SELECT JSON_ARRAYAGG(CONVERT(l.v USING"
        f" utf8mb4)) FROM lists l WHERE l.id = e.id AND l.k = {position})) AS {name}"
        for position, name in enumerate(_column_names(keys))
    )
    return (
        f"CREATE OR REPLACE VIEW {_VIEW} AS SELECT e.id AS id, TIMESTAMP'1970-01-01"
        f" 00:00:00.000000' + INTERVAL e.ts MICROSECOND AS date{columns}, e.body AS body"
        " FROM events e WHERE e.id > (SELECT h.floor FROM head h)"
    )


def _column_names(keys: Sequence[str]) -> list[str]:
    names: list[str] = []
    taken = {"id", "date", "body"}
    for position, key in enumerate(keys):
        # The server's names have 64 characters of the first plane, end in no blank, and neither
        # case nor accent tells them apart.
        usable = len(key) <= _NAME_LENGTH and max(key) <= "\uffff" and key == key.rstrip()
        if not usable or _plain(key) in taken:
            key = f"key {position}"
        while _plain(key) in taken:
            key += "_"
        taken.add(_plain(key))
        names.append("`" + key.replace("`", "``") + "`")
    return names


def _plain(name: str) -> str:
    parts = unicodedata.normalize("NFKD", name.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part)) or name
