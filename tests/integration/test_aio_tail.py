"""Asynchronous tails against a real daemon: every event once, whoever is cancelled or waits."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing, suppress
from itertools import cycle

import pytest

from zstream import BadFilter, BadRequest, Client, Closed, CursorLost, TimedOut
from zstream.aio import AsyncClient, AsyncTail
from zstream.testing import Server, server

from .awaiting import Turns, asynchronous, cancelled, eventually, run_awaiting
from .support import PATIENCE_S, frozen


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A slice of the store that the test has for itself."""
    return request.node.name


async def insert(client: AsyncClient, kind: str, first: int, last: int) -> None:
    await client.insert_many({"kind": kind, "n": n} for n in range(first, last))
    await client.flush(PATIENCE_S)


async def numbers(tail: AsyncTail, count: int) -> list[int]:
    return [(await tail.get(PATIENCE_S))["n"] for _ in range(count)]


@asynchronous
async def test_history_runs_into_live(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client:
        await insert(client, kind, 0, 2_500)
        found: list[int] = []
        async with await client.tail(kind=kind, after=0) as tail:
            more = asyncio.ensure_future(insert(client, kind, 2_500, 5_000))
            async for event in tail:
                found.append(event["n"])
                if len(found) == 5_000:
                    break
            await more
            cursor = tail.cursor
            with pytest.raises(TimedOut, match=r"no event within 0\.01 s"):
                await tail.get(0.01)
            await insert(client, kind, 5_000, 5_001)
            found += await numbers(tail, 1)
        assert found == list(range(5_001))
        async with await client.tail({"kind": kind}, after=cursor) as tail:
            assert await numbers(tail, 1) == [5_000]


@asynchronous
async def test_what_cannot_be_followed(running: Server, kind: str) -> None:
    async with AsyncClient(running.url, timeout=PATIENCE_S) as client:
        for wrong, error in (({"nokey": 1}, BadFilter), ({"kind": None}, BadFilter)):
            with pytest.raises(error):
                await client.tail(wrong)
        with pytest.raises(BadRequest):
            await client.tail(after=1, since="1h")
        with pytest.raises(CursorLost):
            await (await client.tail(kind=kind, after="c1.7.0-5")).get(PATIENCE_S)


# ---------------------------------------------------------------- who waits, and who works


@asynchronous
async def test_events_that_are_there_cost_no_turn_of_the_loop(running: Server, kind: str) -> None:
    """But between two pages others have theirs, so that a long replay starves nobody."""
    async with AsyncClient(running.url) as client:
        await insert(client, kind, 0, 10_000)
        async with await client.tail(kind=kind, after=0) as tail, Turns() as turns:
            first = before = turns.count
            most = run = 0
            async for event in tail:
                before, run = turns.count, 1 if turns.count > before else run + 1
                most = max(most, run)
                if event["n"] == 9_999:
                    break
            assert 900 <= most <= 1_000
            assert turns.count - first >= 9


@asynchronous
async def test_a_cancelled_read_takes_no_event(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client, await client.tail(kind=kind) as tail:
        found: list[int] = []
        more = asyncio.ensure_future(insert(client, kind, 0, 1_000))
        for turns in cycle(range(5)):
            read = asyncio.ensure_future(tail.get())
            for _ in range(turns):
                await asyncio.sleep(0)
            read.cancel()
            with suppress(asyncio.CancelledError):
                found.append((await read)["n"])
            if len(found) == 1_000:
                break
        await more
        assert found == list(range(1_000))
        assert tail._waiters.count == 0


@asynchronous
async def test_tasks_share_a_tail(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client, await client.tail(kind=kind) as tail:
        reads = [asyncio.ensure_future(numbers(tail, 100)) for _ in range(8)]
        await insert(client, kind, 0, 800)
        found = await asyncio.gather(*reads)
        assert all(each == sorted(each) for each in found)
        assert sorted(n for each in found for n in each) == list(range(800))


def test_loops_share_a_tail(running: Server, kind: str) -> None:
    client = AsyncClient(running.url)
    tail = asyncio.run(client.tail(kind=kind))
    found: list[int] = []

    def read() -> None:
        found.extend(asyncio.run(numbers(tail, 500), debug=True))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(insert(client, kind, 0, 2_000))
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(found) == list(range(2_000))
    asyncio.run(client.close())


# ---------------------------------------------------------------- the end


@asynchronous
async def test_the_end_of_a_tail_ends_its_readers(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client:
        for close in ("close", "aclose"):
            tail = await client.tail(kind=kind)
            waits, reads = asyncio.ensure_future(tail.get()), asyncio.ensure_future(anext(tail))
            await eventually(lambda tail=tail: tail._waiters.count == 2, "both wait")
            await getattr(tail, close)()
            with pytest.raises(Closed):
                await waits
            with pytest.raises(StopAsyncIteration):
                await reads
            assert tail.is_closed
        async with aclosing(await client.tail(kind=kind)) as tail:
            assert not tail.is_closed
        assert tail.is_closed
        await insert(client, kind, 0, 10)
        last = await client.tail(kind=kind, after=0)
        assert await numbers(last, 1) == [0]
    assert [event async for event in last] == []  # closed with the client, with what it had


@asynchronous
async def test_a_tail_that_is_let_go_of_follows_no_more(running: Server, kind: str) -> None:
    with Client(running.url) as other:
        async with AsyncClient(running.url) as client:
            before = other.info()["followers"]
            tail = await client.tail(kind=kind)
            assert other.info()["followers"] == before + 1
            del tail
            await eventually(lambda: other.info()["followers"] == before, "it is gone")


@asynchronous
async def test_a_start_that_is_cancelled_or_too_slow_leaves_nothing(
    running: Server, kind: str
) -> None:
    async with AsyncClient(running.url, timeout=0.3) as client:
        await client.ping()
        with frozen(running.pid):
            await cancelled(client.tail(kind=kind), lambda: client._tails)
            with pytest.raises(TimedOut, match="did not answer"):
                await client.tail(kind=kind)
            assert (await client.stats())["tails"] == 0
        async with await client.tail(kind=kind) as tail:
            await insert(client, kind, 0, 1)
            assert await numbers(tail, 1) == [0]


def test_a_forked_child_has_no_tail(running: Server, kind: str) -> None:
    run_awaiting(running.url, kind, """
        import os, warnings
        from zstream import Closed
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        client = AsyncClient(timeout=30)
        tail = asyncio.run(client.tail(kind=kind))
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(tail.get(1))
            except Closed:
                asyncio.run(tail.close())
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        asyncio.run(client.insert({"kind": kind}, wait=True))
        asyncio.run(tail.get(30))
    """)  # fmt: skip
