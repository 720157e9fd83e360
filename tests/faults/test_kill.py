"""The daemon is killed again and again under producers and followers: nothing lost, nothing twice.

With ``--soak 10`` it is the full size: 300,000 inserts, 50 kills.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .garbage import garbage
from .running import Clients, Daemon, wait_until
from .traffic import END, FILTERS, check_store, check_tail, wanted

PRODUCERS: Final = 3
INSERTS: Final = 10_000
KILLS: Final = 5
#: One of so many events is refused for good.
POISON: Final = 777

Told = Callable[[str], None]


class Killer:
    """Ends a daemon in one way or another while clients use it.

    Args:
        progress: How many events the producers have inserted.
        total: How many they will insert; with fewer commits than it needs one lives on.
    """

    def __init__(
        self, daemon: Daemon, rng: random.Random, progress: Callable[[], int], total: int
    ) -> None:
        self._daemon, self._rng, self._progress, self._total = daemon, rng, progress, total
        self._pause = threading.Event()
        #: Holes that followers have filled, in the lives that could be asked before their end.
        self.heals = 0

    def kill(self, goal: int) -> str:
        """Start the daemon, and kill it when the producers are so far, or before; says where."""
        rng, daemon = self._rng, self._daemon
        draw = rng.random()
        if draw < 0.1:
            daemon.start()
            self._await(goal, alive=False)
            self.heals += daemon.ask("info")["heals"]
            daemon.stop()
            return "stopped the daemon"
        if draw < 0.25:
            daemon.start(ready=False)
            self._pause.wait(rng.uniform(0, 0.6))
            where = "at its start"
        elif draw < 0.6:
            when = rng.choice(("before", "after", "told"))
            daemon.start(ready=False, commit=rng.randint(1, 12), when=when)
            self._await(goal, alive=True)
            where = {"told": "after it told"}.get(when, f"{when} a commit")
        else:
            daemon.start()
            self._await(goal, alive=False)
            self.heals += daemon.ask("info")["heals"]
            self._pause.wait(rng.uniform(0, 0.05))
            where = "at any moment"
        daemon.kill()
        self._pause.wait(rng.uniform(0, 0.3))
        return f"killed the daemon {where}"

    def _await(self, goal: int, *, alive: bool) -> None:
        # One that is to die by itself needs commits; what is left of its share is its successor's.
        child = self._daemon.child
        wait_until(
            lambda: not child.is_alive() or (self._progress() >= goal and not alive)
            or self._progress() >= min(goal + INSERTS, self._total),
            "producers go on, or the daemon dies",
        )  # fmt: skip


def start_followers(clients: Clients, url: str) -> None:
    """One that is slow, one that will be killed itself, two that share a client."""
    clients.start("slow", "follow", url=url, filter={}, slow=(400, 0.05), feed=1 << 17)
    clients.start("one", "follow", url=url, filter=FILTERS["one"], resume=True)
    filters = {name: FILTERS[name] for name in ("many", "long")}
    clients.start("two", "follow", url=url, filters=filters, after=0)
    clients.await_started("slow", "one", "many", "long")


@contextmanager
def restarting(clients: Clients, name: str, rng: random.Random) -> Iterator[Callable[[], int]]:
    """Kill a follower now and then, and start it again where it noted its cursor.

    Yields:
        Tells how often it was killed.
    """
    ended, choices, kills = threading.Event(), random.Random(rng.random()), 0

    def run() -> None:
        nonlocal kills
        while not ended.wait(choices.uniform(0.5, 3)):
            clients.kill(name)
            kills += 1
            ended.wait(choices.uniform(0, 0.3))
            clients.again(name)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: kills
    finally:
        ended.set()
        thread.join()


def check_accounts(results: Iterable[dict[str, Any]], refused: int = 0) -> None:
    """Producers say themselves that all is stored but so many, and nothing was lost."""
    for result in results:
        stats = result["stats"]
        told = {each: stats[each] for each in ("confirmed", "lost", "dropped", "refused")}
        stored = result["count"] - refused
        assert told == {"confirmed": stored, "lost": 0, "dropped": 0, "refused": refused}
        assert result["refused"] == refused
        assert (stats["queued"], stats["unconfirmed"]) == (0, 0)


def test_kills(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told, figures: Callable[..., None]
) -> None:
    began = time.monotonic()
    daemon, clients = Daemon(tmp_path), Clients(tmp_path)
    daemon.start()
    start_followers(clients, daemon.url)
    names = [f"p{p}" for p in range(PRODUCERS)]
    for p, name in enumerate(names):
        options = {"on_full": "block", "buffer_bytes": rng.choice((1 << 18, 1 << 20, 1 << 22))}
        told = {"p": p, "count": INSERTS * soak, "options": options, "asynchronous": p == 2}
        clients.start(name, "produce", url=daemon.url, poison=POISON, **told)
    total, kills = PRODUCERS * INSERTS * soak, KILLS * soak

    def progress() -> int:
        clients.check()
        return sum(map(clients.count, names))

    killer = Killer(daemon, rng, progress, total)
    with garbage(tmp_path, rng), restarting(clients, "one", rng) as restarts:
        wait_until(progress, "producers insert")
        daemon.kill()
        tell("killed the daemon at any moment")
        for number in range(1, kills):
            tell(killer.kill(total * number // kills))
            if number == kills // 2:
                told = {"filter": {}, "after": 0, "asynchronous": True}
                clients.start("late", "follow", url=daemon.url, **told)
        daemon.start()
        results = [clients.result(name) for name in names]
    daemon.insert_end()
    for name in ("slow", "one", "two", "late"):
        clients.result(name)
    heals = killer.heals + daemon.ask("info")["heals"]
    rows = daemon.rows()
    daemon.stop()
    good = [n for n in range(INSERTS * soak) if n % POISON != POISON - 1]
    check_store(rows, {**dict.fromkeys(range(PRODUCERS), good), END: [0]})
    for name, filter in (("slow", {}), ("late", {}), *list(FILTERS.items())[1:]):
        check_tail(name, clients.got(name), wanted(filter, rows))
    check_accounts(results, INSERTS * soak // POISON)
    figures(
        test="kill", inserts=total, kills=daemon.kills, lost=0, twice=0, tails=5,
        tail_restarts=restarts(), heals=heals, seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
