"""A daemon that goes away under a client: all goes on, and all is stored, once."""

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from zstream import Client, FlushError, TimedOut, Unavailable, wire
from zstream.testing import Server, server

from .support import PATIENCE_S, everything, wait_until


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    with server(store=f"sqlite:///{tmp_path}/events.db", keys=["kind"]) as running:
        yield running


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    with Client(running.url, timeout=PATIENCE_S) as client:
        client.insert({"n": -1})
        client.flush(PATIENCE_S)
        yield client


def stored(running: Server) -> list[int]:
    return [event["n"] for _, _, event in everything(running.url)]


def test_batches_that_a_killed_daemon_had_not_read_are_sent_again(
    client: Client, running: Server
) -> None:
    os.kill(running.pid, signal.SIGSTOP)
    for n in range(10):
        client.insert({"n": n})
        wait_until(lambda n=n: client.stats()["sent"] == n + 2, "the batch is on its way")
    with pytest.raises(FlushError, match="10 events were not confirmed") as caught:
        client.flush(0.1)
    assert caught.value.pending == 10
    running.restart(kill=True)
    client.flush(PATIENCE_S)
    client.insert({"n": 10})
    client.flush(PATIENCE_S)
    assert stored(running) == [-1, *range(11)]
    stats = client.stats()
    assert (stats["sent"], stats["confirmed"], stats["lost"]) == (12, 12, 0)


def test_a_daemon_that_cannot_keep_up_is_not_sent_anything_twice(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/slow.db"
    with (
        server(
            store=store, options=["--queue-bytes", "1048576", "--commit-events", "50"]
        ) as running,
        Client(running.url, buffer_bytes=1 << 20) as client,
    ):
        client.insert_many({"n": n, "text": "x" * 200} for n in range(20_000))
        client.flush(PATIENCE_S)
        info = client.info()
        assert info["stored"] == 20_000
        assert (info["duplicates"], info["nacked"]) == (0, 0)


def test_what_was_not_sent_is_not_lost(client: Client, running: Server) -> None:
    for kill in (False, True):
        if kill:
            running.kill()
        else:
            running.stop()
        wait_until(lambda: not client.stats()["connected"], "the client knows")
        client.insert({"n": int(kill)})
        with pytest.raises(FlushError):
            client.flush(0.05)
        running.start()
        client.flush(PATIENCE_S)
    assert stored(running) == [-1, 0, 1]
    assert client.stats()["lost"] == 0


def test_a_tail_waits_for_its_daemon_and_says_so(client: Client, running: Server) -> None:
    with client.tail({}) as tail:
        running.kill()
        wait_until(lambda: client.stats()["problem"] is not None, "it is told")
        running.start()
        client.insert({"n": 0})
        assert tail.get(PATIENCE_S)["n"] == 0
        wait_until(lambda: client.stats()["problem"] is None, "that is over")


def test_an_emptied_store_costs_nothing() -> None:
    with server() as running, Client(running.url) as client:
        for n in range(3):
            client.insert({"n": n})
            client.flush(PATIENCE_S)
            running.restart(kill=n % 2 == 0)
            wait_until(lambda: not everything(running.url), "the new one serves")
        client.insert({"n": 3})
        client.flush(PATIENCE_S)
        assert stored(running) == [3]
        assert client.stats()["lost"] == 0


def test_a_store_that_is_restored_from_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with server(store=f"sqlite:///{path}", keys=["kind"]) as running, Client(running.url) as client:
        client.insert({"n": 0})
        client.flush(PATIENCE_S)
        running.stop()
        copies = {each: each.read_bytes() for each in tmp_path.glob("events.db*")}
        running.start()
        client.insert({"n": 1})
        client.flush(PATIENCE_S)
        running.stop()
        for each in tmp_path.glob("events.db*"):
            each.unlink()
        for each, content in copies.items():
            each.write_bytes(content)
        running.start()
        client.insert({"n": 2})
        client.flush(PATIENCE_S)
        assert stored(running) == [0, 2]


def test_a_query_under_way_is_asked_again_and_an_insert_is_not(running: Server) -> None:
    found: dict[str, object] = {}

    def call(name: str, function: Callable[[], object]) -> None:
        try:
            found[name] = function()
        except TimedOut as error:
            found[name] = error

    with Client(running.url, timeout=PATIENCE_S) as client, Client(running.url, timeout=3) as hasty:
        client.insert({"n": 1}, wait=True)
        hasty.ping()
        os.kill(running.pid, signal.SIGSTOP)
        calls = {"count": client.count, "insert": lambda: hasty.insert({"n": 2}, wait=True)}
        threads = [threading.Thread(target=call, args=each) for each in calls.items()]
        for thread in threads:
            thread.start()
        wait_until(lambda: client._link._queries._sent, "the query is under way")
        wait_until(lambda: hasty._link._queries._sent, "the insert is under way")
        running.restart(kill=True)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert found["count"] == 1
        assert isinstance(found["insert"], TimedOut)
        assert stored(running) == [1]


def test_a_query_is_asked_again_however_often_the_connection_breaks(tmp_path: Path) -> None:
    """By somebody who takes every other request and goes away with it, only to be back at once."""
    url = f"ipc://{tmp_path}/z"
    context = zmq.Context()
    over = threading.Event()

    def serve() -> None:
        router = context.socket(zmq.ROUTER)
        router.bind(url)
        takes = itertools.cycle((True, False))
        while not over.is_set():
            if not router.poll(20):
                continue
            *envelope, request = router.recv_multipart()
            if wire.unpack(request)["op"] == "count" and next(takes):
                router.close(0)
                router = context.socket(zmq.ROUTER)
                router.bind(url)
                continue
            fields = {"protocol": 1, "version": "1", "count": 7}
            router.send_multipart([*envelope, wire.encode_reply(fields)])
        router.close(0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Client(url, timeout=PATIENCE_S) as client:
            assert [client.count() for _ in range(12)] == [7] * 12
    finally:
        over.set()
        thread.join(PATIENCE_S)
        context.term()


def test_killed_again_and_again_under_load(client: Client, running: Server) -> None:
    """Each event is stored once, in its producer's order."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    producers, count = 3, 4_000
    failed: list[BaseException] = []

    def produce(which: int) -> None:
        try:
            with Client(running.url, timeout=PATIENCE_S, on_full="block") as own:
                for n in range(count):
                    own.insert({"n": n * producers + which})
                    if n % 500 == 499:
                        own.flush(PATIENCE_S)
                own.flush(PATIENCE_S)
                stats = own.stats()
                assert (stats["confirmed"], stats["lost"]) == (count, 0)
        except BaseException as error:  # noqa: BLE001 - it is told by the test, below
            failed.append(error)

    threads = [threading.Thread(target=produce, args=(which,)) for which in range(producers)]
    for thread in threads:
        thread.start()
    kills = 0
    while any(thread.is_alive() for thread in threads):
        goal = client.count() + chance.randrange(1, 1_500)
        while any(thread.is_alive() for thread in threads):
            try:
                if client.count() >= goal:
                    break
            except Unavailable:
                continue
        if kills < 4:
            running.restart(kill=True)
            kills += 1
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert not failed, failed
    numbers = [n for n in stored(running) if n >= 0]
    assert sorted(numbers) == list(range(producers * count)), "each of them, and none twice"
    for which in range(producers):
        own = [n for n in numbers if n % producers == which]
        assert own == sorted(own), "in the order of the inserts"
