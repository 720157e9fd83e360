"""What do the same calls cost through `AsyncClient`, beside `Client`?

Both do the same in turns, each in a process of its own: insert and flush; queries for 20 events of
one user, one after the other and from 16 tasks or threads; a tail through all history.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection

from common import arguments, daemon, events, report, say
from filling import settle
from parts import part
from producer import Watch, pushing, single_pool

from zstream import Client
from zstream.aio import AsyncClient

AT_ONCE = 16
SAMPLE = 20_000
#: What is done, in this order, because inserts make the history longer.
ITEMS, AT_ONCE_TOO, HISTORY, INSERTS = (
    "`items`, one after the other", f"`items`, {AT_ONCE} at once", "events of a tail's history",
    "inserts, flushed",
)  # fmt: skip


def waiting(orders: Connection, url: str) -> None:
    """The life of a `Client`: (what, count) -> the seconds that it took."""
    with Client(url, on_full="block", timeout=30) as client:
        sample = events(SAMPLE)
        users = [event["user"] for event in sample[:1_000]]

        def items(count: int) -> None:
            for number in range(count):
                client.items(user=users[number % len(users)])

        def items_at_once(count: int) -> None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(items, [count // AT_ONCE] * AT_ONCE))

        def history(count: int) -> None:
            with client.tail(after=0) as tail:
                for _ in zip(range(count), tail, strict=False):
                    pass

        def inserts(count: int) -> None:
            for number in range(count):
                client.insert(sample[number % SAMPLE])
            client.flush(60)

        ways: dict[str, Callable[[int], None]] = {
            ITEMS: items, AT_ONCE_TOO: items_at_once, HISTORY: history, INSERTS: inserts,
        }  # fmt: skip
        client.ping()
        while (order := orders.recv()) is not None:
            what, count = order
            began = time.perf_counter()
            ways[what](count)
            orders.send(time.perf_counter() - began)


def awaiting(orders: Connection, url: str) -> None:
    """The life of an `AsyncClient`: as `waiting`."""
    asyncio.run(awaiting_in_loop(orders, url))


async def awaiting_in_loop(orders: Connection, url: str) -> None:
    async with AsyncClient(url, on_full="block", timeout=30) as client:
        sample = events(SAMPLE)
        users = [event["user"] for event in sample[:1_000]]

        async def items(count: int) -> None:
            for number in range(count):
                await client.items(user=users[number % len(users)])

        async def items_at_once(count: int) -> None:
            await asyncio.gather(*(items(count // AT_ONCE) for _ in range(AT_ONCE)))

        async def history(count: int) -> None:
            left = count
            async with await client.tail(after=0) as tail:
                async for _ in tail:
                    left -= 1
                    if not left:
                        break

        async def inserts(count: int) -> None:
            for number in range(count):
                await client.insert(sample[number % SAMPLE])
            await client.flush(60)

        ways: dict[str, Callable[[int], Awaitable[None]]] = {
            ITEMS: items, AT_ONCE_TOO: items_at_once, HISTORY: history, INSERTS: inserts,
        }  # fmt: skip
        await client.ping()
        while (order := await asyncio.to_thread(orders.recv)) is not None:
            what, count = order
            began = time.perf_counter()
            await ways[what](count)
            orders.send(time.perf_counter() - began)


def main() -> None:
    options = arguments(
        __doc__, events=(200_000, 5_000), queries=(3_200, 160), turns=(3, 1)
    )  # fmt: skip
    counts = {
        ITEMS: options.queries, AT_ONCE_TOO: options.queries, HISTORY: options.events,
        INSERTS: options.events,
    }  # fmt: skip
    with ExitStack() as stack:
        running = stack.enter_context(daemon(options.store))
        fill = (running.endpoints.insert, single_pool, options.events)
        with pushing(*fill) as producer, Watch(running.url) as watch:
            producer.push(options.events)
            watch.follow(options.events)
            producer.pushed()
        parts = [stack.enter_context(part(work, running.url)) for work in (waiting, awaiting)]
        took: dict[str, list[list[float]]] = {what: [[], []] for what in counts}
        for number in range(options.turns):
            for what, count in counts.items():
                for one, seconds in zip(parts, took[what], strict=True):
                    one.tell(what, count)
                    seconds.append(one.hear())
                    if what == INSERTS:
                        settle(running.pid, count)
            say(f"turn {number + 1} of {options.turns} is done")
        for what, count in counts.items():
            sync, asynchronous = (count / statistics.median(each) for each in took[what])
            report(
                "aio", what=what, count=count, sync_per_s=round(sync),
                async_per_s=round(asynchronous), ratio=round(asynchronous / sync, 2),
            )  # fmt: skip


if __name__ == "__main__":
    main()
