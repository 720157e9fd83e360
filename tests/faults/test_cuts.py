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
from zstream.tail import TailCore

from .proxy import SOCKETS, Proxy
from .running import PATIENCE_S, Child, Clients, Daemon, wait_until
from .test_kill import check_accounts
from .traffic import END, FILTERS, check_numbers, check_store, check_tail, make_event, wanted

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


#: What is done to which sockets, or which process; "" is all of them, or the daemon. Late
#: confirmations, behind watermarks that told more, are the worst for a producer: twice.
FAULTS: Final = (
    *((what, name) for what in ("cut", "refuse", "freeze") for name in ("", *SOCKETS)),
    ("freeze", "publish"), ("stop", ""), ("stop", "p0"), ("stop", "two"), ("cut often", ""),
)  # fmt: skip


def fail(proxy: Proxy, process: Child, what: str, name: str, rng: random.Random) -> None:
    """One fault of the network, or of the machine that a process runs on, to its end."""
    pause, names = threading.Event(), (name,) if name else ()
    if what == "cut":
        proxy.cut(*names)
    elif what == "refuse":
        proxy.refuse(*names)
        pause.wait(rng.uniform(0, 0.5))
    elif what == "freeze":
        proxy.freeze(*names)
        pause.wait(rng.uniform(0.3, 1.1))
        if rng.random() < 0.3:
            proxy.cut(*names)
    elif what == "stop":
        process.send(signal.SIGSTOP)
        pause.wait(rng.uniform(0, 0.7))
        process.send(signal.SIGCONT)
    else:
        for _ in range(10):
            proxy.cut(rng.choice(list(SOCKETS)))
            pause.wait(rng.uniform(0, 0.05))
    proxy.mend()


def test_network(
    tmp_path: Path, daemon: Daemon, proxy: Proxy, rng: random.Random, soak: int, tell: Told,
    figures: Callable[..., Any],
) -> None:  # fmt: skip
    began, clients = time.monotonic(), Clients(tmp_path)
    filters = {name: FILTERS[name] for name in ("everything", "many")}
    clients.start("two", "follow", url=proxy.url, filters=filters, feed=1 << 17)
    told = {"filter": FILTERS["long"], "after": 0, "asynchronous": True}
    clients.start("long", "follow", url=proxy.url, **told)
    clients.await_started(*filters, "long")
    producers = {"p0": {"on_full": "block", "buffer_bytes": 1 << 18}, "p1": {}}
    for p, (name, options) in enumerate(producers.items()):
        pace = rng.choice(((3, 0.002), (100, 0.05)))
        clients.start(name, "produce", url=proxy.url, p=p, pace=pace, options=options)
    clients.await_started(*producers)
    pause, faults = threading.Event(), FAULTS * soak
    for what, name in rng.sample(faults, len(faults)):
        pause.wait(rng.uniform(0, 0.3))
        clients.check()
        fail(
            proxy,
            clients.running[name] if what == "stop" and name else daemon.child,
            what,
            name,
            rng,
        )
        tell(f"network: {what} {name}".rstrip())
    for name in producers:
        clients.stop(name)
    results = [clients.result(name) for name in producers]
    check_accounts(results)
    daemon.insert_end()
    for name in ("two", "long"):
        clients.result(name)
    rows = daemon.rows()
    check_store(rows, {0: range(results[0]["count"]), 1: range(results[1]["count"]), END: [0]})
    for name in (*filters, "long"):
        check_tail(name, clients.got(name), wanted(FILTERS[name], rows))
    figures(
        test="network", inserts=len(rows) - 1, faults=len(faults), cuts=proxy.cuts,
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


def test_a_small_backlog(
    daemon: Daemon, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who is now behind and now waits gets all of each burst before the next one comes."""
    monkeypatch.setitem(TailCore.__init__.__kwdefaults__, "backlog_bytes", 60_000)
    n = 0
    with Client(daemon.url) as client, Client(daemon.url) as other, other.tail() as tail:
        for _ in range(60):
            burst = range(n, n := n + rng.randint(1, 1_500))
            for number in burst:
                client.insert(make_event(0, number))
                if number % 200 == 0:
                    client.flush(PATIENCE_S)
            assert [tail.get(PATIENCE_S)["n"] for _ in burst] == list(burst)


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
