"""Stores as the first version wrote them: schema 1, with the index in the same file.

The statements are those that commit 0715246 left in `sqlite_master`; the rows are written as it
wrote them.
"""

import json
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Final

import msgpack

from .model import DATED, KEYS, Row, index_values, make_event

_SCHEMA: Final = """
CREATE TABLE events (
	id INTEGER NOT NULL,
	ts INTEGER NOT NULL,
	k0 TEXT,
	k1 TEXT,
	k2 TEXT,
	k3 TEXT,
	body BLOB NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE meta (
	name TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name)
)
 WITHOUT ROWID;
CREATE TABLE head (
	node INTEGER NOT NULL,
	last INTEGER NOT NULL,
	floor INTEGER NOT NULL,
	arrival INTEGER NOT NULL,
	PRIMARY KEY (node)
);
CREATE TABLE runs (
	n INTEGER NOT NULL,
	run INTEGER NOT NULL,
	began_after INTEGER NOT NULL,
	PRIMARY KEY (n)
);
CREATE TABLE producers (
	id BLOB NOT NULL,
	epoch INTEGER NOT NULL,
	last INTEGER NOT NULL,
	refused INTEGER NOT NULL,
	refusals BLOB NOT NULL,
	seen INTEGER NOT NULL,
	PRIMARY KEY (id)
)
 WITHOUT ROWID;
CREATE TABLE marks (
	arrival INTEGER NOT NULL,
	id INTEGER NOT NULL,
	PRIMARY KEY (arrival)
);
CREATE VIEW stream AS SELECT id, strftime('%Y-%m-%dT%H:%M:%S', ts / 1000000, 'unixepoch') || \
printf('.%06dZ', ts % 1000000) AS date, CAST(k0 AS TEXT) AS "kind", CAST(k1 AS TEXT) AS "user", \
CAST(k2 AS TEXT) AS "tags", CAST(k3 AS TEXT) AS "deep.x", body FROM events;
CREATE TABLE x (
	k INTEGER NOT NULL,
	v TEXT NOT NULL,
	ts INTEGER NOT NULL,
	id INTEGER NOT NULL,
	PRIMARY KEY (k, v, ts, id)
)
 WITHOUT ROWID;
CREATE INDEX events_ts ON events (ts);
PRAGMA application_id = 2054386802;
PRAGMA user_version = 1;
"""
RUNS: Final = (4_444_444_444, 1_234_567_890_123)


def _row(n: int, arrival: int, rng: random.Random) -> Row:
    event = make_event(n, rng)
    return (n + 1, event.get("at", arrival), event)


def _columns(row: Row) -> tuple[list[Any], list[tuple[int, str, int, int]]]:
    """A row of ``events`` and its entries of ``x``."""
    id, ts, event = row
    kept: list[Any] = []
    entries = []
    for position, key in enumerate(KEYS):
        texts = sorted(index_values(event)[key])
        listed = json.dumps(texts, ensure_ascii=False).encode()
        kept.append(listed if len(texts) > 1 else texts[0] if texts else None)
        entries += [(position, text, ts, id) for text in texts]
    return [id, ts, *kept, msgpack.packb(event)], entries


def write(
    path: Path, rng: random.Random, count: int, floor: int, swept: int, producer: bytes
) -> list[Row]:
    """Make a store whose daemon was killed: a part of it stands in the log only.

    Args:
        path: A file that does not exist.
        rng: Chooses the events.
        count: The last id.
        floor: Up to it they were trimmed.
        swept: Of those, up to it their rows are deleted already.
        producer: One whose numbered batches 1 to 3 were dealt with; they were empty.

    Returns:
        What can be read.
    """
    source = path.with_name("schema1.db")
    db = sqlite3.connect(source, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(_SCHEMA)
    db.execute("INSERT INTO meta VALUES ('keys', ?)", (json.dumps(KEYS),))
    db.execute("INSERT INTO head VALUES (0, 0, 0, 0)")
    db.execute("INSERT INTO runs VALUES (1, ?, 0), (2, ?, ?)", (*RUNS, count // 3))
    dealt_with = (producer, 0, 3, 0, msgpack.packb([]), DATED)
    db.execute("INSERT INTO producers VALUES (?, ?, ?, ?, ?, ?)", dealt_with)
    rows = [_row(n, DATED + (n + 1) * 20_000, rng) for n in range(count)]
    batch = 50
    for first in range(0, count, batch):
        if first == count // batch // 2 * batch:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("BEGIN IMMEDIATE")
        for row in rows[first : first + batch]:
            kept, entries = _columns(row)
            if row[0] > swept:
                db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", kept)
                db.executemany("INSERT INTO x VALUES (?, ?, ?, ?)", entries)
        arrival = DATED + (first + batch) * 20_000
        db.execute("INSERT INTO marks VALUES (?, ?)", (arrival, first))
        last = min(first + batch, count)
        db.execute("UPDATE head SET last = ?, arrival = ?", (last, arrival))
        db.execute("COMMIT")
    db.execute("DELETE FROM marks WHERE arrival < (SELECT max(arrival) FROM marks WHERE id <= ?)",
               (floor,))  # fmt: skip
    db.execute("UPDATE head SET floor = ?", (floor,))
    shutil.copy(source, path)
    shutil.copy(f"{source}-wal", f"{path}-wal")
    db.close()
    source.unlink()
    return rows[floor:]
