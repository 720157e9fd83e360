"""A daemon over a store that hangs, goes away, or goes back: answers, waits, begins anew."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from zstream import Client, errors
from zstream.backends.base import Batch, Head, Page, Query, Replay
from zstream.backends.memory import MemoryBackend
from zstream.errors import BackendUnavailable, StoreRewound
from zstreamd import server as server_module
from zstreamd.server import Server
from zstreamd.settings import Settings

#: Seconds until a test gives up waiting for something that should happen at once.
PATIENCE_S = 30.0


class Frail(MemoryBackend):
    """Hangs, is away, stands where no interrupt reaches it, or loses its newest events."""

    def __init__(self) -> None:
        super().__init__("memory:")
        self.hangs = self.is_away = self.stands = False
        self.freed = threading.Event()
        self.kept: list[Batch] = []
        self.rewound_to: int | None = None
        self.openings = 0

    def meet(self) -> None:
        if self.rewound_to is not None:
            raise StoreRewound("it is an older copy")
        if self.is_away:
            raise BackendUnavailable("no route to it")
        if self.hangs:
            assert self.freed.wait(PATIENCE_S), "nobody freed it"
            raise BackendUnavailable("interrupted")

    def open(self, keys: Sequence[str] | None) -> Head:
        head = super().open(keys)
        self.openings += 1
        upto, self.rewound_to = self.rewound_to, None
        kept, self.kept = self.kept, []
        for batch in kept:
            if upto is not None and batch.first + len(batch.ts) - 1 <= upto:
                self.append(batch)
        last = self.last_id()
        producers = {row.id: row for batch in self.kept for row in batch.producers}
        return Head(head.run, ((head.run, last),), 0, last, 0, 0, head.keys, producers)

    def append(self, batch: Batch) -> None:
        self.meet()
        super().append(batch)
        self.kept.append(batch)

    def items(self, query: Query) -> Page:
        self.meet()
        return super().items(query)

    def probe(self) -> None:
        if self.is_away or self.hangs:
            raise BackendUnavailable("no sign of life")

    def interrupt(self) -> None:
        if not self.stands:
            self.freed.set()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Frail:
    frail = Frail()
    monkeypatch.setattr(server_module, "open_backend", lambda url: frail)
    return frail


@pytest.fixture
def client(store: Frail, tmp_path: Path) -> Iterator[Client]:
    settings = Settings(store="memory:", listen=f"ipc://{tmp_path}/s", keys=("kind",))
    daemon = Server(settings)
    daemon.open()
    thread = threading.Thread(target=daemon.run)
    thread.start()
    with Client(daemon.endpoints.query, timeout=PATIENCE_S) as client:
        yield client
    daemon.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    daemon.close()


def until(true: Callable[[], Any]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up_at, "it never came true"
        threading.Event().wait(0.01)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [name for record in caplog.records if (name := getattr(record, "event", ""))]


def test_queries_that_hang_are_answered(
    store: Frail, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.insert({"kind": "a"})
    client.flush()
    store.hangs = True
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            client.items(kind="a")
        except errors.Error as error:
            caught.append(error)

    # More of them than there are threads.
    threads = [threading.Thread(target=ask) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(caught) == 9
    assert all(isinstance(error, errors.Unavailable) and error.retry_s for error in caught)
    # What needs no store goes on.
    client.ping()
    info = client.info()
    assert (info["down"], info["events"], info["oldest"]) == ("no sign of life", None, None)
    with pytest.raises(errors.Unavailable):
        client.insert({"kind": "b"}, wait=True)
    store.hangs = False
    until(lambda: client.info()["down"] is None)
    assert client.count(kind="a") == 1
    assert events(caplog) == ["store_away", "store_back"]


def test_info_that_hangs_tells_what_it_knows(store: Frail, client: Client) -> None:
    """One that is asking the store when it stops answering is no query: it always answers."""
    client.insert({"kind": "a"})
    client.flush()
    asked, really = threading.Event(), store.replay

    def replay(query: Query, after: int) -> Replay:
        asked.set()
        store.meet()
        return really(query, after)

    store.replay = replay  # type: ignore[method-assign]
    store.stands = store.hangs = True
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(client.info)
        info = told.result(PATIENCE_S)
        assert asked.is_set()
        assert (info["down"], info["events"], info["stored"]) == ("no sign of life", None, 1)
        store.freed.set()  # its thread is still there, and its answer comes too late
        store.hangs = False
        until(lambda: client.info()["events"] == 1)


def test_a_query_that_was_ended_with_others_is_asked_again(store: Frail, client: Client) -> None:
    client.insert({"kind": "a"})
    client.flush()
    left = ["cut", "with what hung"]
    really = store.meet

    def meet() -> None:
        if left:
            raise BackendUnavailable(left.pop())
        really()

    store.meet = meet  # type: ignore[method-assign]
    with pytest.raises(errors.Unavailable):  # not for ever
        client.items()
    left.append("once")
    assert len(client.items()) == 1


def test_inserts_wait_for_the_store(
    store: Frail, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.insert({"kind": "a", "n": 0})
    client.flush()
    tail = client.tail(kind="a", after=0)
    assert next(tail)["n"] == 0
    store.is_away = True
    for n in range(1, 50):
        client.insert({"kind": "a", "n": n})
    with pytest.raises(errors.FlushError):
        client.flush(0.3)
    until(lambda: client.info()["down"])
    store.is_away = False
    client.flush(PATIENCE_S)
    assert [next(tail)["n"] for _ in range(49)] == list(range(1, 50))
    tail.close()
    assert events(caplog) == ["store_away", "store_back"]


def test_a_write_that_hangs_is_tried_again(store: Frail, client: Client) -> None:
    client.insert({"kind": "a", "n": 0})
    client.flush()
    store.freed.clear()
    store.hangs = True
    client.insert({"kind": "a", "n": 1})
    assert store.freed.wait(PATIENCE_S)
    store.hangs = False
    client.flush(PATIENCE_S)
    assert client.count() == 2


def test_a_store_that_went_back_is_opened_anew(
    store: Frail, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon lives on in a new run; who is beyond the end is told, the others go on."""
    for n in range(10):
        client.insert({"kind": "a", "n": n})
        client.flush()
    run = client.info()["run"]
    cursor_ok, cursor_lost = 2, 8
    ahead, behind = client.tail(kind="a", after=cursor_lost), client.tail(kind="a", after=cursor_ok)
    assert [next(ahead)["n"] for _ in range(2)] == [8, 9]
    assert next(behind)["n"] == 2
    store.rewound_to = 5
    client.insert({"kind": "a", "n": 10})  # is judged anew, and stored once
    client.flush(PATIENCE_S)
    info = client.info()
    assert info["run"] != run
    assert (store.openings, info["down"]) == (2, None)
    numbers = [(event.id, event["n"]) for event in client.items(kind="a")]
    assert numbers == [(6, 10), (5, 4), (4, 3), (3, 2), (2, 1), (1, 0)]
    with pytest.raises(errors.CursorLost):
        next(ahead)
    fresh = client.tail(kind="a", after=0)
    assert [next(fresh)["n"] for _ in range(6)] == [0, 1, 2, 3, 4, 10]
    client.insert({"kind": "a", "n": 11})
    assert next(fresh)["n"] == 11
    for tail in (ahead, behind, fresh):
        tail.close()
    assert events(caplog) == ["store_rewound"]


def test_an_emptied_store_that_nobody_writes_to(store: Frail, client: Client) -> None:
    """It is noticed by the upkeep, and what follows has its ids from 1."""
    client.insert({"kind": "a"})
    client.flush()
    store.kept.clear()
    store.tidy = lambda idle=True: store.meet() or False  # type: ignore[method-assign]
    store.rewound_to = 0
    until(lambda: store.openings == 2)
    until(lambda: client.info()["events"] == 0)
    assert client.insert({"kind": "b"}, wait=True) == 1
