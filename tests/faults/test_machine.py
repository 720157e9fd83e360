"""What may happen to the machine that a daemon runs on: the disk fills up, the clock jumps."""

import random
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from .running import Clients, Daemon, wait_until
from .test_kill import check_accounts
from .traffic import END, FILTERS, check_store, check_tail, wanted

ROUNDS: Final = 4
JUMPS: Final = 6
#: Events between two faults.
SHARE: Final = 2_000
DAY_US: Final = 86_400_000_000

Told = Callable[[str], None]


class Traffic:
    """Two producers and two followers of a daemon, until they are checked."""

    def __init__(self, daemon: Daemon, rng: random.Random) -> None:
        self.daemon = daemon
        self._clients = clients = Clients(daemon.folder)
        clients.start("live", "follow", url=daemon.url, filter={})
        clients.start("many", "follow", url=daemon.url, filter=FILTERS["many"], after=0)
        clients.await_started("live", "many")
        for p in range(2):
            options = {"on_full": "block", "buffer_bytes": 1 << 18}
            pace = rng.choice(((100, 0.01), (10, 0.005)))
            clients.start(f"p{p}", "produce", url=daemon.url, p=p, pace=pace, options=options)
        clients.await_started("p0", "p1")
        self._goal = 0

    def go_on(self) -> None:
        """Wait until some more was inserted."""
        self._goal += SHARE

        def is_there() -> bool:
            self._clients.check()
            return self._clients.count("p0") + self._clients.count("p1") >= self._goal

        wait_until(is_there, "producers insert")

    def check(self) -> int:
        """Wait for the end of all, and check that all is exact; how much was inserted."""
        clients = self._clients
        for p in range(2):
            clients.stop(f"p{p}")
        results = [clients.result(f"p{p}") for p in range(2)]
        check_accounts(results)
        self.daemon.insert_end()
        for name in ("live", "many"):
            clients.result(name)
        rows = self.daemon.rows()
        check_store(rows, {0: range(results[0]["count"]), 1: range(results[1]["count"]), END: [0]})
        check_tail("live", clients.got("live"), rows)
        check_tail("many", clients.got("many"), wanted(FILTERS["many"], rows))
        return len(rows)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit(2) makes the disk full")
def test_full_disk(tmp_path: Path, rng: random.Random, soak: int, tell: Told) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    traffic = Traffic(daemon, rng)
    pause = threading.Event()
    for _ in range(ROUNDS * soak):
        traffic.go_on()
        _, hard = resource.prlimit(daemon.child.pid, resource.RLIMIT_FSIZE)
        size = max(path.stat().st_size for path in tmp_path.glob("store.db*"))
        resource.prlimit(daemon.child.pid, resource.RLIMIT_FSIZE, (size // 2, hard))
        wait_until(lambda: daemon.ask("info")["down"], "the disk is full")
        pause.wait(rng.uniform(0, 0.3))
        if rng.random() < 0.5:
            resource.prlimit(daemon.child.pid, resource.RLIMIT_FSIZE, (hard, hard))
            tell("filled the disk")
        else:
            daemon.kill()
            daemon.start()
            tell("killed the daemon on a full disk")
    traffic.check()
    daemon.stop()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit(2) makes the disk full")
def test_full_disk_of_a_spool(tmp_path: Path, rng: random.Random, soak: int, tell: Told) -> None:
    """What has no room in the spool waits in memory; what was inserted is stored, once."""
    daemon, clients = Daemon(tmp_path), Clients(tmp_path)
    daemon.start()
    options = {"spool": str(tmp_path / "spool"), "on_full": "block", "buffer_bytes": 1 << 19}
    clients.start("p0", "produce", url=daemon.url, p=0, pace=(100, 0.01), options=options)
    clients.await_started("p0")
    pid, pause = clients.running["p0"].pid, threading.Event()
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    for _ in range(2 * soak):
        goal = clients.count("p0") + SHARE
        wait_until(lambda goal=goal: clients.count("p0") >= goal, "it inserts")
        daemon.kill()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (rng.randint(50, 300) << 10, hard))
        tell("killed the daemon, and filled the disk of a spool")
        wait_until(is_standing(clients), "the buffer is full")
        if rng.random() < 0.5:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
            pause.wait(rng.uniform(0, 0.5))
        daemon.start()
        pause.wait(rng.uniform(0, 0.5))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    clients.stop("p0")
    result = clients.result("p0")
    check_accounts([result])
    check_store(daemon.rows(), {0: range(result["count"])})
    daemon.stop()


def is_standing(clients: Clients) -> Callable[[], bool]:
    """Whether a producer has inserted nothing for some time: it waits for room."""
    seen, since = -1, 0.0

    def look() -> bool:
        nonlocal seen, since
        clients.check()
        if clients.count("p0") != seen:
            seen, since = clients.count("p0"), time.monotonic()
        return time.monotonic() > since + 0.5

    return look


def test_clock(tmp_path: Path, rng: random.Random, soak: int, tell: Told) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    traffic = Traffic(daemon, rng)
    for _ in range(JUMPS * soak):
        traffic.go_on()
        jump = rng.choice((-DAY_US, DAY_US, -3_600_000_000, 5_000_000))
        set_clock(daemon.clock, int(daemon.clock.read_text()) + jump)
        tell(f"the clock jumped {'back' if jump < 0 else 'forward'}")
        if rng.random() < 0.3:
            daemon.kill()
            daemon.start()
            tell("killed the daemon after a jump of the clock")
    traffic.check()
    check_arrivals(daemon)
    daemon.stop()


def set_clock(path: Path, ahead: int) -> None:
    part = path.with_suffix(".part")
    part.write_text(str(ahead))
    part.rename(path)


def check_arrivals(daemon: Daemon) -> None:
    after, last = 0, 0
    while True:
        reply: dict[str, Any] = daemon.ask("replay", after=after, limit=1000)
        for _, ts, _ in reply["events"]:
            assert ts >= last
            last = ts
        after = reply["upto"]
        if after == reply["head"]:
            return
