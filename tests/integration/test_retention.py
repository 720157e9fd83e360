"""What is forgotten, by `keep` and by `trim`, on a real daemon; and who is told."""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zstream import BadRequest, Client, Trimmed
from zstream.testing import Server, server

from .support import PATIENCE_S, ask, ask_well, everything, wait_until, zstream, zstream_ok

STORES = ("memory:", "sqlite:///{}/events.db")


@pytest.fixture(params=STORES, ids=("memory", "sqlite"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(tmp_path)


@pytest.fixture
def running(store: str) -> Iterator[Server]:
    with server(store=store) as running:
        yield running


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    with Client(running.url, timeout=PATIENCE_S) as client:
        yield client


def insert(client: Client, count: int) -> None:
    for n in range(count):
        client.insert({"kind": "ab"[n % 2], "user": n % 7, "n": n})
    client.flush(PATIENCE_S)


def ids(url: str, **fields: object) -> list[int]:
    return [id for id, _, _ in everything(url, **fields)]


def code(reply: dict[str, Any]) -> str:
    return "" if reply["ok"] else str(reply["error"]["code"])


# ---------------------------------------------------------------- keep


def test_a_number_of_events_under_inserts(store: str) -> None:
    options = ["--keep", "500 events"]
    with server(store=store, options=options) as running, Client(running.url) as client:
        for _ in range(10):
            insert(client, 700)
            # Never fewer, and what is there is the newest without a gap.
            kept = ids(running.url)
            assert len(kept) >= 500
            assert kept == list(range(kept[0], kept[-1] + 1))
        wait_until(lambda: client.info()["events"] == 500, "500 are kept")
        about = client.info()
        assert (about["floor"], about["head"], about["keep"]) == (6_500, 7_000, "500 events")
        assert ids(running.url) == list(range(6_501, 7_001))
        assert about["oldest"] == everything(running.url)[0][1]
        for filter in ({"kind": "a"}, {"user": [3, 4]}, {"kind": "b", "user": 6}):
            wanted = [
                event.id for event in client.items(end=500)
                if all(str(event[k]) in map(str, v if isinstance(v, list) else [v])
                       for k, v in filter.items())
            ]  # fmt: skip
            assert [event.id for event in client.items(filter, end=500)] == wanted
            assert client.count(filter) == len(wanted)
        assert client.insert({"kind": "a"}, wait=True) == 7_001


def test_an_age_by_arrival(tmp_path: Path) -> None:
    """What is gone arrived too long ago, whatever its own date says."""
    store = f"sqlite:///{tmp_path}/events.db"
    with server(store=store, options=["--keep", "1s"]) as running, Client(running.url) as client:
        arrived: dict[int, float] = {}
        gone: set[int] = set()
        while not gone:
            before = time.time()
            arrived[client.insert({"kind": "a"}, date="2015-01-01T00:00:00Z", wait=True)] = before
            there = set(ids(running.url))
            gone = arrived.keys() - there
            assert gone == set(range(1, len(gone) + 1))
            # It arrived after `before`; what is younger than a second is there.
            now = time.time()
            assert all(now - arrived[id] > 1 for id in gone)


def test_keep_applies_at_the_start(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/events.db"
    with server(store=store) as running, Client(running.url) as client:
        insert(client, 100)
        assert client.info()["keep"] == "forever"
    with server(store=store, options=["--keep", "30 events"]) as running:
        wait_until(lambda: ask(running.url, "info")["events"] == 30, "30 are kept")
    # What is forgotten stays so without the setting.
    with server(store=store) as running:
        assert ids(running.url) == list(range(71, 101))
        assert ask_well(running.url, "info")["floor"] == 70


# ---------------------------------------------------------------- trim


def test_trim_by_id_and_by_arrival(client: Client, running: Server) -> None:
    insert(client, 50)
    assert client.trim(upto=20) == 20
    assert client.trim(upto=20) == client.trim(upto=3) == client.trim(before="1d") == 0
    assert ids(running.url) == list(range(21, 51))
    assert client.count() == client.info()["events"] == 30
    assert client.info()["floor"] == 20
    for bad in ({"upto": 51}, {"upto": -1}, {"upto": 3, "before": 5}, {}, {"upto": "c1.1.0-0"}):
        with pytest.raises(BadRequest):
            client.trim(**bad)
    assert ask_well(running.url, "trim", floor=25)["trimmed"] == 5
    assert ask_well(running.url, "trim", before=round(time.time() * 1e6) + 10**9) == {
        "ok": True, "trimmed": 25, "floor": 50, "head": 50, "run": client.info()["run"],
    }  # fmt: skip
    assert client.items() == []
    assert client.info()["oldest"] is None
    assert client.insert({"kind": "a"}, wait=True) == 51


def test_places_below_the_floor_are_told(client: Client, running: Server) -> None:
    run = client.info()["run"]
    with client.tail() as tail:  # of an empty store: it stands at 0, and has missed nothing
        empty = tail.cursor
    insert(client, 3_000)
    with client.tail(after=10) as tail:
        tail.get(PATIENCE_S)
        old = tail.cursor
    for upto in (1, 2_000, 3_000):
        client.trim(upto=upto)
        places = [{"after": empty}, {"after": 0, "run": run}]
        if upto > 11:
            places += [{"after": 11}, {"after": 11, "run": run}, {"after": old}]
            places += [{"after": upto - 1}, {"after": upto - 1, "run": run}]
        for place in places:
            assert code(ask(running.url, "replay", **place)) == "trimmed", place
            after = place["after"]
            if place.get("run") is None:
                with pytest.raises(Trimmed), client.tail(after=after) as tail:  # type: ignore[arg-type]
                    tail.get(PATIENCE_S)
        # The floor itself is a good place, and so is the beginning, of which all is told.
        for place in {"after": upto}, {"after": upto, "run": run}, {"after": 0}, {"since": 0}:
            reply = ask_well(running.url, "replay", limit=1, **place)
            assert [id for id, _, _ in reply["events"]] == [upto + 1][: 3_000 - upto]
        if upto < 3_000:
            for begin in ({"after": 0}, {"since": "30d"}, {"after": upto}):
                with client.tail(**begin) as tail:  # type: ignore[arg-type]
                    assert tail.get(PATIENCE_S).id == upto + 1


def test_a_reader_that_is_overtaken_is_told(client: Client) -> None:
    """It gets what had come for it, and then the error: nothing is passed over in silence."""
    insert(client, 6_000)
    with client.tail(after=1) as tail:
        got = [tail.get(PATIENCE_S).id]
        client.trim(upto=5_500)  # pages come ahead of the reader, but not that far
        with pytest.raises(Trimmed):  # noqa: PT012  # the events before it are wanted, too
            for _ in itertools.count():
                got.append(tail.get(PATIENCE_S).id)
    assert got == list(range(2, len(got) + 2)), "a prefix without a hole"
    assert 1_000 <= len(got) <= 4_000


def test_a_live_tail_does_not_mind(client: Client) -> None:
    insert(client, 10)
    with client.tail(kind="a") as tail:
        client.trim(upto=10)
        insert(client, 4)
        assert [tail.get(PATIENCE_S).id for _ in range(2)] == [11, 13]
        client.trim(upto=14)
        insert(client, 1)
        assert tail.get(PATIENCE_S).id == 15


def test_a_walk_goes_on_without_what_was_trimmed(client: Client) -> None:
    insert(client, 100)
    page = client.items(end=30)
    walked = [event.id for event in page]
    client.trim(upto=50)
    while page.next is not None:
        page = client.items(end=30, before=page.next)
        walked += [event.id for event in page]
    assert walked == list(range(100, 50, -1))


def test_the_floor_outlives_a_restart(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/events.db"
    with server(store=store) as running, Client(running.url, timeout=PATIENCE_S) as client:
        insert(client, 100)
        client.trim(upto=60)
        running.restart(kill=True)
        assert (client.info()["floor"], client.count()) == (60, 40)
        assert ids(running.url) == list(range(61, 101))
        assert code(ask(running.url, "replay", after=59)) == "trimmed"
        assert client.trim(upto=61) == 1


# ---------------------------------------------------------------- the command


def test_the_command(zstream_server: Server) -> None:
    url = zstream_server.url
    with Client(url) as client:
        insert(client, 20)
        refused = zstream(url, "trim", "--upto", "5")
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert b"give --yes" in refused.stderr
        for words in ((), ("--upto", "5", "--before", "1h"), ("--upto", "x")):
            assert zstream(url, "trim", "--yes", *words).returncode == 2
        assert zstream(url, "trim", "--yes", "--upto", "21").returncode == 2
        assert client.count() == 20
        assert zstream_ok(url, "trim", "--yes", "--upto", "19") == b"forgot 19 events\n"
        assert zstream_ok(url, "trim", "--yes", "--before", "1h") == b"forgot 0 events\n"
        assert json.loads(zstream_ok(url, "info"))["floor"] == 19
        late = f"{time.time() + 100:.0f}"
        assert zstream_ok(url, "trim", "-y", "--before", late) == b"forgot 1 event\n"
        assert client.count() == 0
