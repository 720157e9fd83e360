"""Filled stores, made once and found again by the scripts that ask them, and what they weigh."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
from common import daemon, events, say
from producer import Messages, Watch, arrays, packed, pushing, spread

from zstream import Client
from zstream.testing import Server

DAY_US = 86_400_000_000
#: How far back the times of a filled store reach, and how late a late event may be.
SPAN_US = 30 * DAY_US
LATE_SHARE, LATE_US = 0.01, DAY_US
#: One event in so many is a watch of the user `bot`, who does nothing else: two dense values of
#: two keys that no event has together.
BOT_EVERY = 40
BOT = "bot"
#: Users who are seen in the first tenth of a store and never again, and how often.
LOST = {"lost": 30, "once": 1}
#: What comes on top, in thousandths: at ten million events a run that is nearly full, whose index
#: is in memory only and is rebuilt at each start.
ON_TOP = 24
ARRAY = 1_000
SETTLE_S = 90.0
SMALL_POOL = 20_000


def dated(pool: int, body_bytes: int, first: int, step: int, late: bool) -> Messages:
    """For `producer.pushing`: arrays of events with times ``step`` apart."""
    if body_bytes:
        padding = os.urandom(body_bytes)
        bodies = [msgpack.packb({**each, "padding": padding}) for each in events(pool)]
    else:
        bodies = packed(pool)
        bot = msgpack.packb({**events(1)[0], "kind": "watch", "user": BOT})
        bodies[::BOT_EVERY] = [bot] * len(bodies[::BOT_EVERY])
    times = spread(first, step, LATE_SHARE if late else 0.0, LATE_US)
    return arrays(bodies, ARRAY, times)


def fill(running: Server, count: int, *, body_bytes: int = 0, late: bool = False) -> float:
    """Fill a new store with events of the last 30 days, in their order but for the late ones.

    Args:
        running: A daemon on the new store.
        count: Events, a multiple of 1,000; with what comes on top they are 2.4 % more.
        body_bytes: What each has more than its 85 bytes.
        late: Whether 1 % of them come up to a day late.

    Returns:
        The seconds that it took until all was committed.
    """
    first, step = time.time_ns() // 1_000 - SPAN_US, SPAN_US // (count + count * ON_TOP // 1_000)
    pool = SMALL_POOL if body_bytes else min(count, 1_000_000)
    given = (pool, body_bytes, first, step, late)
    with pushing(running.endpoints.insert, dated, *given) as producer, Watch(running.url) as watch:
        began, sent = time.perf_counter(), 0
        for share in (count // 10, count - count // 10 + count * ON_TOP // 1_000):
            producer.push(share)
            sent += share
            watch.follow(sent)
            producer.pushed()
            if sent < count:
                sent += insert_lost(running, (first + step * sent) / 1e6)
        return time.perf_counter() - began


def insert_lost(running: Server, date: float) -> int:
    """Insert the users who are never seen again; how many events that are."""
    with Client(running.url) as client:
        for user, often in LOST.items():
            for event in events(often):
                client.insert({**event, "user": user}, date=date)
        client.flush(30)
    return sum(LOST.values())


def settle(pid: int, events: int, is_idle: Callable[[], bool] = lambda: True) -> float:
    """Wait until a daemon has nothing to do any more, a minute and a half at the longest.

    Args:
        pid: The daemon's process; it is idle when it uses no processor for a second, or less
            after few events.
        events: How many it was given.
        is_idle: What else must be true all the while.

    Returns:
        The seconds that it had something to do.
    """
    quiet = min(1.0, max(0.2, events / 500_000))
    began = busy = time.monotonic()
    used = cpu_seconds(pid)
    while (now := time.monotonic()) - busy < quiet and now - began < SETTLE_S:
        time.sleep(0.1)
        before, used = used, cpu_seconds(pid)
        if used - before > 0.01 or not is_idle():
            busy = time.monotonic()
    return busy - began


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, int]:
    """Resident memory of a process now and at its highest, in MB of 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {
        "resident_mb": int(kib["VmRSS"]) * 1024 // 1_000_000,
        "highest_mb": int(kib["VmHWM"]) * 1024 // 1_000_000,
    }


def disk_bytes(store: Path) -> dict[str, int]:
    """The files of a SQLite store, by what their names have more than the store's."""
    found = sorted(store.parent.glob(store.name + "*"))
    return {each.name[len(store.name) :] or "rows": each.stat().st_size for each in found}


def name_of(count: int, body_bytes: int, late: bool) -> str:
    """The file name of a filled store."""
    return f"filled-{count}{f'-{body_bytes}' if body_bytes else ''}{'-late' if late else ''}.db"


@contextmanager
def filled(
    folder: Path | None, count: int, *, body_bytes: int = 0, late: bool = False
) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A daemon on a filled store: one that an earlier script left in ``folder``, or a new one.

    Yields:
        The daemon, and what was measured when the store was filled.
    """
    with tempfile.TemporaryDirectory(prefix="zstream-bench-") as temporary:
        place = (folder or Path(temporary)) / name_of(count, body_bytes, late)
        place.parent.mkdir(parents=True, exist_ok=True)
        note = place.with_suffix(".json")
        if not note.exists():
            say(f"filling {place.name} with {count:,} events …")
            make(place, note, count, body_bytes, late)
        read_once(place)
        with daemon(f"sqlite:///{place}") as running:
            yield running, json.loads(note.read_text())


def read_once(place: Path) -> None:
    """Read a store's files, so that what is asked of it is not a question to the disk.

    Some virtual machines take the pages of files back within minutes.
    """
    for each in place.parent.glob(place.name + "*"):
        with each.open("rb") as file:
            while file.read(1 << 24):
                pass


def make(place: Path, note: Path, count: int, body_bytes: int, late: bool) -> None:
    """Fill a store, measure what it weighs, and leave a note that it is complete."""
    for left in place.parent.glob(place.name + "*"):
        left.unlink()
    with daemon(f"sqlite:///{place}") as running:
        took = fill(running, count, body_bytes=body_bytes, late=late)
        busy = memory(running.pid)
        settled = settle(running.pid, count)
        with Watch(running.url) as watch:
            stored = watch.look().head
        size = disk_bytes(place)
        figures = {
            "events": stored,
            "body_bytes": body_bytes + 85,
            "late": late,
            "filled_per_s": round(stored / took),
            **busy,
            "settled_mb": memory(running.pid)["resident_mb"],
            "settled_after_s": round(settled, 1),
            "bytes_an_event": round(sum(size.values()) / stored, 1),
            "files": size,
        }
    note.write_text(json.dumps(figures))
