"""Other keys for a store in PostgreSQL: its events are stored once more, in a schema beside it.

The new schema takes the old one's place in one transaction at the end. Whatever ends the job
before leaves the old store as it was, and the next try goes on where the new one ends.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from psycopg import sql

from zstream.backends import postgres_link as link
from zstream.backends.base import Backend, Batch
from zstream.backends.postgres_find import integers
from zstream.backends.postgres_schema import add_filters
from zstream.backends.postgres_write import Writer
from zstream.backends.upkeep import Extract, Progress
from zstream.backends.wires import Wires
from zstream.errors import BackendCorrupt, StoreMismatch

#: Events of one batch, and bytes of their bodies.
_ROWS: Final = 5_000
_BYTES: Final = 4 << 20

_EVENTS: Final = (
    "SELECT string_agg(int8send(ts), ''), string_agg(int8send(octet_length(body)), ''),"
    " string_agg(body, '') FROM (SELECT ts, body, row_number() OVER w AS n,"
    " sum(octet_length(body)) OVER w AS total FROM events WHERE id > %(after)s AND id <= %(upto)s"
    " WINDOW w AS (ORDER BY id) ORDER BY id) e WHERE n = 1 OR total <= %(bytes)s"
)
_REST: Final = """
DELETE FROM {new}.head; INSERT INTO {new}.head SELECT * FROM {old}.head;
DELETE FROM {new}.runs; INSERT INTO {new}.runs OVERRIDING SYSTEM VALUE SELECT * FROM {old}.runs;
SELECT setval(pg_get_serial_sequence({sequence}, 'n'), (SELECT max(n) FROM {old}.runs));
DELETE FROM {new}.producers; INSERT INTO {new}.producers SELECT * FROM {old}.producers;
DELETE FROM {new}.filters; INSERT INTO {new}.filters SELECT * FROM {old}.filters;
DELETE FROM {new}.marks; INSERT INTO {new}.marks SELECT * FROM {old}.marks;
DELETE FROM {new}.meta WHERE name = 'of';
DROP SCHEMA {old} CASCADE;
ALTER SCHEMA {new} RENAME TO {old}
"""


def beside(address: link.Address) -> link.Address:
    """The place of the new store."""
    room = link.NAME_BYTES - len(" reindexed")
    schema = address.schema.encode()[:room].decode(errors="ignore")
    return address._replace(schema=f"{schema} reindexed")


def change_keys(
    db: link.Connection, old: link.Address, make: Callable[[], Backend], keys: Sequence[str],
    extract: Extract, progress: Progress,
) -> None:  # fmt: skip
    """Give a store other keys.

    Args:
        db: A connection that holds the lock of the store.
        old: Its place.
        make: Makes the new store's backend, whose place is `beside` the old one.
        keys: What it is to have.
        extract: Index values of the stored events.
        progress: See `Progress`.
    """
    new = beside(old)
    [(last, floor)] = db.execute("SELECT last, floor FROM head").fetchall()
    _begin(db, new, keys, last, floor)
    backend = make()
    try:
        done = backend.open(keys).id
        while done < last:
            progress("storing events anew", max(done - floor, 0), last - floor)
            ts, bodies = _events(db, done, min(done + _ROWS, last))
            columns = extract(bodies, keys)
            backend.append(Batch(done + 1, ts, bodies, columns, 0))
            done += len(ts)
        progress("storing events anew", last - floor, last - floor)
    finally:
        backend.close()
    both = {"new": sql.Identifier(new.schema), "old": sql.Identifier(old.schema)}
    sequence = sql.Literal(sql.Identifier(new.schema, "runs").as_string(db))
    with db.transaction():
        add_filters(db)
        db.execute(sql.SQL(_REST).format(**both, sequence=sequence))


def _begin(
    db: link.Connection, new: link.Address, keys: Sequence[str], last: int, floor: int
) -> None:
    """Make the new store, unless an earlier try did, to begin above the floor."""
    runs = [str(run) for (run,) in db.execute("SELECT run FROM runs ORDER BY n").fetchall()]
    writer = Writer(new, 0.0, Wires())
    try:
        try:
            writer.create(keys)
        except StoreMismatch:  # of a try with other keys
            _drop(db, new)
            writer.create(keys)
        found = writer.db.execute("SELECT value FROM meta WHERE name = 'of'").fetchone()
        if found is not None and (found[0] not in runs or writer.last() > last):
            _drop(db, new)  # of a store that was here before this one
            writer.create(keys)
        with writer.db.transaction():
            newest = "INSERT INTO meta VALUES ('of', %s) ON CONFLICT DO NOTHING"
            writer.db.execute(newest, (runs[-1],))
            writer.db.execute(
                f"UPDATE head SET last = {floor}, floor = {floor} WHERE last < {floor}"
            )
    finally:
        writer.close()


def _drop(db: link.Connection, place: link.Address) -> None:
    db.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(place.schema)))


def _events(db: link.Connection, after: int, upto: int) -> tuple[Sequence[int], list[bytes]]:
    args = {"after": after, "upto": upto, "bytes": _BYTES}
    joined_ts, joined_sizes, joined = link.row_of(db, _EVENTS, args, False)
    if not joined_ts:
        raise BackendCorrupt(f"the events from {after + 1} to {upto} are missing")
    sizes = accumulate(integers(joined_sizes), initial=0)
    return integers(joined_ts), [joined[a:b] for a, b in pairwise(sizes)]
