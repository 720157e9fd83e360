"""Tails of the client on a real daemon: where they begin, how they end, what they notice."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zstream import (
    BadFilter,
    BadRequest,
    Client,
    Closed,
    CursorLost,
    Tail,
    TimedOut,
)
from zstream.tail import State
from zstream.testing import Server, server

from .support import PATIENCE_S, ask_well, wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    with Client(running.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A slice of the store that the test has for itself."""
    return request.node.name


def insert(client: Client, kind: str, numbers: range, **more: object) -> None:
    client.insert_many({"kind": kind, "n": n, **more} for n in numbers)
    client.flush(PATIENCE_S)


def read(tail: Tail, count: int) -> list[int]:
    return [tail.get(PATIENCE_S)["n"] for _ in range(count)]


def test_it_begins_now(client: Client, kind: str) -> None:
    insert(client, kind, range(3))
    with client.tail(kind=kind) as tail:
        insert(client, kind, range(3, 6))
        assert read(tail, 3) == [3, 4, 5]
        with pytest.raises(TimedOut):
            tail.get(0.01)
        insert(client, kind, range(6, 9))
        wait_until(lambda: tail._following._core._backlog._ready, "they were received")
        assert tail.get(0)["n"] == 6, "what is there needs no waiting"


def test_it_begins_behind_an_id_a_cursor_or_a_time(client: Client, kind: str) -> None:
    ids = client.insert_many([{"kind": kind, "n": n} for n in range(2_500)], wait=True)
    with client.tail(kind=kind, after=ids[99]) as tail:
        assert read(tail, 2_400) == list(range(100, 2_500))
        cursor = tail.cursor
        insert(client, kind, range(2_500, 2_502))
        assert read(tail, 2) == [2_500, 2_501]
    with client.tail(kind=kind, after=cursor) as tail:
        assert read(tail, 2) == [2_500, 2_501]
    with client.tail(kind=kind, since="1h") as tail:
        assert read(tail, 2_502) == list(range(2_502))


def test_history_runs_into_live_while_others_insert(running: Server, kind: str) -> None:
    count = 20_000
    with Client(running.url) as client, Client(running.url) as other:
        insert(client, kind, range(5_000))
        thread = threading.Thread(target=insert, args=(other, kind, range(5_000, count)))
        thread.start()
        with client.tail(kind=kind, after=0) as tail:
            assert read(tail, count) == list(range(count))
        thread.join(PATIENCE_S)


def test_the_cursor_is_that_of_what_was_read(client: Client, kind: str) -> None:
    with client.tail(kind=kind) as tail:
        insert(client, kind, range(10))
        seen = []
        for _ in range(4):
            seen.append(tail.get(PATIENCE_S)["n"])
            cursor = tail.cursor
    with client.tail(kind=kind, after=cursor) as tail:
        assert seen + read(tail, 6) == list(range(10))


def test_many_tails_share_a_client(client: Client, running: Server, kind: str) -> None:
    def filters() -> int:
        return int(ask_well(running.url, "info")["filters"])

    wait_until(lambda: filters() == 0, "those of earlier tests have left")
    tails = [client.tail(kind=kind, user=user) for user in (1, 2, [1, 2])]
    tails += [client.tail({"user": [2, 1, "2"]}, kind=kind), client.tail(kind=kind)]
    assert filters() == 4, "the same filter is one topic"
    for user in (1, 2, 3):
        insert(client, kind, range(user * 10, user * 10 + 2), user=user)
    assert read(tails[0], 2) == [10, 11]
    assert read(tails[1], 2) == [20, 21]
    for tail in tails[2:4]:
        assert read(tail, 4) == [10, 11, 20, 21]
    assert read(tails[4], 6) == [10, 11, 20, 21, 30, 31]
    # One of two that share a topic leaves; the other goes on, and a new one begins afresh.
    tails[2].close()
    insert(client, kind, range(40, 41), user=1)
    with client.tail(kind=kind, user=[1, 2]) as late:
        insert(client, kind, range(41, 42), user=2)
        assert read(tails[3], 2) == [40, 41]
        assert read(late, 1) == [41]
    for tail in tails:
        tail.close()
    wait_until(lambda: filters() == 0, "all have left")
    assert client.stats()["tails"] == 0


def test_a_tail_that_is_let_go_of_leaves(client: Client, running: Server, kind: str) -> None:
    before = ask_well(running.url, "info")["filters"]
    client.tail(kind=kind)
    gc.collect()
    wait_until(lambda: ask_well(running.url, "info")["filters"] == before, "it has left")


def test_a_tail_keeps_its_client(running: Server, kind: str) -> None:
    with Client(running.url) as client:
        tail = Client(running.url).tail(kind=kind)
        gc.collect()
        insert(client, kind, range(2))
        assert read(tail, 2) == [0, 1]
        tail.close()


@pytest.mark.parametrize("closes", ["tail", "client"])
def test_closing_from_another_thread_ends_the_iterator(
    running: Server, kind: str, closes: str
) -> None:
    client = Client(running.url)
    tail = client.tail(kind=kind)
    seen = []

    def follow() -> None:
        seen.extend(event["n"] for event in tail)
        seen.append("end")

    thread = threading.Thread(target=follow)
    thread.start()
    insert(client, kind, range(3))
    wait_until(lambda: len(seen) == 3, "the events are there")
    (tail if closes == "tail" else client).close()
    thread.join(PATIENCE_S)
    assert seen == [0, 1, 2, "end"]
    with pytest.raises(Closed):
        tail.get()
    assert list(tail) == []
    tail.close()
    client.close()


def test_filters_are_checked_here_and_there(client: Client) -> None:
    with pytest.raises(BadFilter, match=r"not an indexed key.*kind, user, repo"):
        client.tail({"actor.login": "x"})
    with pytest.raises(BadRequest, match="not both"):
        client.tail(after=1, since="1h")
    with pytest.raises(BadRequest):
        client.tail(after="nonsense")
    for after in (1 << 40, "c1.1.0-1", "c1.1.1-1"):
        with pytest.raises(CursorLost):
            next(client.tail(after=after))


def test_a_long_filter_is_registered(client: Client, kind: str) -> None:
    with client.tail(kind=kind, user=[f"{n:0100}" for n in range(50)]) as tail:
        insert(client, kind, range(2), user=f"{49:0100}")
        assert read(tail, 2) == [0, 1]


def test_what_nobody_reads_is_bounded_and_read_from_the_store(client: Client, kind: str) -> None:
    tail = client.tail(kind=kind)
    insert(client, kind, range(30), blob="x" * 1_000_000)
    wait_until(lambda: tail._following._core.state is State.REPLAYING, "it has no room for more")
    assert read(tail, 30) == list(range(30))
    tail.close()


# ---------------------------------------------------------------- restarts


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Server]:
    with server(store=f"sqlite:///{tmp_path}/events.db", keys=["kind"]) as running:
        yield running


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_that_misses_nothing(lasting: Server, kill: bool) -> None:
    with Client(lasting.url, timeout=PATIENCE_S) as client, client.tail(kind="a") as tail:
        for n in range(2):
            insert(client, "a", range(n, n + 1))
            assert read(tail, 1) == [n]
            lasting.restart(kill=kill)
            # It follows again once the daemon counts it among its followers.
            wait_until(lambda: ask_well(lasting.url, "info")["filters"] == 1, "it follows")
        insert(client, "a", range(2, 3))
        assert read(tail, 1) == [2]


def test_a_restart_that_misses_something(lasting: Server) -> None:
    with Client(lasting.url, timeout=PATIENCE_S) as client:
        tail = client.tail(kind="a")
        insert(client, "a", range(1))
        assert read(tail, 1) == [0]
        lasting.stop()
        endpoints, publish = lasting.endpoints, lasting.endpoints.publish
        # While nobody can follow, something is inserted.
        options = lasting._options
        options[options.index("--publish") + 1] = publish.rpartition(":")[0] + ":*"
        lasting.start()
        with Client(lasting.endpoints) as other:
            insert(other, "a", range(1, 3))
        lasting.stop()
        options[options.index("--publish") + 1] = endpoints.publish
        lasting.start()
        assert read(tail, 2) == [1, 2]


def test_a_store_that_was_emptied() -> None:
    with server() as running, Client(running.url, timeout=PATIENCE_S) as client:
        tail = client.tail(kind="a")
        insert(client, "a", range(2))
        assert read(tail, 2) == [0, 1]
        running.restart()
        with pytest.raises(CursorLost):
            tail.get(PATIENCE_S)
