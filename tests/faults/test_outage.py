"""A store's server goes away in every way, under inserts, queries and a tail, and comes back."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ..servers.network import Network
from .outage import RETURN_S, SLACK_S, Life
from .stores import StoreServer, serving

Told = Callable[[str], None]
KINDS = ("postgresql", "mariadb", "redis")


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, missing: Callable[[str], NoReturn]
) -> Iterator[StoreServer]:
    with serving(request.param, missing) as made:
        yield made


@pytest.fixture
def network(server: StoreServer) -> Iterator[Network]:
    made = Network({"store": server.target})
    yield made
    made.close()


@pytest.fixture
def life(tmp_path: Path, server: StoreServer, network: Network) -> Life:
    return Life(tmp_path, server.url(network))


def end(life: Life, figures: Callable[..., Any], tell: Told) -> None:
    rows = life.end()
    for each in life.figures:
        tell(f"outage: {each['outage']}")
        figures(store=life.daemon.store_url.partition(":")[0], **each)
    figures(store=life.daemon.store_url.partition(":")[0], events=len(rows))


def test_the_server_ends(
    server: StoreServer, life: Life, figures: Callable[..., Any], tell: Told
) -> None:
    with life.outage("stopped") as wait:
        server.stop()
        wait()
        server.start()
    with life.outage("killed") as wait:
        server.kill()
        wait()
        server.start()
    with life.outage("paused") as wait:
        server.pause()
        wait()
        server.resume()
    end(life, figures, tell)


def test_the_network_fails(
    network: Network, life: Life, figures: Callable[..., Any], tell: Told
) -> None:
    for _ in range(3):
        with life.hiccup("network, cut once"):
            network.cut()
    for what in ("refuse", "freeze", "drop"):
        with life.outage(f"network, {what}", flood=what == "freeze") as wait:
            getattr(network, what)()
            wait()
            network.mend(old=what != "freeze")
    with life.outage("network, slow") as wait:
        network.mend()
        network.delay(3.0)
        wait()
        network.mend()
    end(life, figures, tell)


def test_the_server_takes_nothing(
    server: StoreServer, life: Life, figures: Callable[..., Any], tell: Told
) -> None:
    for what, (forbid, allow) in server.ways().items():
        with life.outage(what, reads=True) as wait:
            forbid()
            wait()
            allow()
    with life.outage("full") as wait:
        server.fill()
        life.fill()
        wait()
        server.unfill()
    end(life, figures, tell)


def test_a_commit_whose_answer_does_not_come(
    server: StoreServer, network: Network, life: Life, figures: Callable[..., Any], tell: Told
) -> None:
    """The server has stored it, or is about to when the daemon looks: it is there once."""
    for round in range(6):
        mark, insert = life.marked()
        if is_last := round == 5:
            network.hold(server.last_words(mark))
        else:
            network.trap(server.last_words(mark))
        began = time.monotonic()
        insert()
        took = time.monotonic() - began
        assert network.sprung("store") == round + 1
        assert took < RETURN_S + SLACK_S
        if is_last:  # what stood in the network comes now
            network.mend()
        life.go_on()
        tell(f"outage: an answer {'is held back' if is_last else 'is lost'}")
    end(life, figures, tell)
