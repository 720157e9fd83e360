"""What a Redis server is: its version, what it promises of its disk, and whether it may evict."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from zstream.backends.base import Durability
from zstream.backends.redis_errors import is_refusal
from zstream.backends.redis_link import Session
from zstream.errors import BackendUnavailable, StoreMismatch

#: ``CLIENT LIST ID`` is that old, and so are multi-argument pops and UNLINK in scripts.
_OLDEST: Final = (6, 2)
#: Policies under which no key of zstream's is evicted: none of them has an expiry.
_SAFE: Final = ("noeviction", "volatile-")

_log = logging.getLogger("zstream.backends.redis")


@dataclass(frozen=True, slots=True)
class Server:
    """A server, as it was set when it was looked at.

    Attributes:
        id: Random, of this life of the process.
        what: Product and version.
        aof: Whether it keeps an append-only file.
        fsync: When that is synced; "" if the server does not tell.
        lazy: Whether it is not synced while it is rewritten.
        clustered: Whether it is a node of a Redis Cluster.
        policy, maxmemory, memory: Which keys are evicted when more than so many bytes, 0 for any,
            are used; how many are.
    """

    id: str
    what: str
    aof: bool
    fsync: str
    lazy: bool
    clustered: bool
    policy: str
    maxmemory: int
    memory: int

    @property
    def durability(self) -> Durability:
        """What is still there after the machine lost its power."""
        if not self.aof or self.fsync not in ("always", "everysec") or self.lazy:
            return "unsynced"
        return "synced" if self.fsync == "always" else "second"

    def why_not(self) -> str:
        """What keeps it from promising that nothing is lost; "" if it does."""
        if not self.aof:
            return "appendonly is no"
        if self.fsync != "always":
            return f"appendfsync is {self.fsync or 'not told by the server'}"
        return "no-appendfsync-on-rewrite is yes" if self.lazy else ""


def look(session: Session) -> Server:
    """Ask a server what it is."""
    facts = dict(_facts(session.ask("INFO")))
    told: dict[str, str] = {}
    # Hosted servers refuse CONFIG, and every application of theirs may do without.
    try:
        told = dict(_pairs(session.ask("CONFIG", "GET", "*append*")))
    except BackendUnavailable as error:
        if not is_refusal(error):
            raise
    what = "valkey" if "valkey_version" in facts else "redis"
    return Server(
        id=facts.get("run_id", ""),
        what=f"{what} {facts.get(f'{what}_version', '?')}",
        aof=facts.get("aof_enabled") == "1",
        fsync=told.get("appendfsync", ""),
        lazy=told.get("no-appendfsync-on-rewrite") == "yes",
        clustered=facts.get("redis_mode", facts.get("server_mode")) == "cluster",
        policy=facts.get("maxmemory_policy", "noeviction"),
        maxmemory=int(facts.get("maxmemory", 0)),
        memory=int(facts.get("used_memory", 0)),
    )


def check(session: Session, name: str) -> Server:
    """Look at a server, and refuse one that a store cannot be kept in.

    Raises:
        StoreMismatch: It is too old, part of a cluster, or may evict what was stored.
    """
    server = look(session)
    version = server.what.partition(" ")[2].split(".")
    if all(part.isdecimal() for part in version[:2]) and tuple(map(int, version[:2])) < _OLDEST:
        raise StoreMismatch(f"{name}: zstream needs Redis 6.2 or newer, this is {server.what}")
    if server.clustered:
        raise StoreMismatch(f"{name}: the server is part of a Redis Cluster: use one of its own")
    if not server.policy.startswith(_SAFE):
        raise StoreMismatch(
            f"{name}: the server's maxmemory-policy is {server.policy}: it may evict what was"
            " stored. Set it to noeviction, or use another server"
        )
    return server


def _facts(info: bytes) -> Iterable[tuple[str, str]]:
    for line in info.decode(errors="replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name, value


def _pairs(flat: Any) -> Iterable[tuple[str, str]]:
    texts = [each.decode(errors="replace") for each in flat]
    return zip(texts[::2], texts[1::2], strict=True)
