"""What a tail gets over without its reader noticing: each event comes once and in order."""

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zstream import Client, Tail, TimedOut, following
from zstream.link import follows
from zstream.tail import TailCore
from zstream.testing import Server, server

from .support import PATIENCE_S, wait_until
from .swallow import Way


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    with server(store=f"sqlite:///{tmp_path}/events.db", keys=["kind"]) as running:
        yield running


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    with Client(running.url, timeout=PATIENCE_S) as client:
        yield client


def insert(client: Client, kind: str, numbers: range, **more: object) -> None:
    client.insert_many({"kind": kind, "n": n, **more} for n in numbers)
    client.flush(PATIENCE_S)


def read(tail: Tail, count: int) -> list[int]:
    return [tail.get(PATIENCE_S)["n"] for _ in range(count)]


def test_it_waits_for_a_daemon_that_is_away(
    running: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zstream")
    with Client(running.url, timeout=0.2) as client, client.tail(kind="a", after=0) as tail:
        other = client.tail(kind="b")
        insert(client, "a", range(3))
        assert read(tail, 3) == [0, 1, 2]
        running.kill()
        wait_until(lambda: client.stats()["problem"], "it is noticed")
        assert client.stats()["problem"].endswith("is away")
        for each in tail, other:
            with pytest.raises(TimedOut):
                each.get(0.3)  # longer than a request may take: what fails is not the reader's
        running.start()
        wait_until(lambda: client.stats()["problem"] is None, "that it is back, too")
        with Client(running.url) as inserter:
            insert(inserter, "a", range(3, 5))
            insert(inserter, "b", range(5, 6))
        assert (read(tail, 2), read(other, 1)) == ([3, 4], [5])
    told = [record.getMessage() for record in caplog.records if "the daemon at" in record.message]
    assert [text.rpartition(" is ")[2] for text in told] == ["away; tails wait for it", "back"]


@pytest.mark.parametrize("kill", [False, True])
def test_overruns_and_a_restart(
    running: Server, client: Client, kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tails of one client, two of one topic; one leaves in the middle."""
    monkeypatch.setitem(TailCore.__init__.__kwdefaults__, "backlog_bytes", 20_000)
    slow, same, other = client.tail(kind="a"), client.tail(kind="a"), client.tail(kind="b")
    seen: list[list[int]] = [[], []]
    for start in (0, 1_000):
        for n in range(start, start + 1_000, 100):
            insert(client, "a", range(n, n + 100), pad="x" * 100)
            insert(client, "b", range(n, n + 1))
        if start == 0:
            seen[0] += read(slow, 300)
            seen[1] += read(same, 10)
            same.close()
            assert client.info()["heals"] > 0, "there was no room for all of it"
            running.restart(kill=kill)
    seen[0] += read(slow, 1_700)
    assert seen[0] == list(range(2_000))
    assert seen[1] == list(range(10))
    assert read(other, 20) == list(range(0, 2_000, 100))


def test_a_connection_that_says_nothing_is_made_anew(
    running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follows, "SILENCE_S", 1.0)
    ends = running.endpoints
    with Way(ends.publish) as way, Client(ends._replace(publish=way.url)) as client:
        tails = [client.tail(kind=kind) for kind in "ab"]
        insert(client, "a", range(2))
        assert read(tails[0], 2) == [0, 1]
        before = way.connections
        way.kill_silently()
        insert(client, "a", range(2, 4))
        insert(client, "b", range(4, 5))
        wait_until(lambda: way.swallowed, "they vanish")
        assert read(tails[0], 2) == [2, 3]
        assert read(tails[1], 1) == [4]
        assert way.connections > before
        for tail in tails:
            tail.close()


def test_a_subscription_that_vanishes_is_made_again(
    running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HELLO_S", (0.2, 0.2))
    ends = running.endpoints
    with Way(ends.publish) as way, Client(ends._replace(publish=way.url)) as client:
        first = client.tail(kind="a")
        way.swallows_up = True
        made: list[Tail] = []
        thread = threading.Thread(target=lambda: made.append(client.tail(kind="b")))
        thread.start()
        wait_until(lambda: way.swallowed, "the subscription vanishes")
        assert not made
        way.swallows_up = False
        thread.join(PATIENCE_S)
        insert(client, "b", range(2))
        assert read(made[0], 2) == [0, 1]
        insert(client, "a", range(2, 4))
        assert read(first, 2) == [2, 3]


def test_a_long_filter_over_a_restart_and_a_daemon_that_forgot_it(
    running: Server, client: Client, tmp_path: Path
) -> None:
    kinds = [f"somebody {n}" for n in range(10_000)]
    tail = client.tail(kind=kinds)
    for n in range(3):
        insert(client, kinds[-1 - n], range(2 * n, 2 * n + 1))
        if n:
            running.stop()
            if n == 2:
                with closing(sqlite3.connect(tmp_path / "events.db")) as store, store:
                    assert store.execute("DELETE FROM filters").rowcount == 1
            running.start()
        with Client(running.url) as other:  # before it is followed again, or after
            insert(other, kinds[n], range(2 * n + 1, 2 * n + 2))
        assert read(tail, 2) == [2 * n, 2 * n + 1]
