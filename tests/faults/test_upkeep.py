"""The jobs of an operator are killed on their way: reindex --keys, restore."""

import copy
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .history import History
from .model import KEYS
from .process import Peer, Plan, Process, serve

STORES, KILLS = 2, 4
ACTIONS = 50
#: Two stay, two go, one comes.
OTHER_KEYS = ("n", "user", "deep.x")

Told = Callable[[str], None]


def job(history: History, plan: Plan, *args: str) -> Process:
    """Run a command on the store to its end, or its death."""
    process = Process(history.folder, [*args, "--store", f"sqlite:///{history.store}"], plan)
    code = process.wait()
    assert code in ((0, -9) if plan.site else (0,)), process.log.read_text()[-3000:]
    return process


def steps_of(history: History, folder: Path, *args: str) -> list[tuple[str, int]]:
    """The steps that a command takes on a copy of the store, and how often."""
    shutil.copytree(history.folder, folder, ignore=shutil.ignore_patterns("s", "s-*"))
    twin = copy.copy(history)
    twin.folder, twin.store = folder, folder / history.store.name
    steps = job(twin, Plan(), *args).steps()
    shutil.rmtree(folder)
    return sorted(steps.items())


def choose(rng: random.Random, steps: Sequence[tuple[str, int]], module: str) -> Plan:
    """Any step, but half the time one of this module, which does the work."""
    own = [each for each in steps if module in each[0]]
    site, times = rng.choice(own if rng.random() < 0.5 else steps)
    return Plan(site, rng.randint(1, times), rng.choice(("before", "after")))


def filled(folder: Path, rng: random.Random) -> History:
    """A store with some hundred events, whose daemon was killed."""
    folder.mkdir()
    history = History(folder, rng)
    for _ in range(2):
        process, died = history.live(Plan(), 0, ACTIONS)
        assert not died
        process.kill()
    history.told = ()
    return history


def look(history: History, queries: int, actions: int) -> None:
    process, died = history.live(Plan(), queries, actions)
    assert not died
    process.kill()


@pytest.mark.parametrize("number", range(STORES))
def test_killed_while_keys_change(
    number: int, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    history = filled(tmp_path / "store", rng)
    keys = KEYS
    for _ in range(soak):
        wanted = OTHER_KEYS if keys == KEYS else KEYS
        command = ("reindex", "--keys", ",".join(wanted))
        steps = steps_of(history, tmp_path / "copy", *command)
        for _ in range(KILLS):
            plan = choose(rng, steps, " sqlite_reindex.")
            died = job(history, plan, *command).end() == -9
            tell(f"killed while keys change {plan}" if died else "killed after keys were changed")
            if rng.random() < 0.5:
                # A daemon that is told no keys takes those that the store has just then.
                look(history, 15, 10)
                assert history.model.keys in (keys, wanted)
        job(history, Plan(), *command)
        look(history, 40, 20)
        assert history.model.keys == wanted
        keys = wanted


@pytest.mark.parametrize("number", range(STORES))
def test_killed_while_a_copy_is_put_back(
    number: int, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    """There is the one store or the other, whole, and the same command ends it."""
    history = filled(tmp_path / "store", rng)
    look(history, 5, 0)
    saved = copy.deepcopy(history.known)
    backup = tmp_path / "backup.db"
    job(history, Plan(), "backup", str(backup))
    for _ in range(soak):
        look(history, 5, ACTIONS)
        look(history, 5, 0)
        assert history.known.head > saved.head
        steps = steps_of(history, tmp_path / "copy", "restore", str(backup))
        for _ in range(KILLS):
            plan = choose(rng, steps, " sqlite_copy.")
            died = job(history, plan, "restore", str(backup)).end() == -9
            tell(f"killed in a restore {plan}" if died else "killed after a restore")
            if head_of(history) == saved.head:
                take_back(history, saved)
            look(history, 15, 0)
        job(history, Plan(), "restore", str(backup))
        take_back(history, saved)
        look(history, 40, 0)


def head_of(history: History) -> int:
    process = serve(history.folder, history.store)
    peer = Peer(process, history.producer)
    try:
        return int(peer.ask("ping")["head"])
    finally:
        peer.close()
        process.kill()


def take_back(history: History, saved: object) -> None:
    """The store is what it was; events that were sent since are not sent again."""
    sent = history.known.sent
    history.known = copy.deepcopy(saved)  # type: ignore[assignment]
    history.known.sent = sent
