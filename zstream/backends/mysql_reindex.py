"""Other keys for a MySQL store: its rows written anew, a slice at a time, from their bodies.

The new tables grow beside the old ones; how far they are can be seen in themselves. One statement
renames all of them at once. Until then the store is what it was, for whoever opens it.
"""

import json
from collections.abc import Sequence
from typing import Final

from zstream.backends import mysql_link as link
from zstream.backends import mysql_rows as rows
from zstream.backends import mysql_schema as schema
from zstream.backends.base import Batch
from zstream.backends.upkeep import Extract, Progress
from zstream.errors import BackendCorrupt
from zstream.keys import Value

#: What one transaction takes: rows, and bytes of their bodies.
_SLICE_ROWS: Final = 10_000
_SLICE_BYTES: Final = 4 << 20
_NEW: Final = "_new"
_NOTE: Final = "reindex"


def forget_change(db: link.Session) -> None:
    """Give up a change that was cut off, if there is one."""
    db.run(f"DELETE FROM meta WHERE name = '{_NOTE}'")
    db.run(f"DROP TABLE IF EXISTS events{_NEW}, lists{_NEW}, meta{_NEW}")


class Change:
    """A change of keys; begun anew, or gone on with where another call was cut off."""

    def __init__(
        self,
        db: link.Session,
        name: str,
        old: Sequence[str],
        keys: Sequence[str],
        extract: Extract,
    ) -> None:
        """Take a session with the lock of the store.

        Args:
            db: The session.
            name: The store, as it may be shown.
            old: The keys that it has.
            keys: Those that it is to have.
            extract: See `Upkeep.reindex`.
        """
        self._db, self._name, self._old, self._keys = db, name, tuple(old), tuple(keys)
        self._extract = extract
        self._added = [key for key in keys if key not in old]
        self._last, self._floor = db.row("SELECT last, floor FROM head")

    def run(self, progress: Progress) -> None:
        """Do all of it."""
        done = self._begin()
        while done < self._last:
            progress("writing events anew", done - self._floor, self._last - self._floor)
            done = self._slice(done)
        progress("putting them in place", self._last - self._floor, self._last - self._floor)
        self._end()

    def _begin(self) -> int:
        """Make the new tables, or find them; return the id up to which they are filled."""
        db, note = self._db, json.dumps(self._keys, ensure_ascii=False)
        if schema.get(db, _NOTE) != note:
            forget_change(db)
            for statement in schema.tables(len(self._keys), _NEW).values():
                db.run(statement)
            schema.put(db, _NOTE, note)
        return int(max(db.row(f"SELECT COALESCE(MAX(id), 0) FROM events{_NEW}")[0], self._floor))

    def _slice(self, after: int) -> int:
        sizes = self._db.rows(
            f"SELECT id, size FROM events WHERE id > {after} ORDER BY id LIMIT {_SLICE_ROWS}"
        )
        total, upto = 0, after
        for id, size in sizes:
            total += size
            if id != upto + 1:
                raise BackendCorrupt(f"{self._name}: the event {upto + 1} is missing")
            if total > _SLICE_BYTES and upto > after:
                break
            upto = id
        if upto == after:
            raise BackendCorrupt(f"{self._name}: the events above {after} are missing")
        batch = self._batch(after, upto)
        db = self._db
        db.run("START TRANSACTION")
        for statement in rows.inserts(batch, f"events{_NEW}"):
            db.run(statement)
        for statement in rows.list_inserts(rows.in_lists(batch), f"lists{_NEW}"):
            db.run(statement)
        db.run("COMMIT")
        return upto

    def _batch(self, after: int, upto: int) -> Batch:
        """Some events with their values of the new keys: known ones, or those in the bodies."""
        within = f"id > {after} AND id <= {upto}"
        names = "".join(f", k{key}" for key in range(len(self._old)))
        found = self._db.rows(f"SELECT ts, body{names} FROM events WHERE {within} ORDER BY id")
        columns: dict[str, list[Value]] = {
            key: [None if row[2 + place] is None else _text(row[2 + place]) for row in found]
            for place, key in enumerate(self._old)
        }
        for id, key, value in self._db.rows(f"SELECT id, k, v FROM lists WHERE {within}"):
            column, place = columns[self._old[key]], id - after - 1
            has = column[place] or ()
            column[place] = (*((has,) if isinstance(has, str) else has), _text(value))
        bodies = [row[1] for row in found]
        for key, extracted in zip(self._added, self._extract(bodies, self._added), strict=True):
            columns[key] = list(extracted)
        wanted = [[_alone(value) for value in columns[key]] for key in self._keys]
        return Batch(after + 1, [row[0] for row in found], bodies, wanted, 0)

    def _end(self) -> None:
        db = self._db
        meta = f"meta{_NEW}"
        db.run(f"DROP TABLE IF EXISTS {meta}")
        db.run(schema.meta_table(meta))
        db.run(f"INSERT INTO {meta} SELECT * FROM meta WHERE name <> '{_NOTE}'")
        schema.put(db, "keys", json.dumps(self._keys, ensure_ascii=False), meta)
        bits = sum(1 << key for (key,) in db.rows(f"SELECT DISTINCT k FROM lists{_NEW}"))
        # Whoever is cut off between two of these has bits too many, which costs a look each.
        db.run(f"UPDATE head SET lists = lists | {bits}")
        schema.drop_leftovers(db)
        pairs = [f"{name} TO {name}_old, {name}{_NEW} TO {name}" for name in ("events", "lists")]
        db.run(f"RENAME TABLE {', '.join(pairs)}, meta TO meta_old, {meta} TO meta")
        db.run(f"UPDATE head SET lists = {bits}")
        schema.show(db, self._keys)
        schema.drop_leftovers(db)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _alone(value: Value) -> Value:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value
