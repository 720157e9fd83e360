"""Runs `zstreamd` with small runs and slices, and kills it at a named step.

    python launcher.py --store … --listen …        as zstreamd itself; FAULTS is its environment

``FAULTS`` is a JSON map: ``steps``, a file that gets a line for each step that is taken, and if the
process shall die, ``site`` (such a line), ``nth`` (which time) and ``when`` ("before" or "after"
the step). A step is a statement that may change a database, or a call that changes names
or syncs, told by the functions of zstream that lead to it.
"""

import importlib
import json
import os
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

#: What is to be set, and to what: smaller than anybody would want, so that a hundred events take
#: every path.
SMALL: Final = (
    ("zstream.backends.sqlite:SQLiteBackend.SEAL_ROWS", 60),
    ("zstream.backends.sqlite:SQLiteBackend.SEAL_BYTES", 40_000),
    ("zstream.backends.sqlite:SQLiteBackend.SWEEP_ROWS", 25),
    ("zstream.backends.sqlite:SQLiteBackend.BUDGET", 300),
    ("zstream.backends.sqlite_file:CHECKPOINT_PAGES", 100),
    ("zstream.backends.sqlite_keeper:Keeper.STEP_ENTRIES", 40),
    ("zstream.backends.sqlite_keeper:Keeper.BUSY_ROWS", 1_000_000),
    ("zstream.backends.sqlite_keeper:Keeper.IDLE_S", 0.01),
    ("zstream.backends.sqlite_keeper:Keeper.RETRY_S", 0.01),
    ("zstream.backends.sqlite_merge:FAN", 4),
    ("zstream.backends.sqlite_runs:DENSE", 5),
    ("zstream.backends.sqlite_reindex:_SLICE_ROWS", 200),
    ("zstream.backends.sqlite_copy:_SLICE_ROWS", 200),
)
_QUIET: Final = re.compile(
    r"\s*(SELECT|WITH|EXPLAIN|PRAGMA(?! *(wal_checkpoint|user_version *=|application_id *=)))", re.I
)
_CALLS: Final = ("replace", "rename", "unlink", "remove", "fsync", "fdatasync", "truncate",
                 "ftruncate", "link")  # fmt: skip


class Steps:
    """Notes the steps, and ends the process at the chosen one."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._site, self._when = plan.get("site"), plan.get("when")
        self._left = plan.get("nth", 0)
        self._lock = threading.Lock()
        self._file = os.open(plan["steps"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def take(self, what: str, step: Callable[[], Any]) -> Any:
        site = f"{_path(sys._getframe(2))}: {what}"
        os.write(self._file, f"{site}\n".encode())
        last = False
        if site == self._site:
            with self._lock:
                self._left -= 1
                last = self._left == 0
        if last and self._when == "before":
            _die()
        done = step()
        if last:
            _die()
        return done


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def _path(frame: FrameType | None) -> str:
    """The functions of zstream on the way, innermost last."""
    names: list[str] = []
    while frame is not None and len(names) < 4:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in ("zstream", "zstreamd"):
            names.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}")
        frame = frame.f_back
    return " ".join(reversed(names))


def _short(sql: str) -> str:
    words = re.sub(r"\s+", " ", re.sub(r"'[^']*'|\b\d+\b", "#", sql[:300])).strip()
    return words[:60]


def install(steps: Steps) -> None:
    """Have every connection and every call that changes names counted."""

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *args: Any) -> Any:
            run = super().execute
            if sql.lstrip().upper().startswith("PRAGMA QUERY_ONLY"):
                self.connection.reads_only = True  # type: ignore[attr-defined]
            if _QUIET.match(sql) or self.connection.reads_only:  # type: ignore[attr-defined]
                return run(sql, *args)
            return steps.take(_short(sql), lambda: run(sql, *args))

        def executemany(self, sql: str, *args: Any) -> Any:
            run = super().executemany
            return steps.take(_short(sql), lambda: run(sql, *args))

    class Connection(sqlite3.Connection):
        reads_only = False

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, sql: str, *args: Any) -> Any:
            return self.cursor().execute(sql, *args)

        def executemany(self, sql: str, *args: Any) -> Any:
            return self.cursor().executemany(sql, *args)

        def executescript(self, sql: str) -> Any:
            return steps.take(_short(sql), lambda: super(Connection, self).executescript(sql))

        def close(self) -> None:
            steps.take("close", super().close) if not self.reads_only else super().close()

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **more: connect(*args, **{"factory": Connection, **more})
    for name in _CALLS:
        _count(steps, name)


def _count(steps: Steps, name: str) -> None:
    call = getattr(os, name)

    def counted(*args: Any, **more: Any) -> Any:
        return steps.take(f"os.{name}", lambda: call(*args, **more))

    setattr(os, name, counted)


def small() -> Iterator[tuple[Any, str, int | float]]:
    """What has to be set to have small runs and slices: of what, its name, and the value."""
    for where, value in SMALL:
        module, _, names = where.partition(":")
        target: Any = importlib.import_module(module)
        *outer, name = names.split(".")
        for each in outer:
            target = getattr(target, each)
        assert hasattr(target, name), where
        yield target, name, value


def main() -> None:
    plan = json.loads(os.environ.pop("FAULTS"))
    install(Steps(plan))
    for target, name, value in small():
        setattr(target, name, value)
    from zstreamd import cli

    cli.main()


if __name__ == "__main__":
    main()
