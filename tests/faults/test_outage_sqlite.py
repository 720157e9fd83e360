"""The disk of a SQLite store fills up, or becomes read-only, under inserts, queries and a tail."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from .outage import Life
from .readonly import ReadOnly, is_possible

Told = Callable[[str], None]


def end(life: Life, figures: Callable[..., Any], tell: Told) -> None:
    rows = life.end()
    for each in life.figures:
        tell(f"outage: {each['outage']}")
        figures(store="sqlite", **each)
    figures(store="sqlite", events=len(rows))


@pytest.fixture
def read_only(tmp_path: Path, missing: Callable[[str], NoReturn]) -> Iterator[ReadOnly]:
    if not is_possible():
        missing("seccomp(2) of a known machine")
    made = ReadOnly(tmp_path)
    yield made
    made.close()


def test_a_full_disk(
    tmp_path: Path, missing: Callable[[str], NoReturn], figures: Callable[..., Any], tell: Told
) -> None:
    if not hasattr(resource, "prlimit"):
        missing("prlimit(2)")
    life = Life(tmp_path)
    pid = life.daemon.child.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    for what, size in (("nothing can be written", 4096), ("no file can grow", 0)):
        with life.outage(f"full, {what}", reads=True, flood=size == 0) as wait:
            size = size or max(path.stat().st_size for path in tmp_path.glob("store.db*"))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
            wait()
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    end(life, figures, tell)


def test_a_read_only_file_system(
    tmp_path: Path, read_only: ReadOnly, figures: Callable[..., Any], tell: Told
) -> None:
    life = Life(tmp_path, under=read_only.under)
    for _ in range(2):
        with life.outage("read-only", reads=True) as wait:
            read_only.is_on = True
            wait()
            assert read_only.refused
            read_only.is_on = False
        read_only.refused = 0
    end(life, figures, tell)
