"""How many events a second do the others take: PostgreSQL, Redis, NATS, UmaDB?

The same events and keys, from one Python process, for some seconds each; what a peer says that it
has at the end is what counts. zstream's own figures are those of ``insert.py`` and ``clients.py``.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

import redis_peer
from common import KEYS, arguments, events, report, say
from postgres_peer import Table, rows_of
from producer import packed
from servers import Absent, library, nats, postgres, redis, umadb


class Sample(NamedTuple):
    """What the peers are to store."""

    events: list[dict[str, Any]]
    bodies: list[bytes]


#: A peer's way to store for so many seconds: how many it says it has, in how many seconds, set how.
Way = Callable[[Sample, float], tuple[int, float, str]]


def chunks(sample: Sample, size: int) -> Iterator[list[tuple[int, dict[str, Any], bytes]]]:
    """The sample for ever, so many at a time, each with a number that goes on."""
    endless = zip(cycle(sample.events), cycle(sample.bodies), strict=False)
    numbered = ((number, *both) for number, both in enumerate(endless))
    while True:
        yield list(islice(numbered, size))


def for_so_long(store: Callable[[Any], object], given: Iterator[Any], seconds: float) -> float:
    """Store what is given, one after the other, for some seconds; how long it really was."""
    began = time.perf_counter()
    for each in given:
        store(each)
        if time.perf_counter() - began > seconds:
            break
    return time.perf_counter() - began


def postgres_commits(sample: Sample, seconds: float) -> tuple[int, float, str]:
    with postgres() as peer:
        table = Table(peer.address)
        _, took = table.insert(rows_of(sample.events, sample.bodies), seconds)
        count = table.count()
        table.close()
        return count, took, peer.setting


def redis_stream(fsync: str) -> Way:
    def way(sample: Sample, seconds: float) -> tuple[int, float, str]:
        with redis(fsync) as peer, library("redis").Redis(unix_socket_path=peer.address) as client:

            def store(chunk: list[Any]) -> None:
                pipe = client.pipeline(transaction=False)
                for _, _, body in chunk:
                    pipe.xadd("events", {"b": body})
                pipe.execute()

            took = for_so_long(store, chunks(sample, 1_000), seconds)
            return client.xlen("events"), took, f"{peer.setting}; no key is indexed"

    return way


def redis_index(fsync: str) -> Way:
    def way(sample: Sample, seconds: float) -> tuple[int, float, str]:
        with redis(fsync) as peer, library("redis").Redis(unix_socket_path=peer.address) as client:

            def store(chunk: list[Any]) -> None:
                redis_peer.store(
                    client,
                    [(number, [event[k] for k in KEYS], body) for number, event, body in chunk],
                )

            took = for_so_long(store, chunks(sample, redis_peer.PIPELINED), seconds)
            count = client.zcard("all")
            used = client.info("memory")["used_memory"] // count
            return count, took, f"{peer.setting}; {used} B of memory an event"

    return way


def subject(event: dict[str, Any]) -> str:
    return f"ev.{event['kind']}.{event['user']}.{event['repo']}"


async def settled(context: Any, sent: int) -> tuple[int, float]:
    """What a stream holds once it holds all that was sent, or no more for a second; and when."""
    count, grew = -1, time.perf_counter()
    while count < sent and time.perf_counter() - grew < 1:
        now = (await context.stream_info("events")).state.messages
        if now > count:
            count, grew = now, time.perf_counter()
        await asyncio.sleep(0.01)
    return count, grew


def jetstream(sync: str | None, *, acked: bool) -> Way:
    async def publish(address: str, sample: Sample, seconds: float) -> tuple[int, float, int]:
        connection = await library("nats").connect(address)
        context = connection.jetstream()
        await context.add_stream(name="events", subjects=["ev.>"])
        began, sent = time.perf_counter(), 0
        for chunk in chunks(sample, 1_000):
            for _, event, body in chunk:
                if acked:
                    await context.publish_async(subject(event), body, wait_stall=10)
                else:
                    await connection.publish(subject(event), body)
            sent += len(chunk)
            if time.perf_counter() - began > seconds:
                break
        if acked:
            await context.publish_async_completed()
        await connection.flush()
        count, at = await settled(context, sent)
        await connection.close()
        return count, at - began, sent

    def way(sample: Sample, seconds: float) -> tuple[int, float, str]:
        with nats(sync) as peer:
            count, took, sent = asyncio.run(publish(peer.address, sample, seconds))
            lost = f"; {sent - count:,} of {sent:,} were lost" if count < sent else ""
            return count, took, peer.setting + lost

    return way


def umadb_batches(size: int) -> Way:
    def way(sample: Sample, seconds: float) -> tuple[int, float, str]:
        module = library("umadb")

        def ready(chunk: list[Any]) -> list[Any]:
            return [
                module.Event(
                    event_type=event["kind"], data=body,
                    tags=[f"user:{event['user']}", f"repo:{event['repo']}"],
                )
                for _, event, body in chunk
            ]  # fmt: skip

        with umadb() as peer:
            client = module.Client(peer.address)
            took = for_so_long(client.append, map(ready, chunks(sample, size)), seconds)
            return client.head(), took, peer.setting

    return way


WAYS: dict[str, Way] = {
    "PostgreSQL, a commit an event": postgres_commits,
    "Redis Streams, XADD pipelined by 1,000, synced always": redis_stream("always"),
    "Redis Streams, XADD pipelined by 1,000, synced each second": redis_stream("everysec"),
    "Redis, SET + 4 ZADD pipelined by 1,000, synced always": redis_index("always"),
    "Redis, SET + 4 ZADD pipelined by 1,000, synced each second": redis_index("everysec"),
    "NATS JetStream, acknowledged, async, synced always": jetstream("always", acked=True),
    "NATS JetStream, acknowledged, async, default sync": jetstream(None, acked=True),
    "NATS JetStream, core publish without acknowledgement": jetstream(None, acked=False),
    "UmaDB, append of 1": umadb_batches(1),
    "UmaDB, append of 100": umadb_batches(100),
    "UmaDB, append of 1,000": umadb_batches(1_000),
}


def main() -> None:
    options = arguments(__doc__, seconds=(4, 0), pool=(1_000_000, 2_000))
    sample = Sample(events(options.pool), packed(options.pool))
    seconds = options.seconds or 0.1
    for who, way in WAYS.items():
        try:
            count, took, setting = way(sample, seconds)
        except Absent as absent:
            report("peers", who=who, absent=str(absent))
            continue
        say(f"{who}: {round(count / took):,}/s")
        report(
            "peers", who=who, events=count, seconds=round(took, 2), per_s=round(count / took),
            setting=setting,
        )  # fmt: skip


if __name__ == "__main__":
    main()
