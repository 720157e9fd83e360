"""Clients as processes of their own: what the tests of faults start, stop, and kill.

    python clients.py ROLE JSON

Each writes into a folder, under its name: ``.began`` once it has, ``.count`` how far it is,
``.result`` what it says of itself at its good end, ``.got`` what a follower got (id, p, n and
sometimes the cursor; lines with # are notes). What was written is there after SIGKILL.
"""

import asyncio
import inspect
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TextIO

from traffic import END, make_event

from zstream import Client
from zstream.aio import AsyncClient, AsyncTail
from zstream.endpoints import Endpoints
from zstream.errors import BufferFull, CursorLost, Error, TimedOut, Trimmed, Unavailable
from zstream.tail import TailCore

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


class Blocking:
    """An asynchronous client, or a tail of one, for a thread that waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, of: Any) -> None:
        self._loop, self._of = loop, of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        return (lambda *args, **more: self._call(found, args, more)) if callable(found) else found

    def _call(self, what: Any, args: Any, more: Any) -> Any:
        result = what(*args, **more)
        if inspect.isawaitable(result):
            result = self._loop.run_until_complete(result)
        return Blocking(self._loop, result) if isinstance(result, AsyncTail) else result

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if isinstance(self._of, AsyncClient):
            self._loop.close()


def make_client(told: dict[str, Any], **options: Any) -> Any:
    """The client of a role; ``asynchronous`` says which kind."""
    url = Endpoints(*told["url"]) if isinstance(told["url"], list) else told["url"]
    options = {"timeout": 5.0, **told.get("options", {}), **options}
    if not told.get("asynchronous"):
        return Client(url, **options)
    loop = asyncio.new_event_loop()
    return Blocking(loop, AsyncClient(url, **options))


def produce(told: dict[str, Any]) -> None:
    """Insert ``count`` events of ``p`` from ``first`` on, or until there is a file ``stop``; flush.

    ``pace``: after so many events wait so many seconds. ``poison``: one of so many events is dated
    so far ahead that the daemon refuses it.
    """
    files, pause = Files(told), threading.Event()
    first, every, wait_s = told.get("first", 0), *told.get("pace", (0, 0.0))
    count, stop = told.get("count", sys.maxsize), files.path("stop")
    raised = flushes = n = 0
    poison, refused = told.get("poison", sys.maxsize), []
    client = make_client(told, on_refused=lambda _, error: refused.append(error.count))
    late = time.time() + 60 * 86_400
    files.begin()
    for n in range(count):
        while True:
            try:
                is_poison = n % poison == poison - 1
                client.insert(make_event(told["p"], first + n), date=late if is_poison else None)
                break
            except BufferFull:
                raised += 1
                pause.wait(0.001)
        if n % 50 == 0:
            files.count(n)
            if stop.exists():
                break
        if every and n % every == 0:
            pause.wait(wait_s)
    count = n + 1
    files.count(count)
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
    files.result(stats=stats, flushes=flushes, raised=raised, count=count, refused=sum(refused))


def follow(told: dict[str, Any]) -> None:
    """Follow until the end is told: one ``filter``, or several ``filters`` through one client.

    ``after``: where to begin; without it from now on. ``resume``: note the cursor with each event
    and go on there when started again. ``slow``: wait so many seconds after so many events.
    ``feed``: bytes that may wait in the client. ``fragile``: end well when the store was lost.
    """
    if told.get("feed"):
        bound_feed(told["feed"])
    with make_client(told) as client:
        if "filters" not in told:
            Follower(client, told).run()
            return
        each = [
            Follower(client, {**told, "name": name, "filter": filter})
            for name, filter in told["filters"].items()
        ]
        with ThreadPoolExecutor(len(each)) as pool:
            for done in [pool.submit(one.run) for one in each]:
                done.result()
        Files(told).result()


class Follower:
    """One tail of a client, to its end."""

    def __init__(self, client: Client, told: dict[str, Any]) -> None:
        self._client, self._told, self._files = client, told, Files(told)
        self._resumes = bool(told.get("resume"))
        self._got = 0

    def run(self) -> None:
        """Write down what comes until the end."""
        told, path = self._told, self._files.path("got")
        after = last_cursor(path) if self._resumes else None
        after = told.get("after") if after is None else after
        with path.open("a", 1 if self._resumes else -1) as out:
            tail = patient(lambda: self._client.tail(told["filter"], after=after))
            out.write(f"# from {tail.cursor}\n")
            out.flush()
            self._files.begin()
            ended = None
            while ended is None:
                ended = self._step(tail, out)
        self._files.count(self._got)
        stats = self._client.stats()
        self._files.result(stats=stats, got=self._got, ended=ended, cursor=tail.cursor)

    def _step(self, tail: Any, out: TextIO) -> str | None:
        told = self._told
        try:
            event = tail.get(PATIENCE_S)
        except (CursorLost, Trimmed) as error:
            if not told.get("fragile"):
                raise
            return type(error).__name__
        p, n = event["p"], event["n"]
        if event != make_event(p, n):
            raise AssertionError(f"event {event.id} was changed")
        note = f" {tail.cursor}" if self._resumes else ""
        out.write(f"{event.id} {p} {n}{note}\n")
        self._got += 1
        if self._got % 50 == 0:
            self._files.count(self._got)
        every, wait_s = told.get("slow", (0, 0.0))
        if every and self._got % every == 0:
            threading.Event().wait(wait_s)
        return "the end" if p == END else None


def adopt(told: dict[str, Any]) -> None:
    """Take over all lanes that others left in the spool folder, and flush."""
    files, pause = Files(told), threading.Event()
    folder, until = Path(told["options"]["spool"]), time.monotonic() + PATIENCE_S
    client = make_client(told)
    client.insert(make_event(told["p"], 0))
    client.flush(PATIENCE_S)  # its own lane is there then
    files.begin()
    # A log without its file, left by who was killed while he removed the two, counts as a lane.
    while len(lanes := {each.name.split(".")[0] for each in folder.iterdir()}) > 1:
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
    lines = whole.splitlines()
    # An event's line ends with the cursor behind it, and so does that of the begin.
    return lines[-1].split()[-1] if lines else None


def bound_feed(size: int) -> None:
    """Let so few bytes of publications wait in this process that a slow reader is overrun."""
    TailCore.__init__.__kwdefaults__["backlog_bytes"] = size  # type: ignore[index]


def main() -> None:
    roles = {"produce": produce, "follow": follow, "adopt": adopt}
    roles[sys.argv[1]](json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
