"""A daemon on a real Redis: what clients see when it, the server or its data are lost."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from zstream import Client, CursorLost, Unavailable
from zstream.testing import server

from ..servers.redis import Redis, serving

#: Seconds until a test gives up waiting for something that should happen soon.
PATIENCE_S = 60.0


@pytest.fixture
def own(missing: Callable[[str], NoReturn]) -> Iterator[Redis]:
    """A server for one test, as its packages set it up: it syncs once a second."""
    with serving(missing, appendonly="yes", appendfsync="everysec") as made:
        yield made
        made.kill()


def until(condition: Callable[[], object]) -> None:
    give_up_at, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        pause.wait(0.02)


def answered(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Unavailable:
        return False
    return True


def insert(client: Client, *numbers: int) -> None:
    for n in numbers:
        client.insert({"kind": "a", "user": n % 3, "n": n})
    client.flush(PATIENCE_S)


def stored(client: Client) -> list[tuple[int, int]]:
    """Each event's id and number, oldest first."""
    return [(event.id, event["n"]) for event in client.items(kind="a", end=10_000)][::-1]


def test_a_daemon_on_redis(own: Redis) -> None:
    with server(store=own.url("app")) as daemon, Client(daemon.url, timeout=PATIENCE_S) as client:
        assert (daemon.store, client.info()["durability"]) == (own.url("app"), "second")
        tail = client.tail(kind="a", after=0)
        insert(client, *range(1, 11))
        assert [next(tail)["n"] for _ in range(10)] == list(range(1, 11))
        assert [event["n"] for event in client.items(user=[1, 2], end=3)] == [10, 8, 7]
        assert client.count(user=0) == 3
        daemon.restart()
        insert(client, 11)
        assert next(tail)["n"] == 11
        daemon.restart(kill=True)
        insert(client, 12)
        assert next(tail)["n"] == 12
        own.restart()
        insert(client, 13)
        assert next(tail)["n"] == 13
        assert stored(client) == [(n, n) for n in range(1, 14)]
        own.ask("CONFIG", "SET", "appendfsync", "always")
        until(lambda: client.info()["durability"] == "synced")
        own.ask("CONFIG", "SET", "appendfsync", "no")
        until(lambda: client.info()["durability"] == "unsynced")
        tail.close()


def test_a_second_daemon_is_turned_away(own: Redis) -> None:
    with server(store=own.url("app")) as daemon, Client(daemon.url, timeout=PATIENCE_S) as client:
        insert(client, 1)
        with (
            pytest.raises(Unavailable, match=r"\(exit 4\)(.|\n)*another daemon has the store open"),
            server(store=own.url("app")),
        ):
            pass
        insert(client, 2)
        assert stored(client) == [(1, 1), (2, 2)]


def test_a_server_that_dies_and_comes_back(own: Redis) -> None:
    # One that syncs each second holds back what it writes while a sync is slow, for two seconds.
    own.ask("CONFIG", "SET", "appendfsync", "always")
    own.options["appendfsync"] = "always"
    with server(store=own.url("app")) as daemon, Client(daemon.url, timeout=PATIENCE_S) as client:
        tail = client.tail(kind="a", after=0)
        n = 0
        for _ in range(3):
            insert(client, *range(n + 1, n + 101))
            own.kill()
            for more in range(n + 101, n + 121):
                client.insert({"kind": "a", "user": more % 3, "n": more})
            until(lambda: client.info()["down"])
            assert not answered(lambda: client.items(kind="a"))
            own.start()
            client.flush(PATIENCE_S)
            n += 120
        assert [next(tail)["n"] for _ in range(n)] == list(range(1, n + 1))
        assert stored(client) == [(id, id) for id in range(1, n + 1)]
        tail.close()
        until(lambda: client.info()["down"] is None)
        told = [
            word for line in daemon.log for word in ("store_away", "store_back") if word in line
        ]
        assert told == ["store_away", "store_back"] * 3


def test_a_server_that_comes_back_with_an_older_copy(own: Redis) -> None:
    """As after the loss of power of one that syncs once a second."""
    with server(store=own.url("app")) as daemon, Client(daemon.url, timeout=PATIENCE_S) as client:
        insert(client, *range(1, 11))
        behind, ahead = client.tail(kind="a", after=5), client.tail(kind="a", after=0)
        assert next(behind)["n"] == 6
        older = _files(own)
        insert(client, *range(11, 21))
        assert [next(ahead)["n"] for _ in range(20)] == list(range(1, 21))
        run = client.info()["run"]
        own.kill()
        _put_back(own, older)
        own.start()
        until(lambda: answered(client.info) and client.info()["run"] not in (None, run))
        with pytest.raises(CursorLost):
            next(ahead)
        insert(client, *range(21, 31))
        found = stored(client)
        assert [id for id, _ in found] == list(range(1, len(found) + 1))
        numbers = [n for _, n in found]
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) >= {*range(1, 11), *range(21, 31)}
        fresh = client.tail(kind="a", after=0)
        assert [next(fresh)["n"] for _ in found] == numbers
        for tail in (behind, ahead, fresh):
            tail.close()
        assert sum("store_rewound" in line for line in daemon.log) == 1


def test_a_server_that_is_emptied(own: Redis) -> None:
    with server(store=own.url("app")) as daemon, Client(daemon.url, timeout=PATIENCE_S) as client:
        insert(client, *range(1, 11))
        run = client.info()["run"]
        own.ask("FLUSHALL")
        runs: list[int] = []
        until(lambda: answered(lambda: runs.append(client.info()["run"])) and runs[-1] != run)
        insert(client, 11)
        numbers = [n for _, n in stored(client)]
        assert 11 in numbers
        assert len(set(numbers)) == len(numbers)


def test_a_server_without_memory(own: Redis) -> None:
    with server(store=own.url("app")) as daemon, Client(daemon.url, timeout=PATIENCE_S) as client:
        insert(client, 1)
        own.ask("CONFIG", "SET", "maxmemory", 1)
        client.insert({"kind": "a", "user": 2, "n": 2})
        until(lambda: any("no memory left" in line for line in daemon.log))
        assert stored(client) == [(1, 1)]
        own.ask("CONFIG", "SET", "maxmemory", 0)
        client.flush(PATIENCE_S)
        assert stored(client) == [(1, 1), (2, 2)]


def _files(own: Redis) -> dict[str, bytes]:
    own.ask("CONFIG", "SET", "appendfsync", "always")
    own.ask("SET", "somebody", "else")
    own.ask("CONFIG", "SET", "appendfsync", "everysec")
    found = {str(each.relative_to(own.folder)): each.read_bytes() for each in own.folder.rglob("*")
             if each.is_file() and each.name != "log"}  # fmt: skip
    assert any("appendonly" in name for name in found)
    return found


def _put_back(own: Redis, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (own.folder / name).write_bytes(data)
