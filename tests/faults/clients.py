"""Clients as processes of their own: what the tests of faults start, stop, and kill.

    python clients.py ROLE JSON

Each writes into a folder, under its name: ``.began`` once it has, ``.count`` how far it is,
``.result`` what it says of itself at its good end, ``.got`` what a follower got (id, p, n and
sometimes the cursor; lines with # are notes). What was written is there after SIGKILL.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from traffic import END, make_event

from zstream import Client
from zstream.endpoints import Endpoints
from zstream.errors import BufferFull, CursorLost, Error, TimedOut, Trimmed, Unavailable

#: Seconds until a client gives up.
PATIENCE_S: Final = 100.0


class Files:
    """What one client writes."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._base = os.path.join(told["folder"], told["name"])
        self._count = os.open(f"{self._base}.count", os.O_WRONLY | os.O_CREAT, 0o644)

    def path(self, ending: str) -> Path:
        return Path(f"{self._base}.{ending}")

    def begin(self) -> None:
        self.path("began").touch()

    def count(self, number: int) -> None:
        os.pwrite(self._count, b"%12d" % number, 0)

    def result(self, **found: Any) -> None:
        made = self.path("part")
        made.write_text(json.dumps(found))
        made.rename(self.path("result"))


def make_client(told: dict[str, Any], **options: Any) -> Client:
    url = Endpoints(*told["url"]) if isinstance(told["url"], list) else told["url"]
    return Client(url, **{"timeout": 5.0, **told.get("options", {}), **options})


def produce(told: dict[str, Any]) -> None:
    """Insert ``count`` events of ``p`` from ``first`` on, and flush.

    ``pace``: after so many events wait so many seconds. ``again``: flush after so many events, and
    note how long it took, going on whatever it says.
    """
    files, pause = Files(told), threading.Event()
    first, every, wait_s = told.get("first", 0), *told.get("pace", (0, 0.0))
    raised, flushes = 0, 0
    client = make_client(told)
    files.begin()
    for n in range(first, first + told["count"]):
        while True:
            try:
                client.insert(make_event(told["p"], n))
                break
            except BufferFull:
                raised += 1
                pause.wait(0.001)
        if n % 50 == 0:
            files.count(n)
        if every and n % every == 0:
            pause.wait(wait_s)
    files.count(first + told["count"])
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            flushes += 1
            client.flush(max(1.0, until - time.monotonic()))
            break
        except Error as error:
            if time.monotonic() > until:
                raise
            print(f"flush {flushes}: {error!r}", flush=True)
    stats = client.stats()
    client.close()
    files.result(stats=stats, flushes=flushes, raised=raised)


def follow(told: dict[str, Any]) -> None:
    """Follow ``filter`` until the end is told.

    ``after``: where to begin; without it from now on. ``resume``: note the cursor with each event
    and go on there when started again. ``slow``: wait so many seconds after so many events.
    ``feed``: bytes that may wait in the client. ``fragile``: end well when the store was lost.
    """
    files, pause = Files(told), threading.Event()
    if told.get("feed"):
        bound_feed(told["feed"])
    every, wait_s = told.get("slow", (0, 0.0))
    path = files.path("got")
    after = last_cursor(path) if told.get("resume") else None
    after = told.get("after") if after is None else after
    with path.open("a", 1 if told.get("resume") else -1) as out, make_client(told) as client:
        tail = patient(lambda: client.tail(told["filter"], after=after))
        out.write(f"# from {tail.cursor}\n")
        out.flush()
        files.begin()
        got, ended = 0, None
        while ended is None:
            try:
                event = tail.get(PATIENCE_S)
            except (CursorLost, Trimmed) as error:
                if not told.get("fragile"):
                    raise
                out.write(f"# {type(error).__name__}\n")
                ended = type(error).__name__
                break
            p, n = event["p"], event["n"]
            if event != make_event(p, n):
                raise AssertionError(f"event {event.id} was changed")
            note = f" {tail.cursor}" if told.get("resume") else ""
            out.write(f"{event.id} {p} {n}{note}\n")
            got += 1
            if got % 50 == 0:
                files.count(got)
            if every and got % every == 0:
                pause.wait(wait_s)
            if p == END and n == told.get("end", 0):
                ended = "the end"
        files.count(got)
        stats = client.stats()
        cursor = tail.cursor
    files.result(stats=stats, got=got, ended=ended, cursor=cursor)


def adopt(told: dict[str, Any]) -> None:
    """Take over all lanes that others left in the spool folder, and flush."""
    files, pause = Files(told), threading.Event()
    folder, until = Path(told["options"]["spool"]), time.monotonic() + PATIENCE_S
    client = make_client(told)
    client.insert(make_event(told["p"], 0))
    files.begin()
    while len(lanes := list(folder.glob("lane-*.db"))) > 1:
        if time.monotonic() > until:
            raise AssertionError(f"these were not adopted: {lanes}; {client.stats()}")
        pause.wait(0.02)
    client.flush(PATIENCE_S)
    stats = client.stats()
    client.close()
    files.result(stats=stats, left=sorted(each.name for each in folder.iterdir()))


def patient(make: Any) -> Any:
    """Try again while the daemon is away."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return make()
        except (Unavailable, TimedOut):
            if time.monotonic() > until:
                raise


def last_cursor(path: Path) -> str | None:
    """The cursor in the last whole line of a killed follower; what is behind it is cut off."""
    if not path.exists():
        return None
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    os.truncate(path, len(whole))
    lines = [line for line in whole.splitlines() if line[0] != "#"]
    return lines[-1].split()[3] if lines else None


def bound_feed(size: int) -> None:
    """Let so few bytes of publications wait in this process that a slow reader is overrun."""
    import zstream.follower as module

    module.Feed.__init__.__defaults__ = (size,)


def main() -> None:
    roles = {"produce": produce, "follow": follow, "adopt": adopt}
    roles[sys.argv[1]](json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
