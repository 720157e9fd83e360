"""A daemon whose store goes away, and what is promised while it is away and when it is back."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from zstream import Client
from zstream.errors import Unavailable

from .meanwhile import FLOOD, Asker, Caller, Flood, Inserter, Reader
from .running import Daemon, wait_until
from .traffic import END, FILLER, MARKED, Row, check_store, check_tail, make_event

#: What is promised: until a query is answered, and until all goes on after the return, in seconds.
ANSWER_S: Final = 2.0
RETURN_S: Final = 5.0
#: How much longer it may take on a machine with much else to do.
SLACK_S: Final = 1.5
#: How much larger the daemon may become, in bytes.
GROWTH: Final = 64 << 20
#: The p of events that are inserted one by one with their ids.
SINGLE: Final = 10


class Life:
    """A daemon over a store that goes away, and all that goes on with it.

    Attributes:
        daemon: It.
        asker: Who asks it for pages.
        figures: What was measured, of each outage: how long the slowest answer took of a bare
            socket, of a client, and of what needs no store; how long until something was inserted,
            all was flushed, a query was answered, and a tail had it; how the daemon has grown.
    """

    def __init__(self, folder: Path, store_url: str = "", under: Sequence[str | Path] = ()) -> None:
        self.daemon = daemon = Daemon(folder, store_url=store_url, under=under)
        daemon.start()
        self._pid = daemon.child.pid
        self._producer = Client(daemon.url, on_full="block", buffer_bytes=1 << 18)
        self._other = Client(daemon.url, timeout=20.0)
        self._sure = self._singles = self._marked = 0
        self._reader, self._inserter = Reader(self._other), Inserter(self._producer)
        self.asker, self._caller = Asker(daemon.url, lambda: self._sure), Caller(self._other)
        self._flood: Flood | None = None
        self._filler: Inserter | None = None
        self._outages = 0
        self.figures: list[dict[str, Any]] = []
        self.go_on()

    def go_on(self) -> dict[str, float]:
        """Wait until something new is stored, flushed, found and followed; how long each took."""
        began = time.monotonic()
        took: dict[str, float] = {}

        def note(what: str) -> None:
            took[what] = round(time.monotonic() - began, 2)

        self._sure = self._insert(began)
        note("insert_s")
        self._producer.flush(30)
        note("flush_s")
        # Whoever asks from now on must find what has just been stored.
        now = time.monotonic()
        wait_until(lambda: any(not code for _, _, code in self.asker.since(now)), "an answer", 30)
        note("query_s")
        wait_until(lambda: self._reader.last >= self._sure or self._reader.failure, "the tail", 30)
        note("tail_s")
        self._check_threads()
        return took

    def _insert(self, began: float) -> int:
        number, self._singles = self._singles, self._singles + 1
        while True:
            assert time.monotonic() - began < 30, self.daemon.child.said()
            with suppress(Unavailable):
                return self._other.insert(make_event(SINGLE, number), wait=True)
            threading.Event().wait(0.02)

    def _check_threads(self) -> None:
        for each in (self._reader, self._inserter, self.asker, self._caller):
            assert each.failure is None, each.failure

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
        self, what: str, *, reads: bool = False, hold_s: float = 2.0, flood: bool = False
    ) -> Iterator[Callable[[], None]]:
        """The block breaks the store, calls what it is given to wait, and mends it.

        Args:
            what: What happens to it.
            reads: Whether it can be read all the same.
            hold_s: For how long it is away once the daemon has noticed.
            flood: Whether much more is inserted meanwhile.
        """
        began, before = time.monotonic(), self._resident("VmRSS")
        self._forget_peak()

        def wait() -> None:
            wait_until(lambda: len(self.said("store_away")) > self._outages, f"{what}: noticed", 20)
            if self._filler is not None:
                self._filler.tell_to_stop()
            self._hold(hold_s, flood=flood)

        yield wait
        back = self.go_on()
        self._settle(what)
        assert len(self.said("store_away")) == self._outages + 1, self._told()
        self._outages += 1
        self._measure(what, began, before, back, reads=reads)

    @contextmanager
    def hiccup(self, what: str) -> Iterator[None]:
        """The block does something to the store that is over at once; it may go unnoticed."""
        began, before = time.monotonic(), self._resident("VmRSS")
        self._forget_peak()
        yield
        back = self.go_on()
        self._hold(1.0)  # so that the watch has looked
        self._settle(what)
        away = len(self.said("store_away"))
        assert away <= self._outages + 1, self._told()
        self._outages = away
        self._measure(what, began, before, back, reads=False)

    def _hold(self, hold_s: float, *, flood: bool = False) -> None:
        if flood:
            assert self._flood is None
            self._flood = Flood(self.daemon.url)
        until = time.monotonic() + hold_s
        pressed = self._flood if flood else None
        while time.monotonic() < until or (pressed is not None and pressed.waits < 15):
            threading.Event().wait(0.05)
            assert time.monotonic() < until + 30, "a flood was never pressed back"
        if pressed is not None:
            pressed.tell_to_stop()

    def _settle(self, what: str) -> None:
        def is_settled() -> bool:
            return len(self.said("store_back")) == len(self.said("store_away"))

        wait_until(is_settled, f"{what}: told", 20)

    def _measure(
        self, what: str, began: float, before: int, back: dict[str, float], *, reads: bool
    ) -> None:
        grown = self._resident("VmHWM") - before
        asked, called = self.asker.since(began), self._caller.since(began)
        bad = sum(1 for _, _, code in asked if code)
        needy = [took for _, name, took, _ in called if name in ("items", "count")]
        others = [took for _, name, took, _ in called if name in ("ping", "info")]
        bare = [took for _, took, _ in asked]
        slowest = [round(max(each), 2) for each in (bare, needy, others)]
        self.figures.append({
            "outage": what, **dict(zip(("answer_s", "client_s", "info_s"), slowest, strict=True)),
            **back, "unavailable": bad, "answered": len(asked) - bad,
            "grown_mb": round(grown / 1e6, 1),
        })  # fmt: skip
        assert max(slowest) < ANSWER_S + SLACK_S, self.figures[-1]
        assert max(back.values()) < RETURN_S + SLACK_S, self.figures[-1]
        assert grown < GROWTH, self.figures[-1]
        # On a machine with much else to do a server may be silent for a moment, too. Were queries
        # refused for as long as nothing can be written, nearly all of them would be.
        most = 0 if self.daemon.store_url.startswith("sqlite") else (len(asked) - bad) // 4
        assert not reads or bad <= most, self.figures[-1]
        assert self.daemon.child.is_alive()

    def said(self, event: str) -> list[dict[str, Any]]:
        """What the daemon's log says of such events."""
        lines = self.daemon.child.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if f'"{event}"' in line]
        return [each for each in found if each.get("event") == event]

    def _told(self) -> str:
        found = self.said("store_away") + self.said("store_back")
        return "\n".join(sorted(f"{each['time']} {each['message']}" for each in found))

    def _resident(self, which: str) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.partition(f"{which}:")[2].split()[0]) * 1024

    def _forget_peak(self) -> None:
        with suppress(OSError):  # then it is the peak of this life, which is no smaller
            Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def end(self) -> list[Row]:
        """Stop all, and check that everything is stored, once, and was followed; what is stored."""
        for each in (self._inserter, self.asker, self._caller, self._flood, self._filler):
            if each is not None:
                each.stop()
        self._producer.flush(60)
        stats = self._producer.stats()
        assert (stats["lost"], stats["dropped"]) == (0, 0)
        expected = self._expected()
        wait_until(
            lambda: self.daemon.head() >= sum(map(len, expected.values())), "the flood is stored"
        )
        self.daemon.insert_end()
        expected[END] = range(1)
        self._reader.join()
        self._producer.close()
        self._other.close()
        rows = self.daemon.rows()
        assert rows[0][0] == 1
        check_store(rows, expected)
        check_tail("everything", self._reader.got, rows)
        info = self.daemon.ask("info")
        found = {name: info[name] for name in ("received", "stored", "refused", "down")}
        count = len(rows)
        assert found == {"received": count, "stored": count, "refused": 0, "down": None}
        assert self.daemon.child.pid == self._pid
        assert self.daemon.child.is_alive()
        self.daemon.stop()
        return rows

    def _expected(self) -> dict[int, range]:
        """Of each p the numbers that must be stored."""
        found = {0: range(self._inserter.count), SINGLE: range(self._singles)}
        found[MARKED] = range(self._marked)
        if self._filler is not None:
            found[FILLER] = range(self._filler.count)
        if self._flood is not None:
            found[FLOOD] = range(self._flood.count)
        return found
