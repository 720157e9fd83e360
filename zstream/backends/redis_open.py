"""Opening a store in Redis: whose it is, what it holds, and the run that begins."""

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from zstream import wire
from zstream.backends import redis_link as link
from zstream.backends import redis_scripts as scripts
from zstream.backends.base import DEFAULT_KEYS, Batch, Head, Producer, Registration
from zstream.backends.redis_newest import Stored
from zstream.backends.redis_runs import unpack_layout
from zstream.backends.redis_writer import Lock, Opened
from zstream.errors import BackendCorrupt, ConfigError, StoreMismatch
from zstream.limits import MAX_INTEGER

#: The form of the keys below the prefix; see `docs/backends.md`.
SCHEMA: Final = 1

_Fields = Mapping[bytes, bytes]


class Opening(NamedTuple):
    """What opening a store gave: what to tell, the run to write in, and what the index begins with.

    Attributes:
        next_mark: From which arrival on the next mark is due.
    """

    head: Head
    opened: Opened
    stored: Stored
    next_mark: int


def open_store(
    session: link.Session, address: link.Address, lock: Lock, life: str,
    keys: Sequence[str] | None, patience_s: float, mark_us: int,
) -> Opening:  # fmt: skip
    """Take the lock, begin a run, and read what the store says of itself.

    Args:
        session: Holds the lock from now on.
        address: Where the store is.
        lock: The lock to take.
        life: The life of the server's process.
        keys: See `Backend.open`.
        patience_s: How long to wait for another daemon that is ending, in seconds.
        mark_us: Marks of arrival are so far apart, in microseconds.
    """
    prefix, name = address.prefix, address.name
    run = random.SystemRandom().randint(1, MAX_INTEGER)
    mine = lock.of(session, life)
    _stored_keys(session, address)  # what is no store has no lock either
    session.run(scripts.TRIAL)
    while True:
        held = lock.await_free(session, prefix, life, patience_s)
        stored_keys = _stored_keys(session, address)
        if stored_keys is not None and keys is not None and set(keys) != set(stored_keys):
            raise StoreMismatch(
                f"{name} has the keys {','.join(stored_keys)}, not {','.join(keys)}; start with"
                " those, or name another store"
            )
        fresh = _fresh(DEFAULT_KEYS if keys is None else keys)
        if session.run(scripts.BEGIN, held, mine, run, wire.pack(fresh, raw=True)):
            return read_store(session, address, run, lock.word, mark_us)


def _stored_keys(session: link.Session, address: link.Address) -> list[str] | None:
    """The keys of the store, or None if there is none yet."""
    kind = session.ask("TYPE", address.prefix)
    if kind == b"none":
        return None
    if kind != b"hash":
        raise BackendCorrupt(
            f"{address.name}: the key {address.prefix} is something else and no store of zstream;"
            " name another ?prefix="
        )
    schema, keys = session.ask("HMGET", address.prefix, "schema", "keys")
    if schema is None or keys is None:
        raise _foreign(address)
    if schema.isdigit() and int(schema) > SCHEMA:
        raise StoreMismatch(
            f"{address.name} was written by a newer zstream (schema {int(schema)}, this one knows"
            f" {SCHEMA}); upgrade"
        )
    with suppress(ValueError):
        found = json.loads(keys)
        if schema.isdigit() and type(found) is list:
            return found
    raise _foreign(address)


def _foreign(address: link.Address) -> BackendCorrupt:
    return BackendCorrupt(
        f"{address.name}: the hash {address.prefix} is no store of zstream; name another ?prefix="
    )


def _fresh(keys: Sequence[str]) -> list[str]:
    """The fields of a new store's hash."""
    return [
        "schema", str(SCHEMA), "keys", json.dumps(list(keys), ensure_ascii=False), "node", "0",
        "last", "0", "floor", "0", "arrival", "0", "swept", "0",
    ]  # fmt: skip


def take_store(
    session: link.Session, address: link.Address, lock: Lock, life: str, patience_s: float
) -> Opening:
    """Take the lock of a store that exists, and read what it says of itself; no run begins.

    Args:
        session, address, lock, life, patience_s: As for `open_store`.

    Raises:
        ConfigError: There is no store.
    """
    mine = lock.of(session, life)
    _stored_keys(session, address)  # what is no store has no lock either
    while True:
        held = lock.await_free(session, address.prefix, life, patience_s)
        if _stored_keys(session, address) is None:
            raise ConfigError(f"there is no store at {address.name}")
        if session.run(scripts.TAKE, held, mine):
            run = int(session.ask("HGET", address.prefix, "run"))
            return read_store(session, address, run, lock.word, 0)


def read_store(
    session: link.Session, address: link.Address, run: int, word: str, mark_us: int
) -> Opening:
    """Read what a store says of itself, by whoever has the lock.

    Args:
        session, address: Where.
        run: The run that it is in.
        word: The last word of the lock.
        mark_us: Marks of arrival are so far apart, in microseconds.
    """
    prefix, fields = address.prefix, _hash(session, address.prefix)
    try:
        head = _head(session, prefix, run, fields)
        stored = Stored(
            floor=head.floor,
            swept=int(fields[b"swept"]),
            runs=_layouts(session, f"{prefix}:runs"),
            unfinished=_layouts(session, f"{prefix}:unfinished"),
            newest=session.ask("LRANGE", f"{prefix}:newest", 0, -1),
            change=fields.get(b"change", b"").decode(),
            changed=_layouts(session, f"{prefix}:changed"),
        )
        marks = session.ask("LRANGE", f"{prefix}:marks", -1, -1)
        next_mark = int(marks[0].split()[0]) + mark_us if marks else 0
        acts = int(fields.get(b"acts", 0))
    except (KeyError, ValueError, TypeError) as error:
        raise BackendCorrupt(f"{address.name}: it is not as zstream left it ({error!r})") from error
    earlier = (each for each, _ in head.runs[:-1])
    opened = Opened(address.name, run, earlier, head.id, acts, word)
    return Opening(head, opened, stored, next_mark)


def _head(session: link.Session, prefix: str, run: int, fields: _Fields) -> Head:
    begun = [line.split() for line in session.ask("LRANGE", f"{prefix}:openings", 0, -1)]
    last = int(fields[b"last"])
    ends = [int(began) for _, began in begun[1:]] + [last]
    producers = _hash(session, f"{prefix}:producers")
    filters = _hash(session, f"{prefix}:filters")
    return Head(
        run=run,
        runs=tuple((int(each), end) for (each, _), end in zip(begun, ends, strict=True)),
        node=int(fields[b"node"]),
        id=last,
        floor=int(fields[b"floor"]),
        arrival=int(fields[b"arrival"]),
        keys=tuple(json.loads(fields[b"keys"])),
        producers={id: Producer(id, *wire.unpack(row)) for id, row in producers.items()},
        filters={name: Registration(name, *wire.unpack(row)) for name, row in filters.items()},
    )


def _hash(session: link.Session, name: str) -> _Fields:
    flat: list[bytes] | dict[bytes, bytes] = session.ask("HGETALL", name)
    if isinstance(flat, dict):
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _layouts(session: link.Session, name: str) -> dict[int, Any]:
    found = _hash(session, name)
    return {int(number): unpack_layout(int(number), text) for number, text in found.items()}


# ---------------------------------------------------------------- rows beside events


def pack_others(batch: Batch) -> list[bytes]:
    """What a batch writes beside events, as the script wants it: b"" for nothing."""
    producers: list[bytes] = []
    for each in batch.producers:
        producers += (each.id, wire.pack(list(each[1:])))
    filters: list[bytes] = []
    for named in batch.filters:
        filters += (named.name, wire.pack(list(named[1:])))
    gone = (list(batch.forgotten_producers), list(batch.forgotten_filters))
    return [wire.pack(each, raw=True) if each else b"" for each in (producers, filters, *gone)]
