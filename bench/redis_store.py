"""What does a daemon make of a Redis server, beside the index that people write with redis-py?

Both store the same events in turns, each on a server of its own that is set alike: single events
pushed at the daemon, and SET + 4 ZADD an event pipelined by 1,000. The same with the append-only
file synced each second, and always, with fewer events. Between stands what the two servers use of
their memory, and how long a feed takes.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgpack
from common import KEYS, arguments, daemon, report, say
from feed import Contest, Slice
from filling import settle
from producer import Messages, Watch, packed, pushing
from redis_peer import PIPELINED, Index, parser, used_memory
from servers import Absent, Peer, redis

from zstream import Client

PEER, OURS = f"redis-py, SET + 4 ZADD pipelined by {PIPELINED:,}", "zstream"


def lined_up(pool: Sequence[bytes]) -> Messages:
    """One event a message; each call goes on in the pool where the one before ended."""
    place = 0

    def messages(count: int) -> Iterator[Sequence[bytes]]:
        nonlocal place
        while count > 0:
            some = pool[place : place + count]
            place = (place + len(some)) % len(pool)
            count -= len(some)
            yield some

    return messages


def lined_up_pool(count: int) -> Messages:
    """For `producer.pushing`."""
    return lined_up(packed(count))


class Both(NamedTuple):
    """What was measured of one setting, so far."""

    index: Index
    client: Client
    peer: Peer
    own: Peer


def in_turns(stack: ExitStack, fsync: str | None, events: int, slices: int) -> Both:
    """Have both store as many events in slices, and report their rates."""
    peer, own = stack.enter_context(redis(fsync)), stack.enter_context(redis(fsync))
    bodies = packed(events)
    values = ([event[key] for key in KEYS] for event in map(msgpack.unpackb, bodies))
    index = Index(peer.address, list(zip(values, bodies, strict=True)))
    stack.callback(index.close)
    gc.freeze()
    running = stack.enter_context(daemon(f"unix://{own.address}?prefix=bench"))
    producer = stack.enter_context(pushing(running.endpoints.insert, lined_up_pool, events))
    watch = stack.enter_context(Watch(running.url))
    took, settled, size = {PEER: list[float](), OURS: list[float]()}, 0.0, events // slices
    for _ in range(slices):
        head, began = watch.look().head, time.perf_counter()
        producer.push(size)
        took[OURS].append(watch.follow(head + size)[-1].at - began)
        producer.pushed()
        settled += settle(running.pid, size)
        took[PEER].append(index.store(size))
        say(", ".join(f"{who} {size / each[-1]:,.0f}/s" for who, each in took.items()))
    if not watch.look().head == index.count() == size * slices:
        raise RuntimeError("not all of the events are stored")
    for who, each in took.items():
        figures: dict[str, object] = {"setting": f"{peer.setting}; {parser()}"}
        if who == OURS:
            figures = {
                "setting": own.setting,
                "to_redis_py": round(sum(took[PEER]) / sum(each), 2),
                "settled_per_s": round(size * slices / (sum(each) + settled)),
            }
        report(
            "redis_store", who=who, events=size * slices, per_s=round(size * slices / sum(each)),
            slices=[round(size / seconds) for seconds in each], fsync=fsync or "none", **figures,
        )  # fmt: skip
    return Both(index, stack.enter_context(Client(running.url, timeout=30)), peer, own)


def weigh(both: Both) -> None:
    """Report what the servers use of their memory."""
    events = both.index.count()
    for who, server in ((PEER, both.peer), (OURS, both.own)):
        each = used_memory(server.address) / events
        say(f"{who}: {each:.0f} B of memory an event")
        report(
            "redis_store", who=who, what="memory", events=events, bytes_an_event=round(each, 1),
            setting=server.setting,
        )  # fmt: skip


def ask(both: Both, queries: int) -> None:
    """Report how long feeds take, after a look whether both find the same."""
    contest = Contest(both.index.count(), queries, bench="redis_store")

    def bodies(slice: Slice) -> list[bytes]:
        return [msgpack.packb(dict(each)) for each in ours(slice)]

    def ours(slice: Slice) -> Sequence[dict[str, object]]:
        return both.client.items({slice.key: slice.values})

    def theirs(slice: Slice) -> list[bytes]:
        return both.index.feed(slice.key, slice.values)

    for asked in contest.queries.values():
        if bodies(asked[0]) != theirs(asked[0]):
            raise RuntimeError("the two do not find the same events")
    asks: dict[str, Callable[[Slice], object]] = {PEER: theirs, OURS: ours}
    for who, way in asks.items():
        contest.add(who, both.own.setting, way)
    contest.run()


def main() -> None:
    options = arguments(
        __doc__, events=(1_000_000, 10_000), synced=(400_000, 4_000), slices=(4, 2),
        queries=(200, 5),
    )  # fmt: skip
    try:
        with ExitStack() as stack:
            both = in_turns(stack, None, options.events, options.slices)
            weigh(both)
            ask(both, options.queries)
        for fsync in ("everysec", "always"):
            with ExitStack() as stack:
                in_turns(stack, fsync, options.synced, options.slices)
    except Absent as absent:
        report("redis_store", absent=str(absent))


if __name__ == "__main__":
    main()
