"""The store is replaced by an older one under producers and followers: nobody takes it for the old.

Who follows gets `CursorLost`, or what it got is exact by the store that is there now. Of the
producers' events those are missing that the replaced store had told them to be stored, no others.
"""

import random
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgpack
import pytest

from zstream import Client, CursorLost, Trimmed

from .running import PATIENCE_S, Clients, Daemon, wait_until
from .traffic import FILTERS, Row, check_numbers, check_tail, make_event, wanted

#: Inserts of each producer until a copy is taken, and about as many until it is put back.
SHARE: Final = 1_000
#: The last one is killed when the daemon goes, and what it leaves is adopted.
PRODUCERS: Final = ("memory", "spool", "orphan")
#: Name, filter, options of a follower.
FOLLOWERS: Final = (
    ("live", {}, {}),
    ("stopped", {}, {}),
    ("slow", FILTERS["one"], {"slow": (100, 0.03), "feed": 1 << 15}),
    ("many", FILTERS["many"], {"after": 0}),
    ("long", FILTERS["long"], {"asynchronous": True}),
    ("killed", {}, {"resume": True, "slow": (300, 0.01)}),
)

Told = Callable[[str], None]


def rows_of(store: Path, folder: Path) -> list[Row]:
    """What is in the files of a store that no daemon has open."""
    folder.mkdir()
    for path in store.parent.glob(f"{store.name}*"):
        shutil.copy(path, folder)
    with closing(sqlite3.connect(folder / store.name)) as db:
        found = db.execute("SELECT id, body FROM events ORDER BY id").fetchall()
    events = ((id, msgpack.unpackb(body)) for id, body in found)
    return [(id, event["p"], event["n"]) for id, event in events]


class Copy:
    """An older state of a daemon's store, and the way back to it."""

    def __init__(self, daemon: Daemon, way: str) -> None:
        self._daemon, self._way = daemon, way
        self._folder = daemon.folder / "copy"

    def take(self) -> None:
        """Keep the state that there is now."""
        if self._way == "restored":
            self._daemon.run("backup", self._folder)
        elif self._way == "rolled back":
            self._daemon.stop()
            self._folder.mkdir()
            for path in self._files():
                shutil.copy(path, self._folder)
            self._daemon.start()

    def put_back(self) -> None:
        """Go back to it; no daemon runs."""
        if self._way == "restored":
            self._daemon.run("restore", self._folder)
            return
        for path in self._files():
            path.unlink()
        if self._way == "rolled back":
            for path in self._folder.iterdir():
                shutil.copy(path, self._daemon.folder)

    def _files(self) -> list[Path]:
        return list(self._daemon.folder.glob(f"{self._daemon.store.name}*"))


@pytest.mark.parametrize("way", ["restored", "emptied", "rolled back"])
def test_store(way: str, tmp_path: Path, rng: random.Random, soak: int, tell: Told) -> None:
    for number in range(soak):
        folder = tmp_path / str(number)
        folder.mkdir()
        replace(folder, way, rng)
        tell(f"a store was {way}")


def replace(folder: Path, way: str, rng: random.Random) -> None:
    daemon, clients, pause = Daemon(folder), Clients(folder), threading.Event()
    daemon.start()
    start(clients, daemon, rng)
    progress = waiter(clients)
    progress(SHARE)
    copy = Copy(daemon, way)
    if rng.random() < 0.7:  # some way behind, so that what it has seen is in the copy
        clients.running["stopped"].send(signal.SIGSTOP)
        pause.wait(rng.uniform(0, 0.2))
    clients.kill("killed")
    copy.take()
    progress(SHARE * 2 + rng.randrange(SHARE))
    rng.choice((daemon.kill, daemon.stop))()
    orphaned = clients.count("orphan")
    pause.wait(rng.uniform(0.5, 0.8))
    clients.kill("orphan")
    old = rows_of(daemon.store, folder / "old")
    copy.put_back()
    kept = rows_of(daemon.store, folder / "kept") if way != "emptied" else []
    daemon.start()
    clients.again("killed")
    pause.wait(rng.uniform(0, 0.3))
    clients.running["stopped"].send(signal.SIGCONT)
    progress(SHARE * 4, PRODUCERS[:2])
    for name in PRODUCERS[:2]:
        clients.stop(name)
    results = [clients.result(name) for name in PRODUCERS[:2]]
    assert [result["stats"]["lost"] for result in results] == [0, 0]
    told = {"p": len(PRODUCERS), "options": {"spool": str(folder / "spool")}}
    clients.start("heir", "adopt", url=daemon.url, **told)
    assert clients.result("heir")["left"] == []
    daemon.insert_end()
    ended = {name: clients.result(name)["ended"] for name, _, _ in FOLLOWERS}
    rows = daemon.rows()
    daemon.stop()
    assert rows[: len(kept)] == kept
    for p, result in enumerate(results):
        check_producer(p, range(result["count"], result["count"] + 1), kept, old, rows)
    check_producer(2, range(orphaned, clients.count("orphan") + 60), kept, old, rows)
    for name, filter, _ in FOLLOWERS:
        check_follower(
            name, clients.got(name), ended[name], wanted(filter, old), wanted(filter, rows)
        )
    if way != "emptied":
        assert ended["killed"] == "the end"


def start(clients: Clients, daemon: Daemon, rng: random.Random) -> None:
    for name, filter, more in FOLLOWERS:
        clients.start(name, "follow", url=daemon.url, filter=filter, fragile=True, **more)
    clients.await_started(*(name for name, _, _ in FOLLOWERS))
    for p, name in enumerate(PRODUCERS):
        options = {} if name == "memory" else {"spool": str(clients.folder / "spool")}
        pace = rng.choice(((10, 0.005), (100, 0.05)))
        told = {"p": p, "pace": pace, "options": options}
        clients.start(name, "produce", url=daemon.url, **told)
    clients.await_started(*PRODUCERS)


def waiter(clients: Clients) -> Callable[..., None]:
    def wait(goal: int, names: Sequence[str] = PRODUCERS) -> None:
        def is_there() -> bool:
            clients.check()
            return min(map(clients.count, names)) >= goal

        wait_until(is_there, f"{goal} inserts")

    return wait


def check_producer(p: int, counts: range, kept: list[Row], old: list[Row], rows: list[Row]) -> None:
    """What the copy had, and from some event on all that the replaced store had, and the rest.

    Args:
        p: Of the producer.
        counts: How many it may have inserted.
        kept, old, rows: What is in the copy, was in the store, and is in it now.
    """
    before, had, now = ([n for _, q, n in each if q == p] for each in (kept, old, rows))
    check_numbers(f"of {p}, in the copy", before, range(len(before)))
    check_numbers(f"of {p}, before", had, range(len(had)))
    after = now[len(before) :]
    count = max(now, default=-1) + 1
    first = after[0] if after else count
    assert len(before) <= first <= len(had), f"{p}: {len(before)}, {first}, {len(had)}"
    assert max(count, len(had)) in counts, f"{p}: {count} of {counts}"
    check_numbers(f"of {p}, later", after, range(first, count))


def check_follower(name: str, got: list[Row], ended: str, old: list[Row], now: list[Row]) -> None:
    if ended == "the end":
        check_tail(name, got, now)
    else:
        assert ended == "CursorLost"
        check_tail(name, got, old[: len(got)])


def test_cursors_of_what_is_gone(tmp_path: Path, tell: Told) -> None:
    """A follower that runs, one that resumes, and a late one, when the floor passes them by."""
    daemon, clients = Daemon(tmp_path), Clients(tmp_path)
    daemon.start()
    child = clients.start("behind", "follow", url=daemon.url, filter={}, fragile=True)
    clients.await_started("behind")
    with Client(daemon.url, timeout=PATIENCE_S) as client:
        client.insert_many(make_event(0, n) for n in range(100))
        client.flush(PATIENCE_S)
        with client.tail(after=50) as tail:
            tail.get(PATIENCE_S)
            cursor = tail.cursor
        wait_until(lambda: clients.got("behind") or clients.count("behind"), "it follows")
        child.send(signal.SIGSTOP)
        client.insert_many(make_event(0, n) for n in range(100, 3_000))
        client.flush(PATIENCE_S)
        daemon.ask("trim", floor=2_990)
        daemon.kill()  # and with it what was on its way to the stopped follower
        tell("killed the daemon at any moment")
        daemon.start()
        child.send(signal.SIGCONT)
        result = clients.result("behind")
        got = [n for _, _, n in clients.got("behind")]
        assert result["ended"] == "Trimmed"
        check_numbers("behind", got, range(len(got)))
        for after in (cursor, 51, 2_989):
            with pytest.raises(Trimmed), client.tail(after=after) as tail:
                tail.get(PATIENCE_S)
        with client.tail(after=2_990) as tail:
            assert [tail.get(PATIENCE_S)["n"] for _ in range(10)] == list(range(2_990, 3_000))
            good = tail.cursor
        with client.tail(after=0) as tail:
            assert tail.get(PATIENCE_S).id == 2_991
        daemon.stop()
        for path in tmp_path.glob("store.db*"):
            path.unlink()
        daemon.start()
        tell("a store was emptied")
        for after in (good, cursor, 5):
            with pytest.raises(CursorLost), client.tail(after=after) as tail:
                tail.get(PATIENCE_S)
    daemon.stop()
