"""What an operator does to the store of a real daemon: backup under load, restore, other keys."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from zstream import Client, CursorLost
from zstream.testing import Server, server

from .support import PATIENCE_S, environment, everything, wait_until

ZSTREAMD: Final = Path(sysconfig.get_path("scripts")) / "zstreamd"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def start(path: Path, *words: str | Path, **popen: Any) -> "subprocess.Popen[bytes]":
    """Start a command of zstreamd on a store."""
    return subprocess.Popen(
        [ZSTREAMD, *words, "--store", f"sqlite:///{path}"], env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen,
    )  # fmt: skip


def run(path: Path, *words: str | Path, code: int = 0) -> str:
    """Run it to its end, which must be this one; gives what it said."""
    with start(path, *words) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == code, err.decode()
    return (out + err).decode()


@contextmanager
def serving(path: Path) -> Iterator[tuple[Server, Client]]:
    store = f"sqlite:///{path}"
    with server(keys=None, store=store) as running, Client(running.url, timeout=100) as client:
        yield running, client


def event(n: int) -> dict[str, Any]:
    return {"kind": f"k{n % 3}", "user": n % 50, "n": n, "team": {"id": f"t{n % 4}"}}


def insert(client: Client, count: int) -> None:
    client.insert_many(event(n) for n in range(count))
    client.flush(PATIENCE_S)


@contextmanager
def flood(url: str) -> Iterator[Callable[[], int]]:
    """Inserts as fast as they are taken; gives how many are known to be stored."""
    ended = threading.Event()
    stored = 0

    def insert_all() -> None:
        nonlocal stored
        with Client(url, timeout=PATIENCE_S) as client:
            while not ended.is_set():
                insert(client, 500)
                stored += 500

    thread = threading.Thread(target=insert_all)
    thread.start()
    try:
        yield lambda: stored
    finally:
        ended.set()
        thread.join()


# ---------------------------------------------------------------- backup and restore


def test_backup_under_load_and_restore(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with serving(path) as (running, client):
        with flood(running.url) as stored:
            wait_until(lambda: stored() >= 3_000, "there is something to copy")
            before = stored()
            said = run(path, "backup", copy)
            last = int(said.split("up to event ")[1].split()[0])
            after = client.info()["head"]
        assert before <= last <= after
        early = everything(running.url)[:last]
        with client.tail(after=last - 5) as tail:
            good = [tail.get(PATIENCE_S).id, tail.cursor][1]
        page = client.items(end=3)
        insert(client, 100)
        lost_id = client.info()["head"]
        with client.tail(after=lost_id - 5) as tail:
            lost = [tail.get(PATIENCE_S).id, tail.cursor][1]
        assert "stop that one" in run(path, "restore", copy, code=4)

    # The copy opens as a store.
    shutil.copy(copy, tmp_path / "other.db")
    with serving(tmp_path / "other.db") as (other, _):
        assert everything(other.url) == early

    assert "is now" in run(path, "restore", copy)
    assert "in order" in run(path, "check")
    with serving(path) as (running, client):
        assert everything(running.url) == early
        for kind in ("k0", "k1"):
            assert client.count(kind=kind) == sum(each["kind"] == kind for _, _, each in early)
        for _ in range(2):
            with client.tail(after=good) as tail:
                assert [tail.get(PATIENCE_S).id for _ in range(4)] == list(
                    range(last - 3, last + 1)
                )
            with pytest.raises(CursorLost), client.tail(after=lost) as tail:
                tail.get(PATIENCE_S)
            with pytest.raises(CursorLost):
                client.items(before=page.next)
            insert(client, lost_id - last)  # the same ids again, for other events
            assert client.info()["head"] >= lost_id


# ---------------------------------------------------------------- other keys


def test_other_keys_whenever_it_is_ended(path: Path) -> None:
    """Between the ends a daemon has the old keys; at last all is as if inserted with the new."""
    with serving(path) as (running, client):
        insert(client, 30_000)
        kept = everything(running.url)
    rng = random.Random(3)
    words = ("reindex", "--keys", "team.id,user")
    for number in (signal.SIGINT, *[signal.SIGKILL] * 3):
        with start(path, *words) as process, closing(sqlite3.connect(path, timeout=60)) as db:
            assert process.stderr is not None
            # Behind its first line, or some hundred statements later.
            assert b"of 30,0" in process.stderr.readline()
            for _ in range(rng.randrange(300) if number == signal.SIGKILL else 0):
                db.execute("SELECT count(*) FROM meta").fetchone()
            process.send_signal(number)
            last = process.stderr.read().decode().splitlines()[-1:]
        if number == signal.SIGKILL:
            assert process.returncode in (-number, 0)
        else:
            assert (process.returncode, last) == (1, ["zstreamd: interrupted"])
        with serving(path) as (running, client):
            if running.keys == ("kind", "user", "repo"):
                assert client.count(kind="k1") > 10_000 - 1
            insert(client, 10)
            kept += [(each.id, each.ts, dict(each)) for each in client.items(end=10)[::-1]]
            assert kept[-1][0] == client.info()["head"] == len(kept)
    run(path, *words)
    assert "in order" in run(path, "check")
    with serving(path) as (running, client):
        assert running.keys == ("team.id", "user")
        assert everything(running.url) == kept
        for team in ("t0", "t3"):
            wanted = [
                id for id, _, each in kept if each["team"]["id"] == team and each["user"] == 7
            ]
            found = client.items({"team.id": team, "user": 7}, end=10_000)
            assert sorted(each.id for each in found) == wanted
        assert client.insert(event(0), wait=True) == kept[-1][0] + 1
