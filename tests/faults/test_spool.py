"""An app that inserts into a spool is killed again and again, and so is the daemon.

With ``--soak 6`` it is the full size: 24 kills of the whole app, some 50 of single workers.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .running import PATIENCE_S, Child, Clients, Daemon, wait_until
from .traffic import RETURNED, Row, check_numbers

APP: Final = Path(__file__).with_name("app.py")
WORKERS: Final = 8
GENERATIONS: Final = 4
WORKER_KILLS: Final = 2
SYNC_S: Final = 0.05
#: The spool's thread may have to wait for a processor, or for the interpreter.
GRACE_S: Final = 0.95
#: Between the p of one generation of the app and the next.
SPAN: Final = 1_000

Told = Callable[[str], None]


@dataclass
class Kills:
    """When which worker was killed, in ns by the monotonic clock, just before."""

    at: dict[int, int] = field(default_factory=dict)

    def note(self, workers: list[int]) -> None:
        now = time.monotonic_ns()
        for p in workers:
            self.at.setdefault(p, now)


class Apps:
    """One generation of an app after another, in one folder."""

    def __init__(self, folder: Path, url: str, spool: Path) -> None:
        self._folder, self._url, self._spool = folder, url, spool
        self.kills = Kills()
        self._first = 0
        self._child: Child | None = None

    def start(self) -> None:
        """Start a generation, and wait until all its workers insert."""
        self._first += SPAN
        options = {
            "spool": str(self._spool), "spool_sync": SYNC_S, "on_full": "block",
            "buffer_bytes": 1 << 20,
        }  # fmt: skip
        told = {
            "folder": str(self._folder), "url": self._url, "first": self._first,
            "workers": WORKERS, "options": options,
        }  # fmt: skip
        command = [sys.executable, APP, json.dumps(told)]
        self._child = Child(self._folder / "app.log", command, start_new_session=True)
        wait_until(lambda: len(self._inserting()) >= WORKERS + 1, "workers insert")

    def _workers(self) -> list[int]:
        """The p of this generation's workers so far, the parent first."""
        found = (int(path.stem) for path in self._folder.glob("*.pid"))
        return sorted(p for p in found if p >= self._first)

    def _inserting(self) -> list[int]:
        assert self._child is not None
        assert self._child.is_alive(), self._child.said()
        return [p for p in self._workers() if (self._folder / f"{p}.returned").stat().st_size]

    def kill_worker(self, rng: random.Random) -> None:
        """Kill a worker; the parent makes another."""
        alive = [p for p in self._workers()[1:] if p not in self.kills.at]
        p = rng.choice(alive)
        self.kills.note([p])
        os.kill(int((self._folder / f"{p}.pid").read_text()), signal.SIGKILL)

    def kill(self) -> None:
        """Kill the parent and all workers at once."""
        assert self._child is not None
        assert self._child.is_alive(), self._child.said()
        # A worker of which there is no file yet has inserted nothing.
        self.kills.note(self._workers())
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.end()
        pids = [int((self._folder / f"{p}.pid").read_text()) for p in self._workers()]
        wait_until(lambda: not any(map(is_alive, pids)), "all are gone")

    def close(self) -> list[int]:
        """Have all close their clients; gives those that did."""
        assert self._child is not None
        workers = self._workers()
        self._child.send(signal.SIGTERM)
        self._child.wait_well()
        return [p for p in workers if (self._folder / f"{p}.closed").exists()]

    def returned(self) -> dict[int, list[tuple[int, int]]]:
        """For each p when its inserts returned, and their numbers."""
        found = {}
        for path in self._folder.glob("*.returned"):
            data = path.read_bytes()
            found[int(path.stem)] = list(RETURNED.iter_unpack(data[: len(data) // 16 * 16]))
        return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def coming_and_going(daemon: Daemon, rng: random.Random) -> Iterator[None]:
    """Kill the daemon now and then, and leave it away for a while."""
    ended, choices = threading.Event(), random.Random(rng.random())

    def run() -> None:
        while not ended.wait(choices.uniform(0.1, 1.5)):
            daemon.kill()
            ended.wait(choices.choice((0, 0.2, 1.5)))
            daemon.start()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def check_spooled(
    rows: list[Row], returned: dict[int, list[tuple[int, int]]], kills: dict[int, int]
) -> tuple[int, float]:
    """Check what is stored of each worker: its first inserts, once each, none lost that was old.

    Args:
        rows: What is in the store.
        returned: For each p when which insert returned.
        kills: When which p was killed; the others lost nothing at all.

    Returns:
        How many inserts that had returned were lost, and how old the oldest of them was, seconds.
    """
    stored: dict[int, list[int]] = {p: [] for p in returned}
    for _, p, n in rows:
        stored[p].append(n)
    lost, oldest = 0, 0.0
    for p, inserts in returned.items():
        check_numbers(f"of worker {p}", stored[p], range(len(stored[p])))
        assert [n for _, n in inserts] == list(range(len(inserts)))
        assert len(stored[p]) <= len(inserts) + 1, f"worker {p}"
        missing = inserts[len(stored[p]) :]
        if missing:
            assert p in kills, f"{len(missing)} of worker {p}, which was not killed"
            age = (kills[p] - missing[0][0]) / 1e9
            assert age < SYNC_S + GRACE_S, f"{len(missing)} of {p}, the oldest {age:.3f} s old"
            lost, oldest = lost + len(missing), max(oldest, age)
    return lost, oldest


def test_killed_app(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told, figures: Callable[..., Any]
) -> None:
    began = time.monotonic()
    daemon, clients, spool = Daemon(tmp_path), Clients(tmp_path), tmp_path / "spool"
    apps, pause = Apps(tmp_path, daemon.url, spool), threading.Event()
    daemon.start()
    with coming_and_going(daemon, rng):
        for _ in range(GENERATIONS * soak):
            apps.start()
            for _ in range(rng.randint(0, 2 * WORKER_KILLS)):
                pause.wait(rng.uniform(0, 0.2))
                apps.kill_worker(rng)
                tell("killed a worker")
            pause.wait(rng.uniform(0, 0.6))
            apps.kill()
            tell("killed an app")
        apps.start()
    closed = apps.close()
    clients.start("last", "adopt", url=daemon.url, p=1, options={"spool": str(spool)})
    result = clients.result("last", 2 * PATIENCE_S)
    assert len(closed) >= WORKERS - 1
    assert result["left"] == []
    rows, returned = daemon.rows(), apps.returned()
    daemon.stop()
    returned[1] = [(0, 0)]
    lost, oldest = check_spooled(rows, returned, apps.kills.at)
    figures(
        test="spool", inserts=sum(map(len, returned.values())), stored=len(rows),
        app_kills=GENERATIONS * soak, processes_killed=len(apps.kills.at),
        daemon_kills=daemon.kills, returned_and_lost=lost, twice=0,
        oldest_lost_ms=round(oldest * 1000),
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
