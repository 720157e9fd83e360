"""Runs `zstreamd` with a clock that can be set, and ends it around a commit.

    python host.py --store … --listen …        as zstreamd itself; HOST is its environment

``HOST`` is a JSON map: ``clock``, a file with the microseconds that the daemon's wall clock is
ahead of this machine's; ``commit`` and ``when``, if it shall die by SIGKILL: at its how-many-eth
commit, "before", "after" (nobody was told yet), or "told" (all was handed to the sockets' thread).
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def set_clock(path: Path) -> None:
    """Have the wall clock of this process follow the file."""
    from zstream import times

    def now() -> int:
        return time.time_ns() // 1000 + int(path.read_text())

    times.now = now


def die_at(commit: int, when: str) -> None:
    """End this process around its commit of this number."""
    from zstream.backends.sqlite import SQLiteBackend
    from zstreamd.writer import Writer

    left = commit
    append = SQLiteBackend.append
    tell = Writer._tell

    def counted(self: SQLiteBackend, *args: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            _die()
        append(self, *args)
        if left == 0 and when == "after":
            _die()

    def told(self: Writer, *args: Any) -> None:
        tell(self, *args)
        if left <= 0:
            _die()

    SQLiteBackend.append = counted
    if when == "told":
        Writer._tell = told


def main() -> None:
    plan = json.loads(os.environ.pop("HOST"))
    if plan.get("clock"):
        set_clock(Path(plan["clock"]))
    if plan.get("commit"):
        die_at(plan["commit"], plan["when"])
    from zstreamd import cli

    cli.main()


if __name__ == "__main__":
    main()
