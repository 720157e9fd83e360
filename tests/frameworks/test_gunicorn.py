"""gunicorn: eight workers of one preloaded application, on one spool folder."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zstream import Client
from zstream.testing import Server

from .recipes import Program, ask, host, program, wait_until, write

#: Seconds after which an insert is safe in the spool; ten times the default of ``spool_sync``.
SYNCED_S = 0.5


def workers(master: Program) -> list[int]:
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def post(address: str, numbers: Iterable[int]) -> None:
    """Insert events in many requests at a time; all must be taken."""

    def insert(n: int) -> int:
        return ask(address, "/events", {"kind": "friend", "user": n % 7, "n": n})[0]

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(insert, numbers)) == {202}


def stored(client: Client) -> list[int]:
    return sorted(event["n"] for event in client.items(kind="friend", end=10_000))


def test_what_was_answered_is_stored_once(
    daemon: Server, client: Client, tmp_path: Path, needs: Callable[..., None]
) -> None:
    needs("flask", "gunicorn")
    write("gunicorn", tmp_path)
    gunicorn = ("gunicorn", "app:app", "--bind", "127.0.0.1:0")
    with program(tmp_path, daemon.url, *gunicorn) as master:
        address = host(master.wait_for(r"Listening at: (http://\S+)")[1])
        wait_until(lambda: len(workers(master)) == 8, "all workers are there")
        post(address, range(400))
        wait_until(lambda: len(stored(client)) == 400, "all is stored")
        assert ask(address, "/events/friend")[1]["events"][0]["n"] in range(400)
        assert ask(address, "/events", [1])[0] == 422

        daemon.stop()
        post(address, range(400, 600))
        synced = time.monotonic() + SYNCED_S
        wait_until(lambda: time.monotonic() > synced, "the inserts are as old as that")
        killed = workers(master)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: len(set(workers(master)) - set(killed)) == 8, "there are eight new workers"
        )
        daemon.start()
        post(address, range(600, 1_000))
        wait_until(lambda: len(stored(client)) >= 1_000, "all is stored")
        post(address, range(1_000, 1_100))
        assert master.end(signal.SIGTERM) == 0
    assert stored(client) == list(range(1_100))
