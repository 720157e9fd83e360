"""What ``info`` tells of the daemon and its store."""

from typing import Any

from zstream import wire
from zstream.backends.base import Backend, Query, Stats
from zstream.errors import BackendUnavailable
from zstreamd.inbox import Inbox
from zstreamd.outage import Outage
from zstreamd.writer import Writer


def information(
    backend: Backend, writer: Writer, inbox: Inbox, outage: Outage, *, asks: bool = True
) -> dict[str, Any]:
    """Gather it; while the store is away, what only the store knows is None.

    Args:
        backend: The store.
        writer, inbox: Who writes to it, and what waits to be written.
        outage: Knows whether the store is away.
        asks: Whether the store may be asked, and waited for.
    """
    opening, counters, down = writer.opening, writer.counters, outage.down
    followers, retention = opening.followers, opening.retention
    stats, oldest = _look(backend, retention.floor, outage) if asks else (None, None)
    return {
        "protocol": wire.VERSION,
        "keys": list(opening.opened.keys),
        "node": opening.opened.node,
        "floor": retention.floor,
        "oldest": oldest,
        "keep": str(retention.keep),
        "events": None if stats is None else stats.events,
        "size_bytes": None if stats is None else stats.size_bytes,
        "durability": backend.durability,
        "received": counters.received,
        "stored": counters.stored,
        "refused": counters.refused,
        "duplicates": counters.duplicates,
        "nacked": counters.nacked,
        "unindexed": dict(zip(opening.opened.keys, counters.unindexed, strict=True)),
        "queue_bytes": inbox.bytes,
        "commits": counters.commits,
        "commit_us": counters.commit_us,
        "filters": followers.filters,
        "followers": followers.filters + followers.confirmed,
        "producers": len(opening.producers.stored),
        "down": None if down is None else str(down),
        "figures": {} if stats is None else dict(stats.more),
    }


def _look(backend: Backend, floor: int, outage: Outage) -> tuple[Stats | None, int | None]:
    if outage.away is not None:
        return None, None
    try:
        oldest = backend.replay(Query(limit=1), floor).ts
        return backend.stats(), oldest[0] if oldest else None
    except BackendUnavailable:
        return None, None
