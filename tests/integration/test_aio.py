"""The asynchronous client against a real daemon: it waits without keeping the loop from working."""

import asyncio
import datetime
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from zstream import (
    BadFilter,
    BufferFull,
    Client,
    Closed,
    EventError,
    FlushError,
    Refused,
    TimedOut,
    Unavailable,
    calls,
)
from zstream.aio import AsyncClient
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


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL where nobody listens, and nobody else can begin to."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def many(kind: str, count: int) -> list[dict[str, Any]]:
    return [{"kind": kind, "n": n} for n in range(count)]


async def one_by_one(events: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for event in events:
        yield event


# ---------------------------------------------------------------- what it does


@asynchronous
async def test_all_of_it(running: Server, kind: str) -> None:
    async with AsyncClient(running.url, timeout=PATIENCE_S) as client:
        await client.insert({"kind": kind, "n": 0}, date="2020-01-01T00:00:00Z")
        await client.flush(PATIENCE_S)
        assert await client.insert_many(many(kind, 2_500)) is None
        await client.flush(PATIENCE_S)
        first = await client.insert({"kind": kind, "n": 2_500}, wait=True)
        more = await client.insert_many(one_by_one(many(kind, 2_100)), wait=True)
        assert more == list(range(first + 1, first + 2_101))
        page = await client.items({"kind": kind}, end=5_000)
        assert [event["n"] for event in page] == [
            *reversed(range(2_100)), *reversed(range(2_501)), 0,
        ]  # fmt: skip
        walk = await client.items(kind=kind, end=1_200)
        assert (await client.items(kind=kind, end=1, before=walk.next))[0] == page[1_200]
        assert await client.count(kind=kind, until="2020-01-02T00:00:00Z") == 1
        info, stats = await client.info(), await client.stats()
        assert (info["version"], stats["daemon"]) == (running.version, running.version)
        assert (stats["confirmed"], stats["queued_bytes"], stats["tails"]) == (2_501, 0, 0)
        assert 0 < await client.ping() < PATIENCE_S
        with pytest.raises(BadFilter, match="not an indexed key"):
            await client.items({"actor.login": "x"})


@asynchronous
async def test_trim(kind: str) -> None:
    with server() as running:
        async with AsyncClient(running.url) as client:
            await client.insert_many(many(kind, 10), wait=True)
            assert await client.trim(upto=4) == 4
            assert await client.count() == 6


def test_making_one_does_nothing(nobody: str) -> None:
    before = threading.active_count()
    client = AsyncClient(nobody)
    asyncio.run(client.flush(), debug=True)
    assert threading.active_count() == before
    asyncio.run(client.close(), debug=True)


@asynchronous
async def test_nobody_there(nobody: str) -> None:
    async with AsyncClient(nobody, timeout=0.05) as client:
        calls = (client.ping, client.count, client.tail, lambda: client.insert({}, wait=True))
        for call in calls:
            with pytest.raises(Unavailable, match="that its query endpoint"):
                await call()


@asynchronous
async def test_what_cannot_be_packed_is_told_with_its_place(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client:
        bad = [*many(kind, 2), {"kind": kind, "bad": {1}}, {"kind": kind}]
        for events in (bad, one_by_one(bad)):
            with pytest.raises(EventError, match=r"events\[2\]: event\['bad'\] is a set"):
                await client.insert_many(events, wait=True)
        assert await client.count(kind=kind) == 0
        with pytest.raises(EventError):
            await client.insert_many(one_by_one(bad))
        await client.flush(PATIENCE_S)
        assert await client.count(kind=kind) == 2


@asynchronous
async def test_a_failure_tells_what_was_stored_before(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client:
        events = many(kind, 1_500)
        events[1_400]["text"] = "x" * (1 << 20)
        packed = [client._packer.element(event) for event in events[:1_400]]
        late = client._packer.element(
            {"kind": kind}, datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)
        )
        with pytest.raises(Exception, match="ahead") as caught:
            await client._run(calls.insert([*packed, late]))
        assert caught.value.__notes__ == ["the first 1000 of 1401 were stored"]
        assert await client.count(kind=kind) == 1_000


@asynchronous
async def test_refused_events_are_told_by_flush(running: Server, kind: str) -> None:
    far = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    async with AsyncClient(running.url) as client:
        await client.insert({"kind": kind}, date=far)
        with pytest.raises(Refused, match="ahead"):
            await client.flush(PATIENCE_S)
        await client.flush(PATIENCE_S)


@asynchronous
async def test_a_spool_outlives_its_client(tmp_path: Path, kind: str) -> None:
    url, spool = f"ipc://{tmp_path}/z", tmp_path / "spool"
    async with AsyncClient(url, spool=spool, timeout=0.05) as client:
        await client.insert_many(many(kind, 10))
    with server(listen=url):
        async with AsyncClient(url, spool=spool, timeout=PATIENCE_S) as client:
            await client.insert({"kind": kind, "n": 10})
            await client.flush(PATIENCE_S)
            while await client.count(kind=kind) < 11:
                await asyncio.sleep(0.001)
            page = await client.items(kind=kind)
            assert sorted(event["n"] for event in page) == list(range(11))


# ---------------------------------------------------------------- it never keeps the loop


@asynchronous
async def test_who_waits_for_room_lets_others_work(running: Server, kind: str) -> None:
    async with (
        AsyncClient(running.url, buffer_bytes=1_000, on_full="block") as client,
        Turns() as turns,
    ):
        await client.ping()
        with frozen(running.pid):
            puts = [asyncio.ensure_future(client.insert(event)) for event in many(kind, 100)]
            puts.append(asyncio.ensure_future(client.insert_many(one_by_one(many(kind, 50)))))
            before = turns.count
            await eventually(lambda: turns.count > before + 100, "others work")
            assert 0 < sum(put.done() for put in puts) < 30
        await asyncio.gather(*puts)
        await client.flush(PATIENCE_S)
        stats = await client.stats()
        assert (stats["confirmed"], stats["dropped"]) == (150, 0)
        assert client._outbox.watchers == []


@asynchronous
async def test_a_full_buffer_can_drop_or_raise(nobody: str) -> None:
    for on_full in ("drop", "raise"):
        async with AsyncClient(nobody, buffer_bytes=200, on_full=on_full, timeout=0.05) as client:
            await client.insert({"text": "x" * 100})
            with pytest.raises(BufferFull) if on_full == "raise" else nullcontext():
                await client.insert({"text": "x" * 100})
            assert (await client.stats())["dropped"] == (on_full == "drop")


@asynchronous
async def test_who_flushes_lets_others_work(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client, Turns() as turns:
        await client.ping()
        with frozen(running.pid):
            await client.insert({"kind": kind})
            flush = asyncio.ensure_future(client.flush(PATIENCE_S))
            before = turns.count
            await eventually(lambda: turns.count > before + 100, "others work")
            assert not flush.done()
            with pytest.raises(FlushError, match="1 event was not confirmed") as caught:
                await client.flush(0.05)
            assert caught.value.pending == 1
        await flush
        assert await client.count(kind=kind) == 1


@asynchronous
async def test_who_packs_many_lets_others_work(running: Server, kind: str) -> None:
    async with AsyncClient(running.url) as client, Turns() as turns:
        await asyncio.sleep(0)
        before = turns.count
        await client.insert_many(many(kind, 10_000))
        assert turns.count - before >= 10


@asynchronous
async def test_who_closes_lets_others_work(running: Server, kind: str) -> None:
    client = AsyncClient(running.url)
    async with Turns() as turns:
        await client.insert({"kind": kind}, wait=True)
        with frozen(running.pid):
            await client.insert({"kind": kind})
            before = turns.count
            end = asyncio.ensure_future(client.close())
            await eventually(lambda: turns.count > before + 100, "others work")
            assert not end.done()
        await end
    for call in (client.ping(), client.flush(), client.tail(), client.insert({})):
        with pytest.raises(Closed):
            await call
    await client.close()
    async with AsyncClient(running.url) as other:
        assert await other.count(kind=kind) == 2


@asynchronous
async def test_a_close_ends_what_waits(nobody: str) -> None:
    client = AsyncClient(nobody, buffer_bytes=100, on_full="block", timeout=0.05)
    await client.insert({"text": "x" * 90})
    waits = [
        asyncio.ensure_future(call) for call in (client.insert({"text": "x" * 90}), client.ping())
    ]
    await eventually(lambda: client._outbox.watchers, "it waits for room")
    await client.close()
    for wait in waits:
        with pytest.raises((Closed, Unavailable)):
            await wait


# ---------------------------------------------------------------- what is cancelled is forgotten


@asynchronous
async def test_a_cancelled_query_is_forgotten(running: Server, kind: str) -> None:
    async with AsyncClient(running.url, timeout=PATIENCE_S) as client:
        await client.insert_many(many(kind, 3), wait=True)
        queries = client._link._queries
        # The first ping would leave its place among those under way in the middle of it.
        await eventually(lambda: client._link.greeting.version, "the daemon has been greeted")
        await eventually(lambda: not queries._sent, "nothing is under way")
        with frozen(running.pid):
            for n in range(30):  # more than may be under way at once
                sent = min(n, 12)
                await cancelled(
                    client.items(kind=kind),
                    lambda sent=sent: (
                        len(queries._sent) > sent or (sent == 12 and queries._waiting)
                    ),
                )
            await eventually(lambda: not queries._waiting, "those that were not sent are forgotten")
            assert len(queries._sent) == 12  # the daemon has them, and counts them
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.count(kind=kind)
        assert [event["n"] for event in await client.items(kind=kind)] == [2, 1, 0]


@asynchronous
async def test_a_cancelled_insert_that_was_not_sent_is_never_sent(
    nobody: str, tmp_path: Path
) -> None:
    url = f"ipc://{tmp_path}/z"
    async with AsyncClient(url, timeout=PATIENCE_S) as client:
        waiting = client._link._queries._waiting
        await cancelled(client.insert({"n": 1}, wait=True), lambda: waiting)
        with server(listen=url):
            assert await client.insert({"n": 2}, wait=True) == 1
            assert await client.items() == [{"n": 2}]


@asynchronous
async def test_a_cancelled_insert_that_waits_for_room_inserts_nothing(
    running: Server, kind: str
) -> None:
    async with AsyncClient(running.url, buffer_bytes=100, on_full="block") as client:
        await client.ping()
        with frozen(running.pid):
            await client.insert({"kind": kind, "n": 1, "text": "x" * 60})
            waiting = {"kind": kind, "n": 2, "text": "x" * 60}
            watchers = client._outbox.watchers
            await cancelled(client.insert(waiting), lambda: watchers)
            await cancelled(client.insert_many([waiting]), lambda: watchers)
            await cancelled(client.flush(PATIENCE_S), lambda: watchers)
            assert watchers == []
        await client.flush(PATIENCE_S)
        assert [event["n"] for event in await client.items(kind=kind)] == [1]


@asynchronous
async def test_a_cancelled_close_goes_on(running: Server, kind: str) -> None:
    client = AsyncClient(running.url)
    await client.insert({"kind": kind}, wait=True)
    with frozen(running.pid):
        await client.insert({"kind": kind})
        await cancelled(client.close(), lambda: client._outbox._closed)
    await eventually(lambda: client._link._is_stopped, "it has stopped")
    async with AsyncClient(running.url) as other:
        assert await other.count(kind=kind) == 2


# ---------------------------------------------------------------- loops, threads, processes


def test_loops_and_threads_share_one(running: Server, kind: str) -> None:
    client = AsyncClient(running.url, timeout=PATIENCE_S)
    failed: list[BaseException] = []

    async def use(user: int) -> None:
        await asyncio.gather(*(client.insert({"kind": kind, "user": user}) for _ in range(50)))
        await client.flush(PATIENCE_S)
        counts = await asyncio.gather(*(client.count(kind=kind, user=user) for _ in range(30)))
        assert counts == [50] * 30

    def work(user: int) -> None:
        try:
            for turn in range(2):  # the second loop of the same thread
                asyncio.run(use(user * 2 + turn), debug=True)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(user,)) for user in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failed
    assert asyncio.run(client.count(kind=kind)) == 400
    asyncio.run(client.close())


def test_a_loop_that_ends_in_the_middle_takes_nobody_with_it(running: Server, kind: str) -> None:
    client = AsyncClient(running.url, timeout=PATIENCE_S)

    async def begin() -> None:
        await client.insert({"kind": kind})
        for call in (client.count(kind=kind), client.flush(PATIENCE_S)):
            tasks.append(asyncio.ensure_future(call))
        await eventually(lambda: client._link._queries._sent, "it is under way")

    tasks: list[asyncio.Future[Any]] = []
    asyncio.run(client.ping())
    with frozen(running.pid):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        loop.close()
    # The reply and the confirmation come, and nobody is there to hear of them.
    asyncio.run(client.flush(PATIENCE_S))
    assert asyncio.run(client.count(kind=kind)) == 1
    assert client._link._thread is not None
    assert client._link._thread.is_alive()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined] # this is what it is about
        task.get_coro().close()  # type: ignore[attr-defined]
    asyncio.run(client.close())


def test_the_end_of_the_process_sends_what_is_left(running: Server, kind: str) -> None:
    run_awaiting(running.url, kind, """
        client = AsyncClient()

        async def main():
            for n in range(1000):
                await client.insert({"kind": kind, "n": n})
            await AsyncClient().insert({"kind": kind, "n": 1000})  # nobody closes it

        asyncio.run(main())
    """)  # fmt: skip
    with Client(running.url) as client:
        assert client.count(kind=kind) == 1_001


def test_an_exit_handler_may_run_a_loop(running: Server, kind: str) -> None:
    """Python 3.12 and newer start no threads there; so does this one, by a start as theirs."""
    run_awaiting(running.url, kind, """
        import atexit, threading

        def refuse(thread):
            raise RuntimeError("can't create new thread at interpreter shutdown")

        async def main(n):
            async with AsyncClient() as client:
                await client.insert({"kind": kind, "n": n})

        def late():
            threading.Thread.start = refuse
            asyncio.run(main(2))

        atexit.register(late)
        atexit.register(lambda: asyncio.run(main(1)))
    """)  # fmt: skip
    with Client(running.url) as client:
        assert sorted(event["n"] for event in client.items(kind=kind)) == [1, 2]


def test_a_forked_child_has_its_own(running: Server, kind: str) -> None:
    run_awaiting(running.url, kind, """
        import os, warnings
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        client = AsyncClient(timeout=30)

        async def work(numbers):
            for n in numbers:
                await client.insert({"kind": kind, "n": n})
            await client.flush(30)
            return await client.count(kind=kind)

        async def queue():
            await client.insert({"kind": kind, "n": 0})

        asyncio.run(queue())
        pid = os.fork()
        if not pid:
            assert (asyncio.run(client.stats()))["queued"] == 0
            assert asyncio.run(work(range(100, 200))) >= 100
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert asyncio.run(work(range(1, 100))) == 200
        asyncio.run(client.close())
    """)  # fmt: skip
    with Client(running.url) as client:
        page = client.items(kind=kind, end=300)
        assert sorted(event["n"] for event in page) == list(range(200))


@asynchronous
async def test_somebody_who_does_not_answer(running: Server) -> None:
    async with AsyncClient(running.url, timeout=0.2) as client:
        await client.ping()
        with frozen(running.pid), pytest.raises(TimedOut):
            await client.count()
        await eventually(lambda: not client._link._queries._sent, "the late reply is dropped")
