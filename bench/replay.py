"""How many events a second does history give from its beginning, and the same of the peers?

zstream's history is read once more while events come in at full rate, one a message.
"""

import asyncio
import statistics
import time
from contextlib import ExitStack

from common import arguments, report, say
from filling import settle
from flows import STUCK_S, Flow, flows, rate_of
from producer import Watch, packed, pushing, single_pool
from servers import library
from streams import CHUNK, JetStream, Starts, jetstream, redis_stream, zstream

WHILE_INSERTING = "while inserting at full rate"


def fill(flow: Flow, count: int) -> None:
    """Store so many events."""
    if flow.system.kind is JetStream:
        asyncio.run(fill_jetstream(flow.system.address, count))
        return
    flow.producer.tell(None, count)
    flow.producer.hear()
    if flow.system.server is not None:
        with Watch(flow.system.address) as watch:
            watch.follow(count)
        settle(flow.system.server.pid, count)


async def fill_jetstream(address: str, count: int) -> None:
    """Publish in steps, each stored before the next, because it drops what it cannot store."""
    connection, bodies = await library("nats").connect(address), packed(CHUNK)
    context = connection.jetstream()
    for sent in range(CHUNK, count + CHUNK, CHUNK):
        for body in bodies:
            await connection.publish("events", body)
        await connection.flush()
        async with asyncio.timeout(STUCK_S):
            while (await context.stream_info("events")).state.messages < sent:
                await asyncio.sleep(0.001)
    await connection.close()


def while_inserting(flow: Flow, seconds: float, count: int, size: int) -> None:
    """Read the history while a producer pushes slice after slice; report both rates."""
    server = flow.system.server
    assert server is not None
    with (
        pushing(server.endpoints.insert, single_pool, min(size, 500_000)) as producer,
        Watch(flow.system.address) as watch,
    ):
        producer.push(size)
        watch.follow(watch.look().head + 1)
        before = watch.look()
        flow.total.value = count
        flow.reader.tell(True, seconds)
        flow.reader.hear()
        while not flow.reader.has_spoken():
            if not producer.is_pushing():
                producer.pushed()
                producer.push(size)
            time.sleep(0.005)
        after = watch.look()
        marks = flow.reader.hear()
        producer.pushed()
    report(
        "replay", who=flow.who, way=WHILE_INSERTING, per_s=round(rate_of(marks, 0)),
        events=(len(marks) - 1) * CHUNK,
        meanwhile_per_s=round((after.head - before.head) / (after.at - before.at)),
        setting=flow.system.setting,
    )  # fmt: skip


def main() -> None:
    options = arguments(
        __doc__, events=(600_000, 10_000), seconds=(3, 1), turns=(3, 1), slice=(200_000, 5_000)
    )
    starts: Starts = {
        "zstream": lambda: zstream(options.store),
        "JetStream, default sync": lambda: jetstream(None),
        "Redis, synced each second": lambda: redis_stream("everysec"),
    }
    with ExitStack() as stack:
        found = flows(stack, "replay", starts)
        filled = set[str]()
        for flow in found:
            if flow.system.who not in filled:
                filled.add(flow.system.who)
                fill(flow, options.events)
                say(f"{flow.system.who}: {options.events:,} events are stored")
        rates: dict[str, list[float]] = {flow.who: [] for flow in found}
        for number in range(options.turns):
            for flow in found:
                rates[flow.who].append(rate_of(flow.replay(options.seconds, options.events), 0))
            say(f"turn {number + 1} of {options.turns} is done")
        for flow in found:
            report(
                "replay", who=flow.who, way="", per_s=round(statistics.median(rates[flow.who])),
                turns=[round(rate) for rate in rates[flow.who]], setting=flow.system.setting,
            )  # fmt: skip
        while_inserting(found[0], 2 * options.seconds, options.events, options.slice)


if __name__ == "__main__":
    main()
