"""The network between clients and the daemon fails, and the daemon is frozen or away."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from zstream import Client
from zstream.errors import BufferFull, FlushError

from .proxy import SOCKETS, Proxy
from .running import PATIENCE_S, Clients, Daemon, wait_until
from .test_kill import check_accounts
from .traffic import END, FILTERS, check_numbers, check_store, check_tail, make_event, wanted

FAULTS: Final = 12
INSERTS: Final = 4_000

Told = Callable[[str], None]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def proxy(tmp_path: Path, daemon: Daemon) -> Iterator[Proxy]:
    made = Proxy(tmp_path)
    yield made
    made.close()


def fail_somehow(proxy: Proxy, daemon: Daemon, rng: random.Random) -> str:
    """One fault of the network, or of the daemon's machine, to its end."""
    pause = threading.Event()
    name = rng.choice(list(SOCKETS))
    what = rng.randrange(6)
    if what == 0:
        proxy.cut()
        return "cut all connections"
    if what == 1:
        proxy.cut(name)
        return f"cut the {name} connections"
    if what == 2:
        proxy.refuse(*(rng.choice(((name,), ()))))
        pause.wait(rng.uniform(0, 0.5))
    elif what == 3:
        proxy.freeze(*(rng.choice(((name,), ()))))
        pause.wait(rng.uniform(0, 1.5))
        if rng.random() < 0.5:
            proxy.cut()
    elif what == 4:
        daemon.child.send(signal.SIGSTOP)
        pause.wait(rng.uniform(0, 1.0))
        daemon.child.send(signal.SIGCONT)
    else:
        for _ in range(10):
            proxy.cut(rng.choice(list(SOCKETS)))
            pause.wait(rng.uniform(0, 0.05))
    proxy.mend()
    return ("", "", "refused connections", "froze connections", "stopped the daemon", "cut often")[
        what
    ]


def test_network(
    tmp_path: Path, daemon: Daemon, proxy: Proxy, rng: random.Random, soak: int, tell: Told,
    figures: Callable[..., Any],
) -> None:  # fmt: skip
    began, count, clients = time.monotonic(), INSERTS * soak, Clients(tmp_path)
    clients.start("live", "follow", url=proxy.url, filter={}, feed=1 << 17)
    clients.start("many", "follow", url=proxy.url, filter=FILTERS["many"], after=0)
    clients.await_started("live", "many")
    producers = {"p0": {"on_full": "block", "buffer_bytes": 1 << 18}, "p1": {}}
    for p, (name, options) in enumerate(producers.items()):
        pace = (rng.choice((10, 100)), 0.01)
        told = {"p": p, "count": count, "pace": pace, "options": options}
        clients.start(name, "produce", url=proxy.url, **told)
    clients.await_started(*producers)
    pause = threading.Event()
    for _ in range(FAULTS * soak):
        pause.wait(rng.uniform(0, 0.3))
        clients.check()
        tell(fail_somehow(proxy, daemon, rng))
    check_accounts({name: clients.result(name) for name in producers}, count)
    daemon.insert_end()
    for name in ("live", "many"):
        clients.result(name)
    rows = daemon.rows()
    check_store(rows, {0: count, 1: count, END: 1})
    check_tail("live", clients.got("live"), rows)
    check_tail("many", clients.got("many"), wanted(FILTERS["many"], rows))
    figures(
        test="network", inserts=2 * count, faults=FAULTS * soak, cuts=proxy.cuts,
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip


def test_a_stopped_follower(tmp_path: Path, daemon: Daemon, soak: int, tell: Told) -> None:
    """A burst that neither end has the memory for passes by a follower that does not run."""
    clients, count = Clients(tmp_path), 12_000 * soak
    child = clients.start("tail", "follow", url=daemon.url, filter={}, feed=1 << 17)
    clients.await_started("tail")
    child.send(signal.SIGSTOP)
    tell("stopped a follower")
    with Client(daemon.url) as client:
        client.insert_many(make_event(0, n) for n in range(count))
        client.flush(PATIENCE_S)
        child.send(signal.SIGCONT)
        client.insert_many(make_event(0, n) for n in range(count, count + 1_000))
        client.flush(PATIENCE_S)
    daemon.insert_end()
    clients.result("tail")
    check_tail("tail", clients.got("tail"), daemon.rows())
    assert daemon.ask("info")["heals"] >= 1


@pytest.mark.parametrize("on_full", ["drop", "raise", "block"])
def test_away(daemon: Daemon, on_full: str, tell: Told) -> None:
    """The daemon is away for longer than the buffer lasts: what was accepted is stored."""
    with Client(daemon.url, on_full=on_full, buffer_bytes=1 << 17) as client:  # type: ignore[arg-type]
        client.insert_many(make_event(0, n) for n in range(1_000))
        client.flush(PATIENCE_S)
        daemon.kill()
        tell("killed the daemon at any moment")
        accepted = list(range(1_000))
        thread = threading.Thread(target=insert, args=(client, on_full, accepted))
        thread.start()
        if on_full == "block":
            wait_until(lambda: client.stats()["queued_bytes"] > 1 << 16, "the buffer fills")
        else:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        daemon.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        dropped = client.stats()["dropped"]
        if on_full == "drop":
            with pytest.raises(FlushError) as raised:
                client.flush(PATIENCE_S)
            assert raised.value.pending == dropped
        client.flush(PATIENCE_S)
        stats = client.stats()
    assert stats["lost"] == stats["unconfirmed"] == stats["queued"] == 0
    assert stats["confirmed"] == len(accepted)
    assert (dropped > 0) == (on_full == "drop")
    assert len(accepted) + dropped == 9_000 or on_full == "raise"
    assert (len(accepted) < 9_000) == (on_full != "block")
    check_numbers("stored", [n for _, _, n in daemon.rows()], accepted)


def insert(client: Client, on_full: str, accepted: list[int]) -> None:
    """Insert more than the buffer holds; notes what was taken."""
    for n in range(1_000, 9_000):
        dropped = client.stats()["dropped"]
        try:
            client.insert(make_event(0, n))
        except BufferFull:
            assert on_full == "raise"
            continue
        if client.stats()["dropped"] == dropped:
            accepted.append(n)
