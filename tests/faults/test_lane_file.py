"""The power is cut while a spool is written: every batch that was synced is there, as it was.

What was forgotten may come back, what was not synced may be gone, but nothing lies between the
batches that are there, and none has another number or producer than it may have been sent under.
"""

import hashlib
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from zstream.spool import connection
from zstream.spool.folder import Folder
from zstream.spool.lanefile import LaneFile

from .disk import Disk, Luck, after_cut, all_kept, none_kept, some_kept

STEPS: Final = 60
URL: Final = "tcp://127.0.0.1:5570"

Told = Callable[[str], None]


@dataclass(frozen=True)
class Known:
    """What is known of a lane at one moment.

    Attributes:
        synced: The last seq that was synced.
        last: The last that was written.
        settled: Up to here all is forgotten.
        producers: For each the seq before its first batch, in their order.
        named: How many of them were noted for sure.
    """

    synced: int = 0
    last: int = 0
    settled: int = 0
    producers: tuple[tuple[bytes, int], ...] = ()
    named: int = 0


@dataclass
class Run:
    """A recorded life of a lane file."""

    disk: Disk
    bodies: dict[int, bytes] = field(default_factory=dict)

    def note(self, **known: Any) -> None:
        self.disk.note(Known(**known))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CHECKPOINT_PAGES", 20)
    monkeypatch.setattr("zstream.spool.lanefile._LARGE_BYTES", 200_000)


def record(folder: Path, rng: random.Random, synchronizes: bool = True) -> Run:
    """Let a process live with its lane file."""
    folder.mkdir()
    run = Run(Disk(folder))
    flush = run.disk._fsync if synchronizes else lambda _: None
    with run.disk.installed(), mock.patch.object(os, "fdatasync", flush):
        file = Folder(str(folder), URL).create(os.urandom(16))
        known: dict[str, Any] = {"producers": ((file.producer, 0),), "named": 1}
        for _ in range(STEPS):
            run.note(**known)
            _act(run, file, known, rng)
        run.note(**known)
        file.close()
    return run


def _act(run: Run, file: LaneFile, known: dict[str, Any], rng: random.Random) -> None:
    draw = rng.random()
    settled = known.get("settled", 0)
    if draw < 0.5:
        sizes = rng.choices((1, 300, 5_000, 50_000), k=rng.randint(1, 3))
        for row in file.append([(size % 7 + 1, rng.randbytes(size)) for size in sizes]):
            run.bodies[row.seq] = row.body
        known["last"] = file.last
    elif draw < 0.75:
        file.sync()
        known["synced"] = file.last
    elif draw < 0.92:
        known["settled"] = rng.randint(settled, file.last)
        run.note(**known)  # it may be there already when the call has not returned
        file.forget(known["settled"])
    elif draw < 0.97:
        made = hashlib.blake2b(file.producer + settled.to_bytes(8, "big"), digest_size=16).digest()
        known["producers"] += ((made, settled),)
        run.note(**known)
        file.restart(settled)
        known["named"], known["synced"] = len(known["producers"]), file.last
        assert file.producer == made
    else:
        file.note_contact()


def check(run: Run, end: int, luck: Luck, folder: Path) -> None:
    """Adopt what a cut left behind."""
    folder.mkdir(parents=True)
    for name, content in after_cut(run.disk, end, luck).items():
        (folder / name).write_bytes(content)
    moments = [op.what for op in run.disk.log[:end] if op.kind == "moment"]
    known = moments[-1] if moments else Known()
    last = max((op.what.last for op in run.disk.log if op.kind == "moment"), default=0)
    file = Folder(str(folder), URL).adopt()
    try:
        assert not list(folder.glob("*.damaged*"))
        if file is None:
            assert known.synced <= known.settled, f"lost: {known}"
            return
        rows = file.read(0, 1 << 30)
        seqs = [row.seq for row in rows]
        assert seqs == list(range(file.first, file.last + 1)), "there is a hole"
        assert file.first <= max(known.settled, known.synced) + 1
        assert known.synced <= max(file.last, known.settled) <= last, f"lost: {known}"
        assert all(row.body == run.bodies[row.seq] for row in rows)
        if known.producers:
            assert (file.producer, file.base) in known.producers[known.named - 1 :]
        assert file.base < file.first
        assert file.epoch >= 2
    finally:
        if file is not None:
            file.close()


def cuts(run: Run, rng: random.Random, count: int) -> Iterator[tuple[str, int, Luck]]:
    for end, op in enumerate(run.disk.log, 1):
        if op.kind == "sync" and rng.random() < 0.5:
            yield "at a sync, what waited was lost", end, none_kept
    for _ in range(count):
        end = rng.randint(0, len(run.disk.log))
        yield "anywhere, all was kept", end, all_kept
        yield "anywhere, what waited was lost", end, none_kept
        yield "anywhere, some was lost", end, some_kept(rng)
        yield "anywhere, some was lost", end, some_kept(rng)


def check_all(
    run: Run, folder: Path, rng: random.Random, count: int, tell: Told | None = None
) -> None:
    for number, (way, end, luck) in enumerate(cuts(run, rng, count)):
        try:
            check(run, end, luck, folder / str(number))
        except BaseException as error:
            error.add_note(f"cut {way}, after {end} of {len(run.disk.log)} operations: {number}")
            raise
        shutil.rmtree(folder / str(number))
        if tell is not None:
            tell(f"power cut in a spool {way}")


@pytest.mark.parametrize("number", range(2))
def test_power_cuts(number: int, tmp_path: Path, rng: random.Random, soak: int, tell: Told) -> None:
    for each in range(soak):
        run = record(tmp_path / f"run {each}", rng)
        check_all(run, tmp_path / "cuts", rng, 40, tell)


def test_power_cuts_while_a_lane_is_made(tmp_path: Path, rng: random.Random, tell: Told) -> None:
    run = record(tmp_path / "run", rng)
    first = next(end for end, op in enumerate(run.disk.log) if op.kind == "moment")
    for end, number in itertools.product(range(first + 2), range(2)):
        check(run, end, some_kept(rng), tmp_path / "cuts" / f"{end} {number}")
        tell("power cut while a spool is made")


def test_without_syncs_batches_are_lost(tmp_path: Path, rng: random.Random) -> None:
    """The tests above find it if the spool does not sync."""
    run = record(tmp_path / "run", rng, synchronizes=False)
    with pytest.raises(AssertionError, match="lost"):
        check_all(run, tmp_path / "cuts", rng, 40)
