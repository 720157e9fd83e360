"""The daemon is killed with SIGKILL, again and again; nothing told outside is lost or doubled."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .history import History
from .process import PATIENCE_S, Plan, Process, serve

#: Histories of a store, and deaths of each.
STORES, KILLS = 8, 8
#: Things that are done to a daemon in a life at most.
ACTIONS = 60
QUERIES = 15

Told = Callable[[str], None]


def choose(rng: random.Random, steps: Counter[str], killed: Counter[str]) -> Plan:
    """A step at which there were few deaths; steps are with how often a life takes them."""
    if rng.random() < 0.2:
        return Plan(delay=rng.uniform(0, 0.3))
    fewest = min(killed[site] for site in steps)
    site = rng.choice([site for site in steps if killed[site] == fewest])
    killed[site] += 1
    return Plan(site, rng.randint(1, max(1, steps[site] // 2)), rng.choice(("before", "after")))


def test_killed_while_a_store_is_made(
    tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    process, died = History(tmp_path, rng, tmp_path / "first.db").live(Plan(), 0, 0)
    assert not died
    assert process.kill() == -9
    steps = process.steps()
    for number, site in enumerate(rng.sample(sorted(steps), min(len(steps), 6 * soak))):
        history = History(tmp_path, rng, tmp_path / f"{number}.db")
        plan = Plan(site, rng.randint(1, steps[site]), rng.choice(("before", "after")))
        process, died = history.live(plan, 0, 0)
        assert process.kill() == -9
        tell(f"killed {plan}" if died else "killed after the load")
        process, died = history.live(Plan(), 5, 10)
        assert not died
        process.kill()


@pytest.mark.parametrize("number", range(STORES))
def test_killed_under_load(
    number: int, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    history = History(tmp_path, rng)
    killed: Counter[str] = Counter()
    # The first two lives find out which steps there are, the second one those of opening again.
    process, _ = history.live(Plan(), QUERIES, ACTIONS)
    plan = Plan()
    steps: Counter[str] = Counter()
    for _ in range(KILLS * soak):
        assert process.kill() == -9, f"{plan}\n{process.log.read_text()[-3000:]}"
        process, died = history.live(plan, QUERIES, 100_000 if plan.delay else 2 * ACTIONS)
        tell(f"killed {plan}" if died else "killed after the load")
        steps |= process.steps()
        plan = choose(rng, steps, killed)
    process.kill()
    process, died = history.live(Plan(), 100, 0)
    assert not died
    assert process.kill() == -9
    checked = Process(tmp_path, ["check", "--store", f"sqlite:///{history.store}"], Plan())
    assert checked.wait() == 0, checked.log.read_text()[-3000:]


def test_a_second_daemon_is_turned_away(tmp_path: Path, rng: random.Random) -> None:
    history = History(tmp_path, rng)
    process, died = history.live(Plan(), QUERIES, 5)
    assert not died
    other = tmp_path / "other"
    other.mkdir()
    second = serve(other, history.store)
    assert second.wait(PATIENCE_S) == 4
    # A path through a link is the same store.
    (tmp_path / "link.db").symlink_to(history.store)
    third = serve(other, tmp_path / "link.db")
    assert third.wait(PATIENCE_S) == 4
    process.kill()
    process, died = history.live(Plan(), QUERIES, 0)
    assert not died
    process.kill()
    shutil.rmtree(other)
