"""What the benchmarks share: a daemon to measure, events to insert, a line to print.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zstream import __version__
from zstream.testing import Server, server

KINDS = ("friend", "watch", "create-repo", "delete-repo")
KEYS = ("kind", "user", "repo")


def arguments(question: str, **options: int) -> argparse.Namespace:
    """Read the command line: ``--quick``, ``--store`` and the script's own numbers."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a second or two")
    parser.add_argument("--store", choices=("sqlite", "memory"), default="sqlite")
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    return parser.parse_args()


def events(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Events of 85 bytes packed, with three keys of 4, 100,000 and 1,000,000 values."""
    chance = random.Random(seed)
    return [
        {
            "kind": chance.choice(KINDS),
            "user": chance.randrange(100_000),
            "repo": chance.randrange(1_000_000),
            "name": "frist",
            "description": "This is my first repo ever!",
        }
        for _ in range(count)
    ]


@contextmanager
def daemon(store: str) -> Iterator[Server]:
    """A daemon of its own on a new store, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="zstream-bench-") as folder:
        url = "memory:" if store == "memory" else f"sqlite:///{Path(folder) / 'bench.db'}"
        with server(store=url, keys=KEYS) as running:
            yield running


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3, 3),
    }


def report(bench: str, **figures: Any) -> None:
    """Print one result with what is needed to understand it later."""
    line = {
        "bench": bench,
        **figures,
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(line), flush=True)
