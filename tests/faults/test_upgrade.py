"""A store of the first version is opened by today's daemon, which is killed on its way."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from . import schema1
from .history import History
from .process import Peer, Plan, serve

STORES, KILLS = 5, 3
COUNT, FLOOR, SWEPT = 1500, 400, 300

Told = Callable[[str], None]


def old_store(folder: Path, rng: random.Random) -> History:
    """A store of schema 1 and what is known of it."""
    folder.mkdir()
    history = History(folder, rng)
    rows = schema1.write(history.store, rng, COUNT, FLOOR, SWEPT, history.producer)
    known = history.known
    # What was trimmed before is not asked for, but its numbers are taken.
    known.sent = {n: {} for n in range(FLOOR)} | {event["n"]: event for _, _, event in rows}
    known.rows = {event["n"]: (id, ts, event) for id, ts, event in rows}
    known.batches, known.acknowledged = {1: [], 2: [], 3: []}, 3
    known.head, known.floors = COUNT, [FLOOR]
    return history


@pytest.mark.parametrize("number", range(STORES))
def test_killed_while_it_upgrades(
    number: int, tmp_path: Path, rng: random.Random, soak: int, tell: Told
) -> None:
    whole = old_store(tmp_path / "whole", rng)
    process, died = whole.live(Plan(), 60, 0)
    assert not died
    steps = process.steps()
    assert process.kill() == -9
    for each in range(soak):
        history = old_store(tmp_path / str(each), rng)
        for _ in range(KILLS):
            site = rng.choice(list(steps))
            plan = Plan(site, rng.randint(1, steps[site]), rng.choice(("before", "after")))
            process, died = history.live(plan, 10, 0)
            assert process.kill() == -9
            tell(f"killed in an upgrade {plan}" if died else "killed after an upgrade")
        process, died = history.live(Plan(), 60, 40)
        assert not died
        assert process.kill() == -9


def test_cursors_of_the_first_version_hold(tmp_path: Path, rng: random.Random) -> None:
    history = old_store(tmp_path / "old", rng)
    process = serve(history.folder, history.store)
    peer = Peer(process, history.producer)
    try:
        last = peer.ask("replay", run=schema1.RUNS[1], after=COUNT - 2)
        assert [id for id, _, _ in last["events"]] == [COUNT - 1, COUNT]
        peer.send("replay", run=schema1.RUNS[0], after=COUNT // 3 + 1)
        lost = peer.wait()
        assert lost is not None
        assert lost["error"]["code"] == "cursor_lost"
    finally:
        peer.close()
        process.kill()
