"""FastAPI: inserts, pages, and a tail as Server-Sent Events that goes on where it ended."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from zstream import Client
from zstream.testing import Server

from .recipes import Program, ask, host, program, stream, wait_until, write

SERVE = ("uvicorn", "api:app", "--port", "0", "--timeout-graceful-shutdown", "1")


@contextmanager
def serving(folder: Path, url: str) -> Iterator[tuple[Program, str]]:
    with program(folder, url, *SERVE) as running:
        yield running, host(running.wait_for(r"running on (http://\S+)")[1])


@pytest.fixture
def app(daemon: Server, tmp_path: Path, needs: Callable[..., None]) -> Iterator[str]:
    needs("fastapi", "uvicorn")
    with serving(write("FastAPI", tmp_path), daemon.url) as (_, address):
        yield address


def numbers(events: Iterator[dict[str, str]], count: int) -> tuple[list[int], str]:
    """The numbers of so many events, and the id of the last of them."""
    found, last = [], ""
    for event in islice((event for event in events if "data" in event), count):
        found.append(json.loads(event["data"])["n"])
        last = event["id"]
    return found, last


def test_inserts_and_pages(app: str, client: Client) -> None:
    for n in range(30):
        assert ask(app, "/events", {"kind": "friend", "n": n})[0] == 202
    wait_until(lambda: client.count() == 30, "all is stored")
    _, page = ask(app, "/events?kind=friend")
    assert [event["n"] for event in page["events"]] == list(range(29, 9, -1))
    _, page = ask(app, f"/events?kind=friend&before={page['next']}")
    assert [event["n"] for event in page["events"]] == list(range(9, -1, -1))
    status, told = ask(app, "/events", {"kind": "friend", "n": 2**70})
    assert (status, "event['n']" in told["detail"]) == (422, True)
    for path, status in (
        ("/events?kind=" + "x" * 300, 422),
        ("/events?kind=friend&before=nonsense", 422),
        ("/events?kind=friend&before=p1.1.1.1.1", 410),
    ):
        assert ask(app, path)[0] == status


def test_nobody_there(app: str, daemon: Server) -> None:
    daemon.stop()
    assert ask(app, "/events?kind=friend") == (503, {"detail": "try again later"})


def test_a_stream_goes_on_where_it_ended(
    daemon: Server, client: Client, tmp_path: Path, needs: Callable[..., None]
) -> None:
    """Over a broken connection, a restart of the application, and a daemon that is killed."""
    needs("fastapi", "uvicorn")
    write("FastAPI", tmp_path)

    def insert(first: int, last: int) -> None:
        for n in range(first, last):
            client.insert({"kind": "other"})
            client.insert({"kind": "friend", "n": n})
        client.flush(30)

    with serving(tmp_path, daemon.url) as (running, address):
        with stream(address, "/live?kind=friend") as events:
            assert "id" in next(events)  # it follows
            insert(0, 50)
            first, last = numbers(events, 20)
        wait_until(lambda: client.info()["filters"] == 0, "the tail ends with the connection")
        with stream(address, "/live?kind=friend", last) as events:
            more, last = numbers(events, 20)
            daemon.restart(kill=True)
            insert(50, 70)
            after_kill, last = numbers(events, 20)
            assert running.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    insert(70, 90)
    with (
        serving(tmp_path, daemon.url) as (_, address),
        stream(address, "/live?kind=friend", last) as events,
    ):
        rest, _ = numbers(events, 30)
    assert first + more + after_kill + rest == list(range(90))


def test_a_stream_of_another_store_begins_anew(app: str) -> None:
    with stream(app, "/live?kind=friend", "c1.7.0-5") as events:
        assert next(event for event in events if "event" in event)["event"] == "reset"
        assert next(events, None) is None
