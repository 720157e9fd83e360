"""Followers of one slice while a file is imported: exactly its events, in the order of ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from zstream import Client, Tail, TimedOut
from zstream.testing import Server, server

from . import plain
from .plain import Plain, lines_of, micros
from .support import (
    BEAT,
    DATA,
    HELLO,
    PATIENCE_S,
    Socket,
    ask_well,
    receive,
    start_zstream,
    wait_until,
)  # fmt: skip

KEYS: Final = ("type", "actor.login", "repo.name")
PUSHES: Final = {"type": "PushEvent"}
#: Not as the library writes it: the topic is whatever bytes the follower chose.
TOPIC: Final = b'{ "type" : "PushEvent" }'

Found = list[tuple[int, int, dict[str, Any]]]


@pytest.fixture(scope="module")
def files(shared_data: Path) -> list[Path]:
    paths = [shared_data / f"github-events/2015-01-01-{hour}.json.gz" for hour in (0, 1)]
    for path in paths:
        if not path.is_file():
            pytest.skip(f"the real data is not here: {path.name} is missing")
    return paths


@pytest.fixture(scope="module")
def stream(files: list[Path]) -> Plain:
    events = (plain.event_of(line) for path in files for line in lines_of(path))
    return Plain(events, KEYS, lambda event: micros(event["created_at"]))


@pytest.fixture(scope="module")
def pushes(stream: Plain) -> Found:
    found = [
        (row.id, row.ts, row.event) for row in stream.by_id if row.event["type"] == "PushEvent"
    ]
    assert len(found) == 8_430
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    with server(keys=KEYS, store=f"sqlite:///{tmp_path}/events.db") as running:
        yield running


def drain(tail: Tail, until: int) -> Found:
    """What a tail gives up to an id."""
    found: Found = []
    while not found or found[-1][0] < until:
        event = tail.get(timeout=PATIENCE_S)
        found.append((event.id, event.ts, dict(event)))
    return found


def compare(told: Found, wanted: Found) -> None:
    assert [id for id, _, _ in told] == [id for id, _, _ in wanted]
    assert told == wanted


def test_followers_from_before_the_import(
    files: list[Path], pushes: Found, running: Server, zmq_socket: Socket
) -> None:
    with Client(running.url) as client:
        subscriber = zmq_socket(zmq.SUB, running.endpoints.publish)
        subscriber.rcvhwm = 0
        subscriber.subscribe(TOPIC)
        hello = receive(subscriber, TOPIC)
        assert (hello.kind, hello.prev, hello.id) == (HELLO, 0, 0)
        with (
            client.tail(PUSHES) as tail,
            start_zstream(running.url, "import", *files, "--date", "created_at") as importing,
        ):
            compare(drain(tail, pushes[-1][0]), pushes)
            assert importing.wait(PATIENCE_S) == 0

        told: Found = []
        complete = hello.id
        while complete < 15_129:
            message = receive(subscriber, TOPIC)
            assert message.kind in (DATA, BEAT)
            assert message.run == hello.run
            # Each says from where to where it is complete, without a hole in between.
            assert message.prev == complete <= message.id
            assert all(message.prev < id <= message.id for id, _, _ in message.entries)
            complete = message.id
            told += message.entries
        compare(told, pushes)
        assert ask_well(running.url, "info")["drops"] == 0


def test_a_follower_that_comes_in_the_middle(
    files: list[Path], pushes: Found, running: Server
) -> None:
    """History runs into live."""
    importing = start_zstream(running.url, "import", *files, "--date", "created_at")
    with importing, Client(running.url) as client:
        wait_until(lambda: client.info()["stored"] > 1_000, "the import has begun")
        with client.tail(PUSHES, after=0) as tail:
            compare(drain(tail, pushes[-1][0]), pushes)
            with pytest.raises(TimedOut):
                tail.get(timeout=0)
        assert importing.wait(PATIENCE_S) == 0


def test_a_follower_that_goes_on_where_it_was(
    files: list[Path], pushes: Found, running: Server
) -> None:
    """Tail after tail, each from the cursor of the one before, while it is imported."""
    told: Found = []
    cursor: int | str = 0
    with (
        start_zstream(running.url, "import", *files, "--date", "created_at") as importing,
        Client(running.url) as client,
    ):
        while len(told) < len(pushes):
            with client.tail(PUSHES, after=cursor) as tail:
                for _ in range(min(700, len(pushes) - len(told))):
                    event = tail.get(timeout=PATIENCE_S)
                    told.append((event.id, event.ts, dict(event)))
                cursor = tail.cursor
        assert importing.wait(PATIENCE_S) == 0
    compare(told, pushes)
