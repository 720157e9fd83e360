"""Runs every benchmark, one after the other, and renders ``docs/benchmarks.md`` from the results.

A script that fails or takes too long does not stop the others. ``--quick`` is a smoke test: small
sizes, nothing is kept. ``--only insert,flat`` runs these again and keeps the others' results.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import render

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
#: Seconds that a script may take, and how long it may clean up then.
LIMIT_S, QUICK_LIMIT_S, CLEAN_UP_S = 420.0, 60.0, 30.0


class Stage(NamedTuple):
    """A script to run.

    Attributes:
        name: Of its file of results.
        script: Its file name without ``.py``.
        options: More of its command line.
        stored: Whether it asks a filled store, and is given the folder that holds it.
        quick: Whether the smoke test runs it.
    """

    name: str
    script: str
    options: tuple[str, ...] = ()
    stored: bool = False
    quick: bool = True


#: In this order: `busy` lets the filled store grow and comes behind the others that ask it.
STAGES = (
    Stage("insert", "insert"),
    Stage("clients", "clients"),
    Stage("behind_postgres", "behind_postgres"),
    Stage("redis_store", "redis_store"),
    Stage("flat", "flat"),
    Stage("steps", "steps"),
    Stage("resend", "resend"),
    Stage("tail", "tail"),
    Stage("live", "live"),
    Stage("replay", "replay"),
    Stage("heal", "heal"),
    Stage("followers", "followers"),
    Stage("aio", "aio"),
    Stage("peers", "peers"),
    Stage("fill", "fill", stored=True),
    Stage("start", "start", stored=True),
    Stage("walk", "walk", stored=True),
    Stage("fill-late", "fill", ("--late", "1"), stored=True, quick=False),
    Stage("items", "items", stored=True),
    Stage("feed", "feed", stored=True),
    Stage("busy", "busy", stored=True),
    Stage("fill-3kb", "fill", ("--body", "3000", "--events", "1000000"), quick=False),
)


def run(stage: Stage, folder: Path, quick: bool) -> tuple[list[str], str | None]:
    """Run a script.

    Returns:
        The lines that it printed, and why it failed, or None.
    """
    command = [sys.executable, str(HERE / f"{stage.script}.py"), *stage.options]
    command += ["--folder", str(folder)] if stage.stored else []
    command += ["--quick"] if quick else []
    with tempfile.TemporaryFile("w+") as lines:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=lines, stderr=subprocess.PIPE, text=True,
            start_new_session=True, cwd=HERE.parent,
        )  # fmt: skip
        said: deque[str] = deque(maxlen=5)
        reader = threading.Thread(target=pass_on, args=(process, said))
        reader.start()
        failure = finish(process, QUICK_LIMIT_S if quick else LIMIT_S)
        reader.join(5)
        lines.seek(0)
        printed = [line for line in lines.read().splitlines() if line.startswith("{")]
    return printed, f"{failure}: {said[-1].strip()[:300] if said else ''}" if failure else None


def pass_on(process: "subprocess.Popen[str]", said: deque[str]) -> None:
    """Show what a script says on stderr, and keep the last of it."""
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        said.append(line)


def finish(process: "subprocess.Popen[str]", limit: float) -> str | None:
    """Wait for a script's end, but not for longer than so many seconds; why it failed, or None."""
    try:
        code = process.wait(limit)
        return f"exit code {code}" if code else None
    except subprocess.TimeoutExpired:
        end(process)
        return f"it took more than {limit:.0f} s"
    except KeyboardInterrupt:
        end(process)
        raise


def end(process: "subprocess.Popen[str]") -> None:
    """Let a script end its servers and itself, and kill it if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(CLEAN_UP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count() or 0,
        "processor": processor,
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
    }


def keep(results: Path, name: str, lines: list[str], failure: str | None) -> None:
    """Write what a stage printed, and with it why it failed."""
    if failure:
        lines = [*lines, json.dumps({"bench": name, "failed": failure})]
    (results / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test, nothing is kept")
    parser.add_argument("--only", help="stages, separated by commas")
    parser.add_argument("--folder", type=Path, help="where filled stores are found and left")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [each.name for each in STAGES]
    if unknown := set(names) - {each.name for each in STAGES}:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="zstream-bench-") as temporary:
        results = Path(temporary) / "results" if options.quick else RESULTS
        results.mkdir(exist_ok=True)
        (results / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
        page = Path(shutil.copy(render.PAGE, results)) if options.quick else render.PAGE
        folder = options.folder or Path(temporary) / "stores"
        failed = []
        for stage in STAGES:
            if stage.name not in names or (options.quick and not stage.quick):
                continue
            began = time.monotonic()
            print(f"# {stage.name} …", file=sys.stderr, flush=True)
            lines, failure = run(stage, folder, options.quick)
            print(*lines, sep="\n", flush=True)
            keep(results, stage.name, lines, failure)
            end = f"# {stage.name}: {failure or 'done'} after {time.monotonic() - began:.0f} s"
            print(end, file=sys.stderr, flush=True)
            failed += [stage.name] if failure else []
            render.render(results, page)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
