"""What outlives a restart of the daemon on SQLite, and what is noticed when it does not."""

import itertools
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import zmq

from zstream import Client, CursorLost, Event
from zstream.testing import Server, server

from .support import PATIENCE_S, Socket, ask, ask_well, everything, wait_until

KINDS: Final = ("friend", "watch", "create-repo")
#: Of `docs/protocol.md`, by hand.
BATCH: Final = struct.Struct(">2sBB16sIQII")
PRODUCER: Final = bytes(range(16))


def event(number: int) -> dict[str, Any]:
    return {"kind": KINDS[number % 3], "user": number % 5, "n": number}


def insert(client: Client, numbers: range) -> None:
    for number in numbers:
        client.insert(event(number))
    client.flush()


def numbers(events: list[Event]) -> list[int]:
    return [each["n"] for each in events]


def batch(
    n: int, events: list[object], *, epoch: int = 1, producer: bytes = PRODUCER
) -> list[bytes]:
    body = msgpack.packb(events)
    header = BATCH.pack(b"ZI", 1, 0, producer, epoch, n, len(events), zlib.crc32(body))
    return [header, body]


def code_of(reply: dict[str, Any]) -> str:
    assert not reply["ok"], reply
    return str(reply["error"]["code"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture
def running(folder: Path) -> Iterator[Server]:
    with server(keys=None, store=f"sqlite:///{folder}/events.db") as running:
        yield running


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    """It stays through all restarts."""
    with Client(running.url, timeout=PATIENCE_S) as client:
        client.ping()
        yield client


Restart = Callable[[], None]


@pytest.fixture
def restart(running: Server) -> Restart:
    """End the daemon and start it again on the same store: stopped first, then killed."""
    kills = itertools.cycle((False, True))
    return lambda: running.restart(kill=next(kills))


# ---------------------------------------------------------------- what outlives it


def test_events_and_ids(client: Client, running: Server, restart: Restart) -> None:
    insert(client, range(50))
    for n in (50, 60):
        before = everything(running.url)
        restart()
        assert everything(running.url) == before
        assert client.count() == n
        assert client.items(end=1)[0].ts == before[-1][1]
        assert client.insert(event(n), wait=True) == n + 1
        insert(client, range(n + 1, n + 10))
        stored = everything(running.url)
        assert [(id, each["n"]) for id, _, each in stored] == [(n + 1, n) for n in range(n + 10)]
        # The clock of arrivals goes on where it stood.
        assert sorted(ts for _, ts, _ in stored) == [ts for _, ts, _ in stored]
    assert numbers(client.items(kind="watch", user=[1, 2], end=3)) == [67, 61, 52]


def test_keys_need_not_be_told_again(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/events.db"
    with server(keys=["n", "actor.login"], store=store) as first, Client(first.url) as client:
        client.insert({"n": 1, "actor": {"login": "ann"}}, wait=True)
    with server(keys=None, store=store) as second, Client(second.url) as client:
        assert second.keys == ("n", "actor.login")
        assert client.items({"actor.login": "ann"}) == [{"n": 1, "actor": {"login": "ann"}}]


def test_every_life_is_a_run(client: Client, running: Server, restart: Restart) -> None:
    seen = [client.info()["run"]]
    for _ in range(2):
        restart()
        seen.append(client.info()["run"])
    assert len(set(seen)) == 3
    assert all(0 < run < 1 << 53 for run in seen)
    # A cursor of each of them is good.
    for run in seen:
        assert ask_well(running.url, "replay", run=run, after=0)["run"] == seen[-1]


def test_a_walk_by_tokens(client: Client, restart: Restart) -> None:
    """What came between the pages is not seen, however it is dated."""
    insert(client, range(50))
    page = client.items(end=20)
    restart()
    insert(client, range(50, 55))
    client.insert(event(99), date=1, wait=True)
    walked = numbers(page)
    while page.next is not None:
        page = client.items(end=20, before=page.next)
        walked += numbers(page)
        if len(walked) == 40:
            restart()
    assert walked == list(range(49, -1, -1))


def test_a_cursor_of_a_tail(client: Client, restart: Restart) -> None:
    told: list[int] = []
    cursor: int | str = 0
    for end in (30, 60, 90):
        insert(client, range(end - 30, end))
        with client.tail(kind="friend", after=cursor) as tail:
            # It stops in the middle of what is there, and the next one begins there.
            for _ in range(end // 3 - 5 - len(told)):
                told.append(tail.get(timeout=PATIENCE_S)["n"])
            cursor = tail.cursor
        restart()
    assert told == list(range(0, 75, 3))


def test_producers(
    running: Server, restart: Restart, zmq_socket: Socket, zmq_context: "zmq.Context[Any]"
) -> None:
    """Numbered batches: what was dealt with is not stored again, and the next one is known."""

    def send(*frames: list[bytes]) -> None:
        push = zmq_socket(zmq.PUSH, running.endpoints.insert)
        push.linger = round(PATIENCE_S * 1000)
        for each in frames:
            push.send_multipart(each)
        push.close()

    def watermark() -> dict[str, Any]:
        return ask_well(running.url, "watermark", producer=PRODUCER)

    def dealt_with(name: str, count: int) -> None:
        wait_until(lambda: ask_well(running.url, "info")[name] == count, f"{name} is {count}")

    send(batch(1, [event(0)]), batch(2, [event(1), "no event", event(2)]))
    wait_until(lambda: watermark()["last"] == 2, "both batches are stored")
    before = watermark()
    assert (before["epoch"], before["refused"]) == (1, 1)
    assert [refusal[:3] for refusal in before["refusals"]] == [[2, 1, "bad_event"]]

    restart()
    after = watermark()
    for name in ("epoch", "last", "refused", "refusals"):
        assert after[name] == before[name]
    send(batch(2, [event(1), "no event", event(2)]))
    dealt_with("duplicates", 3)
    send(batch(4, [event(4)]))
    dealt_with("nacked", 1)
    send(batch(3, [event(3)]))
    dealt_with("stored", 1)
    # A higher epoch shuts the lower one out, in the next life too.
    send(batch(4, [event(4)], epoch=2))
    dealt_with("stored", 2)
    restart()
    send(batch(5, [event(5)], epoch=1))
    dealt_with("nacked", 1)
    send(batch(5, [event(5)], epoch=2))
    dealt_with("stored", 1)
    assert [each["n"] for _, _, each in everything(running.url)] == list(range(6))


def test_an_idle_tail_goes_on(client: Client, running: Server, restart: Restart) -> None:
    """Nothing was stored while it was away, so it has missed nothing."""
    insert(client, range(10))
    with client.tail(kind="friend") as tail:
        for n in (12, 15):
            restart()
            wait_until(lambda: client.info()["filters"] == 1, "the tail is there again")
            insert(client, range(n - 2, n + 1))
            got = tail.get(timeout=PATIENCE_S)
            assert (got.id, got["n"]) == (n + 1, n)


def test_a_tail_reads_what_it_missed(client: Client, running: Server, restart: Restart) -> None:
    insert(client, range(10))
    told: list[int] = []
    tail = client.tail(kind="friend")
    for n in (10, 20):
        restart()
        insert(client, range(n, n + 10))  # before it is there again, or after
        wanted = [each for each in range(10, n + 10) if each % 3 == 0]
        told += [tail.get(timeout=PATIENCE_S)["n"] for _ in range(len(wanted) - len(told))]
        assert told == wanted
    tail.close()
    assert told == [n for n in range(10, 30) if n % 3 == 0]


# ---------------------------------------------------------------- what does not


def test_cursors_from_elsewhere(client: Client, running: Server) -> None:
    insert(client, range(10))
    with server() as other, Client(other.url) as stranger:
        insert(stranger, range(5))
        page = stranger.items(end=2)
        assert page.next is not None
        with stranger.tail(after=0) as tail:
            tail.get(timeout=PATIENCE_S)
            cursor = tail.cursor
        run = stranger.info()["run"]
    with pytest.raises(CursorLost):
        client.items(before=page.next)
    with pytest.raises(CursorLost), client.tail(after=cursor) as tail:
        tail.get(timeout=PATIENCE_S)
    assert code_of(ask(running.url, "replay", run=run, after=1)) == "cursor_lost"
    assert code_of(ask(running.url, "replay", after=cursor)) == "cursor_lost"
    assert code_of(ask(running.url, "items", before=page.next)) == "cursor_lost"
    # An id that this store never gave is of another one, too.
    assert code_of(ask(running.url, "replay", after=11)) == "cursor_lost"
    assert ask_well(running.url, "replay", after=10)["events"] == []


def test_an_older_copy_of_the_store(
    client: Client, running: Server, folder: Path, tmp_path: Path
) -> None:
    """Places that the copy has are good, places beyond it are lost, and new ids do not help."""
    copy = tmp_path / "copy"
    insert(client, range(10))
    good_page = client.items(end=3)
    with client.tail(after=5) as tail:
        tail.get(timeout=PATIENCE_S)
        good = tail.cursor
    running.stop()
    shutil.copytree(folder, copy)
    running.start()
    insert(client, range(10, 20))
    lost_page = client.items(end=3)
    with client.tail(after=15) as tail:
        tail.get(timeout=PATIENCE_S)
        lost = tail.cursor

    running.stop()
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    running.start()
    assert client.count() == client.info()["head"] == 10

    def check() -> None:
        assert good_page.next is not None
        assert numbers(client.items(end=3, before=good_page.next)) == [6, 5, 4]
        with client.tail(after=good) as tail:
            assert tail.get(timeout=PATIENCE_S)["n"] == 6
        with pytest.raises(CursorLost):
            client.items(before=lost_page.next)
        with pytest.raises(CursorLost), client.tail(after=lost) as tail:
            tail.get(timeout=PATIENCE_S)
        assert code_of(ask(running.url, "replay", after=lost)) == "cursor_lost"

    check()
    insert(client, range(100, 120))  # the same ids again, for other events
    check()
    running.restart()
    check()


def test_an_emptied_store_under_a_live_tail(client: Client, running: Server, folder: Path) -> None:
    insert(client, range(10))
    with client.tail(kind="friend") as tail:
        running.stop()
        for path in folder.iterdir():
            path.unlink()
        running.start()
        with pytest.raises(CursorLost):
            tail.get(timeout=PATIENCE_S)


def test_a_store_in_memory_forgets(zmq_socket: Socket) -> None:
    with server() as running, Client(running.url, timeout=PATIENCE_S) as client:
        insert(client, range(10))
        page = client.items(end=2)
        running.restart()
        assert client.count() == 0
        with pytest.raises(CursorLost):
            client.items(before=page.next)
        assert client.insert(event(0), wait=True) == 1
