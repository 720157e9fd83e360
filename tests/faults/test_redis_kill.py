"""A daemon on Redis is killed under load, again and again, and so is Redis: nothing is lost."""

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import pytest

from zstream import Client, Unavailable
from zstream.backends.redis import RedisBackend

from ..servers.redis import Redis, serving
from .running import PATIENCE_S, Child, wait_until

Told = Callable[[str], None]

#: How often one is killed.
KILLS: Final = 10
#: A daemon whose runs are small, so that it is killed while it seals and frees, too.
DAEMON: Final = """
import sys
from zstream.backends import redis_sealing
from zstream.backends.redis import RedisBackend
from zstreamd.cli import main
RedisBackend.SEAL_ROWS = 300
RedisBackend.LOCK_S = 10.0
redis_sealing.STEP_BYTES = 500
main()
"""


class Daemon:
    """Started again and again, in one place."""

    def __init__(self, folder: Path, store: str, *options: str) -> None:
        self.url = f"ipc://{folder}/s"
        self._log, self._options = folder / "log", ["--store", store, *options]
        self.child: Child | None = None

    def start(self) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAM")}
        command = [
            sys.executable, "-c", DAEMON, "--listen", self.url, "--keys", "kind,user",
            "--log-format", "json", *self._options,
        ]  # fmt: skip
        self.child = Child(self._log, command, env=clean)

    def kill(self) -> None:
        assert self.child is not None
        assert self.child.kill() == -9, self.child.said()


class Load(threading.Thread):
    """Inserts numbered events, and notes which are known to be stored."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._ends = threading.Event()
        self.inserted = self.confirmed = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._url, timeout=PATIENCE_S) as client:
                while not self._ends.is_set():
                    for _ in range(50):
                        self.inserted += 1
                        n = self.inserted
                        client.insert({"kind": "a", "user": [n % 3, "u"], "n": n})
                    client.flush(PATIENCE_S)
                    self.confirmed = n
        except BaseException as error:
            self.failure = error
            raise

    def end(self) -> None:
        self._ends.set()
        self.join(2 * PATIENCE_S)
        assert not self.is_alive()
        assert self.failure is None


@pytest.fixture
def own(missing: Callable[[str], NoReturn]) -> Iterator[Redis]:
    with serving(missing, appendonly="yes", appendfsync="always") as server:
        yield server
        server.kill()


def numbers(client: Client) -> list[tuple[int, int]]:
    """Each event's id and number, oldest first."""
    found: list[tuple[int, int]] = []
    page = client.items(kind="a", end=10_000)
    while True:
        found += [(event.id, event["n"]) for event in page]
        if page.next is None:
            return found[::-1]
        page = client.items(kind="a", end=10_000, before=page.next)


def check(own: Redis, daemon: Daemon, load: Load) -> None:
    """Each event is there once and in its order, in whatever way it is asked for."""
    assert load.confirmed == load.inserted
    every = [(n, n) for n in range(1, load.inserted + 1)]
    with Client(daemon.url, timeout=PATIENCE_S) as client:
        assert numbers(client) == every
        assert client.count(user="u") == client.count(kind="a", user=[0, 1, 2]) == len(every)
        with client.tail(user=1, after=0) as tail:
            ours = [n for n, _ in every if n % 3 == 1]
            assert [next(tail)["n"] for _ in ours] == ours
    daemon.kill()
    backend = RedisBackend(own.url("app"))
    backend.LOCK_S = 10.0  # type: ignore[misc]
    assert backend.check(lambda *_: None) == []
    backend.open(None)
    assert backend.settle(30)
    backend.close()
    runs = {int(number) for number in own.ask("HKEYS", "app:runs")}
    pieces = {int(name.split(b":")[2]) for name in own.ask("KEYS", "app:run:*")}
    assert runs
    assert pieces == runs
    assert own.ask("HLEN", "app:unfinished") == 0


def test_a_daemon_is_killed_under_load(
    own: Redis, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    daemon = Daemon(tmp_path, own.url("app"))
    daemon.start()
    load = Load(daemon.url)
    load.start()
    pause = threading.Event()
    for _ in range(KILLS * soak):
        before = load.confirmed
        wait_until(lambda: load.confirmed > before or load.failure, "it goes on")  # noqa: B023
        pause.wait(rng.uniform(0, 0.3))
        daemon.kill()
        tell("killed the daemon")
        daemon.start()
    load.end()
    assert own.ask("LLEN", "app:openings") >= KILLS * soak
    check(own, daemon, load)


def test_redis_is_killed_under_load(
    own: Redis, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    """What it has answered it has given to the kernel, so its death alone takes nothing."""
    daemon = Daemon(tmp_path, own.url("app"))
    daemon.start()
    load = Load(daemon.url)
    load.start()
    pause = threading.Event()
    for _ in range(KILLS * soak):
        before = load.confirmed
        wait_until(lambda: load.confirmed > before or load.failure, "it goes on")  # noqa: B023
        pause.wait(rng.uniform(0, 0.3))
        own.kill()
        tell("killed Redis")
        pause.wait(rng.choice((0, 0, rng.uniform(0, 2))))
        own.start()
    load.end()
    assert own.ask("LLEN", "app:openings") == 1
    check(own, daemon, load)


def test_both_are_killed_and_the_connections(
    own: Redis, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    daemon = Daemon(tmp_path, own.url("app"), "--keep", "2000 events")
    daemon.start()
    load = Load(daemon.url)
    load.start()
    pause = threading.Event()
    for _ in range(2 * KILLS * soak):
        before = load.confirmed
        wait_until(lambda: load.confirmed > before or load.failure, "it goes on")  # noqa: B023
        pause.wait(rng.uniform(0, 0.2))
        what = rng.choice(("daemon", "Redis", "connections", "both"))
        tell(f"killed {what}")
        if what == "connections":
            own.ask("CLIENT", "KILL", "TYPE", "normal")
        if what in ("Redis", "both"):
            own.kill()
        if what in ("daemon", "both"):
            daemon.kill()
        if what in ("Redis", "both"):
            own.start()
        if what in ("daemon", "both"):
            daemon.start()
    load.end()
    with Client(daemon.url, timeout=PATIENCE_S) as client:
        found = numbers(client)
        first = found[0][0]
        assert found == [(n, n) for n in range(first, load.inserted + 1)]
        assert client.count(user="u") == client.info()["events"]
    daemon.kill()
    with pytest.raises(Unavailable), Client(daemon.url, timeout=0.2) as client:
        client.ping()
    backend = RedisBackend(own.url("app"))
    backend.LOCK_S = 10.0  # type: ignore[misc]
    assert backend.check(lambda *_: None) == []
