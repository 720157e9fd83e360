"""What the benchmarks share: events, a daemon to measure, a line to print.

Each script asks one question, prints JSON lines, and takes ``--quick`` for a smoke run.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zstream import __version__
from zstream.testing import Server, server

KINDS = ("friend", "watch", "create-repo", "delete-repo")
KEYS = ("kind", "user", "repo")
USERS, REPOS = 100_000, 1_000_000


def arguments(question: str | None, **numbers: int | tuple[int, int]) -> argparse.Namespace:
    """Read the command line.

    Args:
        question: What the script asks, for ``--help``.
        numbers: The script's own options: a default, or that and the one under ``--quick``.
    """
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a second or two")
    parser.add_argument("--store", choices=("sqlite", "memory"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="where filled stores are found and left")
    for name, default in numbers.items():
        usual = default if isinstance(default, int) else default[0]
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, help=f"default {usual:,}")
    options = parser.parse_args()
    for name, default in numbers.items():
        if getattr(options, name) is None:
            both = (default, default) if isinstance(default, int) else default
            setattr(options, name, both[options.quick])
    return options


def events(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Events of 85 bytes packed, with three keys of 4, 100,000 and 1,000,000 values."""
    chance = random.Random(seed)
    return [
        {
            "kind": chance.choice(KINDS),
            "user": chance.randrange(USERS),
            "repo": chance.randrange(REPOS),
            "name": "frist",
            "description": "This is my first repo ever!",
        }
        for _ in range(count)
    ]


@contextmanager
def daemon(store: str, *options: str) -> Iterator[Server]:
    """A daemon of its own.

    Args:
        store: ``sqlite`` or ``memory`` for a new store in a temporary folder, or the URL of one.
        options: More options of ``zstreamd``.
    """
    with tempfile.TemporaryDirectory(prefix="zstream-bench-") as folder:
        new = {"memory": "memory:", "sqlite": f"sqlite:///{Path(folder) / 'bench.db'}"}
        url = new.get(store, store)
        with server(store=url, keys=KEYS, options=options, timeout=120) as running:
            yield running


def timed(ask: Callable[[Any], object], questions: Sequence[Any]) -> list[float]:
    """Ask one after the other; how many seconds each answer took."""
    took = []
    for question in questions:
        began = time.perf_counter()
        ask(question)
        took.append(time.perf_counter() - began)
    return took


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3, 3),
    }


def say(text: str) -> None:
    """Tell a person how far it is, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def command(words: Sequence[str]) -> str:
    """A command line to try a script again, without the folder that this machine gave it."""
    kept = [f"bench/{Path(words[0]).name}", *words[1:]]
    if "--folder" in kept:
        at = kept.index("--folder")
        del kept[at : at + 2]
    return " ".join(["python", *kept])


def report(bench: str, **figures: Any) -> None:
    """Print one result with what is needed to understand it later."""
    line = {
        "bench": bench,
        **figures,
        "command": command(sys.argv),
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(line), flush=True)
