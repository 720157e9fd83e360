"""What goes on while a store goes away: inserts, queries and a tail, each of which is checked."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import zmq

from zstream import Client
from zstream.errors import Error, TimedOut, Unavailable

from .running import Daemon, wait_until
from .traffic import END, FILLER, MARKED, Row, check_store, check_tail, make_event

#: What is promised: until a query is answered, and until all goes on after the return, in seconds.
ANSWER_S: Final = 2.0
RETURN_S: Final = 5.0
#: How much longer it may take on a machine with much else to do.
SLACK_S: Final = 2.0
#: How much larger the daemon may become, in bytes.
GROWTH: Final = 64 << 20
#: The p of events that are inserted one by one with their ids, and of a flood without numbers.
SINGLE: Final = 10
FLOOD: Final = 11


class Asker:
    """A thread that asks for pages, one after the other, over a bare socket."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: When each was asked, how long its answer took, and its code, "" if it was good.
        self.asked: list[tuple[float, float, str]] = []
        self.failure: str | None = None
        self._thread.start()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(self._url)
            number = 0
            while not self._stopping.wait(0.02):
                number += 1
                if (failure := self._ask(socket, number)) is not None:
                    self.failure = failure
                    return

    def _ask(self, socket: "zmq.Socket[bytes]", number: int) -> str | None:
        ask: dict[str, Any] = {"op": "items", "filter": {"kind": "watch"}, "limit": 20}
        if number % 2:
            ask = {"op": "replay", "filter": {}, "after": 0, "limit": 5}
        began = time.monotonic()
        socket.send_multipart([b"", msgpack.packb({**ask, "id": number})])
        if not socket.poll(30_000):
            return f"no answer to {ask}"
        reply = msgpack.unpackb(socket.recv_multipart()[1])
        took = time.monotonic() - began
        if reply["ok"]:
            for _, _, event in reply["events"]:
                if event != make_event(event["p"], event["n"]):
                    return f"a changed event: {event}"
        elif reply["error"]["code"] != "unavailable" or not reply["error"].get("retry_ms"):
            return f"an odd answer: {reply}"
        self.asked.append((began, took, "" if reply["ok"] else reply["error"]["code"]))
        return None

    def since(self, began: float) -> list[tuple[float, float, str]]:
        """What was asked since then."""
        return [each for each in self.asked.copy() if each[0] >= began]

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.failure is None, self.failure


class Inserter:
    """A thread that inserts numbered events, a few hundred a second; it waits when it must."""

    def __init__(self, client: Client, p: int = 0) -> None:
        self._client, self._p = client, p
        self._stopping = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.003):
            self._client.insert(make_event(self._p, self.count))
            self.count += 1

    def tell_to_stop(self) -> None:
        """Stop, once what is under way is taken."""
        self._stopping.set()

    def stop(self) -> None:
        self.tell_to_stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


class Reader:
    """A thread that follows everything, from the first event on, until the one that ends it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.got: list[Row] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._client.tail(after=0) as tail:
                for event in tail:
                    assert event == make_event(event["p"], event["n"])
                    self.got.append((event.id, event["p"], event["n"]))
                    if event["p"] == END:
                        return
        except Error as error:
            self.failure = error

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), f"the tail stands at {self.got[-1:]}"
        assert self.failure is None, self.failure


class Flood:
    """A thread that throws events at the daemon as fast as it can, with a bare socket."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}-insert"
        self._stopping = threading.Event()
        self.count, self.waits = 0, 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.sndtimeo, socket.sndhwm = 100, 100
            socket.connect(self._url)
            while not self._stopping.is_set():
                some = range(self.count, self.count + 100)
                try:
                    socket.send(msgpack.packb([make_event(FLOOD, n) for n in some]))
                except zmq.Again:
                    self.waits += 1
                    continue
                self.count += 100

    def stop(self) -> None:
        """Stop; what was taken is delivered when the daemon reads again."""
        self._stopping.set()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


class Life:
    """A daemon over a store that goes away, and all that goes on with it.

    Attributes:
        daemon: It.
        figures: What was measured: of each outage how long the slowest answer took, and how long
            until all went on.
    """

    def __init__(self, folder: Path, store_url: str = "", under: Sequence[str | Path] = ()) -> None:
        self.daemon = daemon = Daemon(folder, store_url=store_url, under=under)
        daemon.start()
        self._pid = daemon.child.pid
        options: dict[str, Any] = {"on_full": "block", "buffer_bytes": 1 << 18}
        self._producer, self._other = (
            Client(daemon.url, **options),
            Client(daemon.url, timeout=20.0),
        )
        self._reader = Reader(self._other)
        self.asker, self._inserter = Asker(daemon.url), Inserter(self._producer)
        self._floods: list[Flood] = []
        self._filler: Inserter | None = None
        self._singles = self._marked = 0
        self._outages = 0
        self.figures: list[dict[str, Any]] = []
        self.go_on()

    def go_on(self) -> float:
        """Wait until something new is confirmed, queried and followed; how long it took."""
        began = time.monotonic()
        number, self._singles = self._singles, self._singles + 1
        sure = False
        while not sure:
            try:
                self._other.insert(make_event(SINGLE, number), wait=True)
                sure = True
            except Unavailable:
                threading.Event().wait(0.02)
            except TimedOut:  # it may be stored: another one will do
                pytest.fail("an insert was not answered")
            assert time.monotonic() - began < 30, self.daemon.child.said()
        wait_until(lambda: any(not code for _, _, code in self.asker.since(began)), "an answer", 30)
        took = time.monotonic() - began
        count = self._inserter.count
        wait_until(lambda: (0, count) in {row[1:] for row in self._reader.got[-20_000:]} or
                   self._inserter.count == count, "the tail goes on", 30)  # fmt: skip
        return took

    def marked(self) -> tuple[bytes, Callable[[], int]]:
        """Bytes that only the next event of its kind has; and what inserts it, for its id."""
        number, self._marked = self._marked, self._marked + 1
        event = make_event(MARKED, number)
        return event["kind"].encode(), lambda: self._other.insert(event, wait=True)

    def fill(self) -> None:
        """Insert large events from now on, until the store is away."""
        assert self._filler is None
        self._filler = Inserter(self._producer, FILLER)

    @contextmanager
    def outage(
        self, what: str, *, reads: bool = False, hold_s: float = 1.0, flood: bool = False
    ) -> Iterator[Callable[[], None]]:
        """The block breaks the store, calls what it is given to wait, and mends it.

        Args:
            what: What happens to it.
            reads: Whether it can be read all the same.
            hold_s: For how long it is away once the daemon has noticed.
            flood: Whether much more is inserted meanwhile.
        """
        began, before = time.monotonic(), self._resident()
        grown = 0

        def wait() -> None:
            nonlocal grown
            wait_until(lambda: len(self.said("store_away")) > self._outages, f"{what}: noticed", 20)
            if self._filler is not None:
                self._filler.tell_to_stop()
            if flood:
                self._floods.append(Flood(self.daemon.url))
            until = time.monotonic() + hold_s
            while time.monotonic() < until or (flood and self._floods[-1].waits < 20):
                threading.Event().wait(0.05)
                grown = max(grown, self._resident() - before)
                assert time.monotonic() < until + 30, "a flood was never pressed back"
            if flood:
                self._floods[-1].stop()

        yield wait
        back = self.go_on()
        self._outages += 1
        wait_until(lambda: len(self.said("store_back")) == self._outages, f"{what}: told", 20)
        assert len(self.said("store_away")) == self._outages
        asked = self.asker.since(began - 1.0)
        slowest = max(took for _, took, _ in asked)
        bad = sum(1 for _, _, code in asked if code)
        self.figures.append({
            "outage": what, "answer_s": round(slowest, 2), "back_s": round(back, 2),
            "unavailable": bad, "answered": len(asked) - bad, "grown_mb": round(grown / 1e6, 1),
        })  # fmt: skip
        assert slowest < ANSWER_S + SLACK_S, self.figures[-1]
        assert back < RETURN_S + SLACK_S, self.figures[-1]
        assert grown < GROWTH, self.figures[-1]
        assert not (reads and bad), self.figures[-1]

    def said(self, event: str) -> list[dict[str, Any]]:
        """What the daemon's log says of such events."""
        lines = self.daemon.child.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if f'"{event}"' in line]
        return [each for each in found if each.get("event") == event]

    def _resident(self) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def end(self) -> list[Row]:
        """Stop all, and check that everything is stored, once, and was followed; what is stored."""
        self._inserter.stop()
        self.asker.stop()
        for flood in self._floods:
            flood.join()
        if self._filler is not None:
            self._filler.stop()
        self._producer.flush(60)
        stats = self._producer.stats()
        assert (stats["lost"], stats["dropped"]) == (0, 0)
        expected: dict[int, Any] = {
            0: range(self._inserter.count), SINGLE: range(self._singles), END: [0],
        }  # fmt: skip
        if self._filler is not None:
            expected[FILLER] = range(self._filler.count)
        if self._marked:
            expected[MARKED] = range(self._marked)
        wait_until(lambda: self._all_came(), "the flood is stored")
        if self._floods:
            assert len(self._floods) == 1
            expected[FLOOD] = range(self._floods[0].count)
        self.daemon.insert_end()
        self._reader.join()
        self._producer.close()
        self._other.close()
        rows = self.daemon.rows()
        check_store(rows, expected)
        check_tail("everything", self._reader.got, rows)
        assert self.daemon.child.pid == self._pid
        assert self.daemon.child.is_alive()
        self.daemon.stop()
        return rows

    def _all_came(self) -> bool:
        wanted = self._inserter.count + self._singles + self._marked
        wanted += sum(each.count for each in self._floods)
        wanted += self._filler.count if self._filler is not None else 0
        return self.daemon.head() >= wanted
