"""The client against a real daemon: inserts, queries, and what it says when nobody answers."""

import datetime
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq

from zstream import (
    BadFilter,
    BadRequest,
    BadTime,
    BufferFull,
    Client,
    Closed,
    CursorLost,
    DecodeError,
    EventError,
    FlushError,
    Refused,
    TimedOut,
    TooLarge,
    Unavailable,
    VersionMismatch,
    wire,
)
from zstream.testing import Server, server

from .support import PATIENCE_S, frozen, wait_until


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


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL where nobody listens, and nobody else can begin to."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


# ---------------------------------------------------------------- inserts


def test_what_was_flushed_is_there(client: Client, kind: str) -> None:
    for n in range(30):
        client.insert({"kind": kind, "n": n})
    client.flush(PATIENCE_S)
    page = client.items(kind=kind)
    assert [event["n"] for event in page] == list(range(29, 9, -1))
    assert client.count(kind=kind) == 30
    stats = client.stats()
    assert (stats["sent"], stats["confirmed"], stats["unconfirmed"]) == (30, 30, 0)
    assert (stats["queued"], stats["queued_bytes"], stats["lost"]) == (0, 0, 0)


def test_values_come_back_as_they_went(client: Client, kind: str) -> None:
    event = {
        "kind": kind, "text": "é\0", "bytes": b"\xff", "none": None, "yes": True, "int": 2**64 - 1,
        "less": -(2**63), "float": -0.5, "list": [1, [2]], "map": {"a.b": {}}, "": "empty",
    }  # fmt: skip
    client.insert(event, wait=True)
    assert client.items(kind=kind) == [event]


def test_a_change_after_the_insert_does_not_show(client: Client, kind: str) -> None:
    event = {"kind": kind, "list": [1]}
    client.insert(event)
    event["list"].append(2)
    event["kind"] = "other"
    client.flush(PATIENCE_S)
    assert client.items(kind=kind) == [{"kind": kind, "list": [1]}]


def test_waiting_inserts_give_ids(client: Client, kind: str) -> None:
    first = client.insert({"kind": kind}, wait=True)
    ids = client.insert_many(({"kind": kind, "n": n} for n in range(2_500)), wait=True)
    assert ids == list(range(first + 1, first + 2_501))
    assert client.insert_many([], wait=True) == []
    assert client.count(kind=kind) == 2_501


def test_insert_many_waits_for_room_and_drops_nothing(running: Server, kind: str) -> None:
    with Client(running.url, buffer_bytes=10_000) as client:
        client.insert_many({"kind": kind, "n": n} for n in range(5_000))
        client.flush(PATIENCE_S)
        assert client.stats()["dropped"] == 0
        assert [event["n"] for event in reversed(client.items(kind=kind, end=5_000))] == [
            *range(5_000)
        ]


def test_one_of_many_that_cannot_be_packed(client: Client, kind: str) -> None:
    events = [{"kind": kind}, {"kind": kind, "bad": {1}}, {"kind": kind}]
    with pytest.raises(EventError, match=r"events\[1\]: event\['bad'\] is a set"):
        client.insert_many(events, wait=True)
    assert client.count(kind=kind) == 0
    with pytest.raises(EventError):
        client.insert_many(events)
    client.flush(PATIENCE_S)
    assert client.count(kind=kind) == 1


def test_dates(running: Server, kind: str) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    with Client(running.url, tz=zone) as client:
        client.insert({"kind": kind, "n": 1}, date=datetime.datetime(2020, 1, 1, 2))
        client.insert({"kind": kind, "n": 2}, date="2020-01-01T00:00:01Z")
        client.insert({"kind": kind, "n": 3}, date=1577836799.5, wait=True)
        client.flush(PATIENCE_S)
        page = client.items(kind=kind)
        assert [event["n"] for event in page] == [2, 1, 3]
        assert [event.date.microsecond for event in page] == [0, 0, 500_000]
        assert page[1].date == datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        with pytest.raises(BadTime):
            client.insert({"kind": kind}, date="yesterday")
        assert client.count(kind=kind, since="2020-01-01T02:00:00") == 2
        assert client.count(kind=kind, until="2020-01-01T02:00:01") == 2


def test_default_converts(running: Server, kind: str) -> None:
    with Client(running.url, default=str) as client:
        client.insert({"kind": kind, "when": datetime.date(2020, 1, 1)}, wait=True)
        assert client.items(kind=kind) == [{"kind": kind, "when": "2020-01-01"}]


def test_threads_share_a_client(client: Client, kind: str) -> None:
    def work(user: int) -> None:
        for n in range(500):
            client.insert({"kind": kind, "user": user, "n": n})
        client.flush(PATIENCE_S)
        assert client.count(kind=kind, user=user) == 500

    threads = [threading.Thread(target=work, args=(user,)) for user in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for user in range(8):
        page = client.items(kind=kind, user=user, end=500)
        assert [event["n"] for event in page] == list(range(499, -1, -1))


# ---------------------------------------------------------------- what is refused


def test_refused_events_are_told_by_flush(client: Client, kind: str) -> None:
    far = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    client.insert({"kind": kind, "n": 1})
    client.insert({"kind": kind, "n": 2}, date=far)
    client.insert({"kind": kind, "n": 3})
    with pytest.raises(Refused) as caught:
        client.flush(PATIENCE_S)
    assert caught.value.count == 1
    ((_, _, code, message),) = caught.value.refusals
    assert code == "bad_request"
    assert "ahead" in message
    assert message in str(caught.value)
    client.flush(PATIENCE_S)
    assert [event["n"] for event in client.items(kind=kind)] == [3, 1]
    assert (client.stats()["refused"], client.stats()["confirmed"]) == (1, 2)
    with pytest.raises(BadRequest, match="ahead"):
        client.insert({"kind": kind}, date=far, wait=True)


def test_on_refused_hears_of_the_events(running: Server, kind: str) -> None:
    heard = []
    far = datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)

    def on_refused(events, error):
        heard.append((events, error, events[0].date))
        raise LookupError("a defect of the caller's")

    with Client(running.url, on_refused=on_refused) as client:
        client.insert_many({"kind": kind, "n": n} for n in range(5))
        client.insert({"kind": kind, "n": 9}, date=far)
        client.flush(PATIENCE_S)
        wait_until(lambda: heard, "on_refused was called")
        ((events, error, date),) = heard
        assert events == [{"kind": kind, "n": 9}]
        assert date == far
        assert isinstance(error, Refused)
        assert error.count == 1
        client.insert({"kind": kind}, wait=True)
        assert client.count(kind=kind) == 6


def test_on_refused_can_insert_and_close_but_not_wait(running: Server, kind: str) -> None:
    heard: list[BaseException | None] = []

    def on_refused(events, error):
        client.insert({"kind": kind, "again": True})
        for call in (client.flush, client.ping):
            with pytest.raises(RuntimeError, match="must not wait"):
                call()
        heard.append(error)
        client.close()

    client = Client(running.url, on_refused=on_refused)
    client.insert({"kind": kind}, date="2200-01-01T00:00:00Z")
    wait_until(lambda: heard, "on_refused was called")
    with Client(running.url) as other:
        wait_until(lambda: other.count(kind=kind) == 1, "what it inserted is stored")
    client.close()


# ---------------------------------------------------------------- queries


def test_pages_and_walks(client: Client, kind: str) -> None:
    client.insert_many([{"kind": kind, "user": n % 3, "n": n} for n in range(2_345)], wait=True)

    def numbers(**arguments):
        return [event["n"] for event in client.items(kind=kind, **arguments)]

    assert numbers(end=2) == [2344, 2343]
    assert numbers(start=2_340, end=5_000) == [4, 3, 2, 1, 0]
    assert numbers(start=100) == list(range(2244, 2224, -1))
    assert numbers(end=10_000) == list(range(2344, -1, -1))
    assert numbers(start=7, end=7) == []
    assert numbers(user={0, 2}, end=4) == [2343, 2342, 2340, 2339]
    assert numbers(user=[], end=4) == []
    walked, page = [], client.items(kind=kind, end=1_000)
    while True:
        walked += [event["n"] for event in page]
        if page.next is None:
            break
        page = client.items(kind=kind, end=1_000, before=page.next)
    assert walked == list(range(2344, -1, -1))


def test_filters_are_checked_here_and_there(client: Client, kind: str) -> None:
    with pytest.raises(BadFilter, match=r"not an indexed key.*kind, user, repo"):
        client.items({"actor.login": "x"})
    with pytest.raises(BadFilter, match="null"):
        client.count(kind=None)
    with pytest.raises(TypeError, match="kind"):
        client.items({"kind": 1}, kind=1)
    long = [f"{n:0250}" for n in range(9_000)]
    assert client.count(kind=long) == 0
    with pytest.raises(TooLarge):
        client.count(kind=long, user=long)
    with pytest.raises(BadRequest, match=r"before=page\.next"):
        client.items(kind=kind, end=10_001)
    with pytest.raises(BadRequest):
        client.items(kind=kind, before="nonsense")
    with pytest.raises(CursorLost):
        client.items(kind=kind, before="p1.1.1.1.1")


def test_info_and_ping(client: Client, running: Server) -> None:
    info = client.info()
    assert info["version"] == running.version
    assert info["endpoints"] == running.endpoints._asdict()
    assert "ok" not in info
    assert 0 < client.ping() < PATIENCE_S
    assert client.stats()["daemon"] == running.version
    assert client.stats()["connected"]
    assert client.stats()["problem"] is None


# ---------------------------------------------------------------- nobody answers


def test_making_a_client_does_nothing(nobody: str) -> None:
    before = threading.active_count()
    client = Client(nobody)
    client.flush()
    assert threading.active_count() == before
    assert client.stats()["queued"] == 0
    client.close()


def test_nobody_there(nobody: str) -> None:
    with Client(nobody, timeout=0.3) as client:
        for call in (client.ping, client.count, client.tail, lambda: client.insert({}, wait=True)):
            with pytest.raises(Unavailable, match="that its query endpoint") as caught:
                call()
            assert nobody in str(caught.value)
        client.insert({"kind": "a"})
        with pytest.raises(FlushError, match="s: no daemon is connected") as failed:
            client.flush(0.1)
        assert failed.value.pending == 1
        assert client.stats()["queued"] == 1
        assert not client.stats()["connected"]


def test_somebody_who_does_not_answer(kind: str) -> None:
    with server() as running, Client(running.url, timeout=PATIENCE_S) as client:
        client.ping()
        with Client(running.url, timeout=0.3) as hasty:
            hasty.ping()
            with frozen(running.pid):
                with pytest.raises(TimedOut):
                    hasty.count()
                with pytest.raises(TimedOut):
                    hasty.insert({"kind": kind}, wait=True)
                hasty.insert({"kind": kind, "late": True})
                with pytest.raises(FlushError, match=r"^1 event was not confirmed within 0.1 s$"):
                    hasty.flush(0.1)
            hasty.flush(PATIENCE_S)
            # The late replies are dropped, and the outcome was unknown: it was stored.
            assert client.count(kind=kind) == 2
            assert hasty.stats()["lost"] == 0


def test_a_request_that_was_given_up_is_never_sent(tmp_path: Path, kind: str) -> None:
    url = f"ipc://{tmp_path}/z"
    with Client(url, timeout=0.3) as client:
        with pytest.raises(Unavailable):
            client.insert({"kind": kind, "n": 1}, wait=True)
        client.insert({"kind": kind, "n": 2})
        with server(listen=url):
            client.flush(PATIENCE_S)
            wait_until(lambda: client._link._query.is_connected, "queries are connected too")
            assert client.items() == [{"kind": kind, "n": 2}]


@contextmanager
def impostor(tmp_path: Path, *replies: bytes) -> Iterator[str]:
    """Somebody who answers each request with these frames instead of a reply."""
    url = f"ipc://{tmp_path}/impostor"
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(url)
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            if router.poll(20):
                envelope = router.recv_multipart()[:-1]
                router.send_multipart([*envelope, *replies])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield url
    finally:
        over.set()
        thread.join(PATIENCE_S)
        context.destroy(linger=0)


@pytest.mark.parametrize(
    ("frames", "error", "why"),
    [
        ([wire.encode_reply({"protocol": 2})], None, "speaks protocol 2"),
        ([wire.encode_error(VersionMismatch("no"))], VersionMismatch, "no"),
        ([b"HTTP/1.1 400 Bad Request"], DecodeError, "not msgpack"),
        ([wire.pack([1])], DecodeError, "not a zstream reply"),
        ([b"", b""], DecodeError, "one frame"),
    ],
)
def test_somebody_else_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, frames: list[bytes],
    error: type[Exception] | None, why: str,
) -> None:  # fmt: skip
    with impostor(tmp_path, *frames) as url, Client(url) as client:
        if error is None:
            client.ping()
        else:
            with pytest.raises(error, match=why):
                client.ping()
        wait_until(lambda: client.stats()["problem"], "it is known")
        assert why in client.stats()["problem"]
        assert client.stats()["daemon"] is None
    assert [record.levelname for record in caplog.records] == ["WARNING"], "it is told once"
    assert url in caplog.text
    assert why in caplog.text


def test_pages_of_somebody_else(tmp_path: Path) -> None:
    with impostor(tmp_path, wire.encode_reply({"events": 5})) as url, Client(url) as client:
        for call in (client.items, client.count, lambda: client.insert({}, wait=True)):
            with pytest.raises(DecodeError):
                call()


@pytest.mark.parametrize("on_full", ["drop", "raise", "block"])
def test_a_full_buffer(nobody: str, on_full: str) -> None:
    client = Client(nobody, buffer_bytes=500, on_full=on_full)
    event = {"text": "x" * 100}
    for _ in range(3):
        client.insert(event)
    if on_full == "drop":
        client.insert(event)
        assert client.stats()["dropped"] == 1
        with pytest.raises(FlushError, match="1 was dropped") as caught:
            client.flush(0)
        assert caught.value.pending == 4
    elif on_full == "raise":
        with pytest.raises(BufferFull):
            client.insert(event)
    else:
        ended = []

        def insert() -> None:
            with pytest.raises(Closed):
                client.insert(event)
            ended.append(True)

        thread = threading.Thread(target=insert)
        thread.start()
        client.close()
        thread.join(PATIENCE_S)
        assert ended
    client.close()


def test_a_closed_client(running: Server, kind: str) -> None:
    client = Client(running.url)
    client.insert({"kind": kind})
    client.close()
    client.close()
    for call in (
        lambda: client.insert({}), lambda: client.insert({}, wait=True),
        lambda: client.insert_many([{}]), client.flush, client.items, client.count, client.tail,
        client.info, client.ping,
    ):  # fmt: skip
        with pytest.raises(Closed):
            call()
    assert client.stats()["confirmed"] == 1
    with Client(running.url) as other:
        assert other.count(kind=kind) == 1


def test_closing_wakes_who_waits(running: Server) -> None:
    client = Client(running.url, timeout=PATIENCE_S)
    client.ping()
    ended = []

    def ask() -> None:
        with pytest.raises(Closed):
            client.count()
        ended.append(True)

    with frozen(running.pid):
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: client._link._queries._sent, "the request is under way")
        client.close()
        thread.join(PATIENCE_S)
    assert ended
