"""Random lives of a follower: a daemon that dies and forgets, and a way that loses and reorders.

The examples of the rules are in test_tail.py; here is all of them at once, against a model of the
daemon that knows nothing of the tail. What must hold is what a user is promised: each event once
and in order, a cursor that goes on there, and an error only where the store has lost its place.
"""

import random
from collections import deque
from typing import Any, NamedTuple

import pytest

from zstream import wire
from zstream.backlog import BACKLOG_PAGES
from zstream.cursor import Cursor, parse_cursor
from zstream.errors import CursorLost, Error, Trimmed
from zstream.tail import State, TailCore
from zstream.wire import BEAT, BYE, DATA, HELLO, Header

from .lives import lead

EMPTY = wire.pack({})
#: Steps of a life, and rounds in which all must be read once nothing is lost any more.
STEPS, ROUNDS = 250, 3_000
#: Between the arrivals of two events.
TICK = 10


class Row(NamedTuple):
    content: int
    matches: bool


class Store:
    """Rows by id, from 1, and how far each run that it knows came."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.runs: dict[int, int] = {}
        self.run = self.floor = 0

    @property
    def head(self) -> int:
        return len(self.rows)

    def copy(self) -> "Store":
        other = Store()
        other.rows, other.runs, other.floor = list(self.rows), dict(self.runs), self.floor
        other.runs[self.run] = self.head
        return other

    def open(self, run: int) -> None:
        if self.run:
            self.runs[self.run] = self.head
        self.run = run

    def matching(self, after: int) -> list[tuple[int, int]]:
        rows = enumerate(self.rows[after:], after + 1)
        return [(id, row.content) for id, row in rows if row.matches]

    def replay(self, fields: dict[str, Any], limit: int) -> tuple[int, int, int, bytes]:
        """A page of so many events: run, upto, head, and the events, packed."""
        if "since" in fields:
            after = max(self.floor, -(-fields["since"] // TICK) - 1)
        else:
            after, run = fields["after"], fields.get("run", self.run)
            if after > (self.head if run == self.run else self.runs.get(run, -1)):
                raise CursorLost("another store, or it has lost this")
            if after < self.floor and (after or "run" in fields):
                raise Trimmed("older than what is kept")
            after = max(after, self.floor)
        found = self.matching(after)
        upto = found[limit - 1][0] if len(found) >= limit else self.head
        return self.run, upto, self.head, pack(found[:limit])


def pack(events: list[tuple[int, int]]) -> bytes:
    return wire.pack([[id, id * TICK, {"x": content}] for id, content in events])


class Request:
    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.reply: tuple[int, int, int, bytes] | Error | None = None


class Life:
    """One follower's.

    Args:
        seed: Of all that happens.
        is_lossy: Publications and requests get lost and come twice, the daemon is killed.
        is_replaced: Its store is, by an older copy that goes on, and by none; and it is trimmed.
    """

    def __init__(self, seed: int, *, is_lossy: bool, is_replaced: bool) -> None:
        self.random = random.Random(f"{seed} {is_lossy} {is_replaced}")
        self.is_lossy, self.is_replaced = is_lossy, is_replaced
        self.is_steady = not is_lossy
        self.contents = 0
        self.store, self.is_up = Store(), True
        self.store.open(self.new_run())
        self.last: int | None = None  # of the topic's chain; None while nobody follows it
        self.way: deque[tuple[Header, bytes]] = deque()
        self.late: deque[tuple[Header, bytes]] = deque()  # of daemons that are gone
        for _ in range(self.random.choice((0, 0, 3, 30))):
            self.commit()
        self.backup = self.store.copy()
        self.past: list[list[tuple[int, int]]] = []  # what stores had that were replaced
        self.highest_floor = 0
        self.begin()

    def new_run(self) -> int:
        return self.random.getrandbits(50)

    def begin(self) -> None:
        choose, head = self.random.choice, self.store.head
        after: int | Cursor | None = None
        since = None
        self.start: int | None = self.random.randint(0, head)
        kind = choose(("now", "now", "oldest", "after", "cursor", "since"))
        if kind == "now":
            self.start = None
        elif kind == "oldest":
            after = self.start = 0
        elif kind == "after":
            after = self.start
        elif kind == "cursor":
            after = Cursor(self.store.run, {0: self.start})
        else:
            since = self.start * TICK + choose((1, TICK))  # both are behind it
        #: Whether it begins with whatever is there.
        self.is_open = since is not None or after == 0
        # From so little that two events are too much to what is never filled.
        self.limit = choose((300, 2_000, 1 << 20)) if self.is_lossy else 1 << 20
        self.core = TailCore(after=after, since=since, backlog_bytes=self.limit)
        self.request: Request | None = None
        self.pages: deque[int] = deque()  # the first new event of those that were brought
        self.unread = iter(())
        self.taken = 0  # the last id of what the reader has at hand
        self.got: list[tuple[int, int]] = []
        self.error: Error | None = None
        self.hole: int | None = None  # the run of what came live and did not follow
        self.was_live = False

    # ------------------------------------------------------------ the daemon

    def say(self, kind: int, events: list[tuple[int, int]], id: int) -> None:
        prev = id if self.last is None else self.last
        header = Header(kind, 0, self.store.run, prev, id, 0)
        self.way.append((header, pack(events) if kind == DATA else EMPTY))
        self.last = id

    def hello(self) -> None:
        if self.is_up:
            self.say(HELLO, [], self.store.head)

    def commit(self) -> None:
        before = self.store.head
        for _ in range(self.random.choice((1, 1, 3, 10))):
            self.contents += 1
            self.store.rows.append(Row(self.contents, self.random.random() < 0.5))
        events = self.store.matching(before)
        if self.last is None or not events:
            return
        while len(events) > 3:
            self.say(DATA, events[:3], events[2][0])
            events = events[3:]
        self.say(DATA, events, self.store.head)

    def kill(self) -> None:
        """It ends; what it said last is lost, or comes when the next one speaks already."""
        if self.random.random() < 0.3 and self.last is not None:
            self.say(BYE, [], self.store.head)
        else:
            for _ in range(self.random.randint(0, len(self.way))):
                self.way.pop()
        if self.random.random() < 0.3:
            self.late, self.way = self.way, deque()
        if self.random.random() < 0.3:
            for _ in range(self.random.randint(0, 3)):  # what it committed and never said
                self.last = None
                self.commit()
        if self.request is not None and self.request.reply is None and self.random.random() < 0.5:
            self.request = None
        self.is_up = False

    def replace(self) -> None:
        self.past.append(self.store.matching(0))
        self.store = Store() if self.random.random() < 0.2 else self.backup.copy()

    def restart(self) -> None:
        if not self.is_up:
            self.store.open(self.new_run())
            self.is_up, self.last = True, None
            self.hello()

    def trim(self) -> None:
        self.store.floor = max(self.store.floor, self.random.randint(0, self.store.head))
        self.highest_floor = max(self.highest_floor, self.store.floor)

    def serve(self) -> None:
        if self.is_up and self.request is not None and self.request.reply is None:
            limit = self.random.choice((1, 2, 5, 1_000))
            try:
                self.request.reply = self.store.replay(self.request.fields, limit)
            except (CursorLost, Trimmed) as error:
                self.request.reply = error

    # ------------------------------------------------------------ the receiver

    def receive(self, count: int, way: deque[tuple[Header, bytes]]) -> None:
        for _ in range(min(count, len(way))):
            header, body = way.popleft()
            if self.is_lossy and self.random.random() < 0.08:
                continue
            twice = self.is_lossy and self.random.random() < 0.05
            for _ in range(1 + twice):
                is_live = self.core.state is State.LIVE
                if self.start is None and header.type == HELLO:
                    self.start = header.id
                self.core.publication(header, body)
                if is_live and self.core.state is State.REPLAYING:
                    self.hole = header.run
                self.go_on()

    def go_on(self) -> None:
        """Ask as `zstream.following` does."""
        core = self.core
        if self.request is not None or core.error is not None:
            return
        if core.state is State.REPLAYING:
            core.resume()
        if core.wants_page:
            fields = core.ask()
            # The first page of what was missed while live says so, and only that one.
            assert fields.get("missed", False) == (self.hole == fields.get("run", -1))
            assert not (self.is_steady and self.was_live), "nothing was missed"
            self.request = Request(fields)
        self.was_live = self.was_live or core.state is State.LIVE

    def reply(self) -> None:
        request = self.request
        if request is None or request.reply is None:
            return
        self.request = None
        if self.is_lossy and self.random.random() < 0.05:
            pass  # it came too late
        elif isinstance(request.reply, Error):
            self.core.fail(request.reply)
        else:
            self.core.page(*request.reply)
            self.hole = None
            after = request.fields.get("after", 0)
            events = [each[0] for each in wire.unpack(request.reply[3]) if each[0] > after]
            self.pages.extend(events[:1])
            while self.pages and self.pages[0] <= self.taken:
                self.pages.popleft()
            assert len(self.pages) <= BACKLOG_PAGES + 1, "more pages wait than should"
        self.go_on()

    # ------------------------------------------------------------ the reader

    def read(self, count: int) -> None:
        for _ in range(count):
            if self.error is not None:
                return
            event = next(self.unread, None)
            if event is None:
                try:
                    events = self.core.take()
                except Error as error:
                    self.error = error
                    return
                self.go_on()
                if events is None:
                    return
                self.unread = events
                if self.random.random() < 0.1:
                    return  # and nothing of it is read yet
                event = next(events)
            self.taken = event.id
            self.got.append((event.id, event["x"]))
            assert parse_cursor(self.core.cursor).ids[0] >= event.id

    def resume(self) -> None:
        """Another tail goes on behind what was read."""
        if not self.core.has_started or self.error is not None:
            return
        cursor = parse_cursor(self.core.cursor)
        self.core = TailCore(after=cursor, backlog_bytes=self.limit)
        self.unread, self.request, self.hole, self.was_live = iter(()), None, None, False
        self.pages.clear()
        self.hello()

    # ------------------------------------------------------------ the life

    def lead(self) -> None:
        if self.random.random() < 0.7:
            self.hello()
        for _ in range(STEPS):
            self.step()
        self.is_lossy = False
        self.restart()
        for number in range(ROUNDS):
            if number % 100 == 0:  # seldom: it goes on by itself
                self.hello()
            self.settle()
            if self.error is not None or self.is_done():
                break
        else:
            raise AssertionError(f"it stalls, {self.core.state}")
        self.check()

    def settle(self) -> None:
        self.receive(1_000, self.way)
        self.serve()
        self.reply()
        self.read(1_000)

    def is_done(self) -> bool:
        if self.core.state is not State.LIVE or self.request is not None or self.way:
            return False
        cursor = parse_cursor(self.core.cursor)
        return (cursor.run, cursor.ids[0]) == (self.store.run, self.store.head)

    def step(self) -> None:
        chance, rand = self.random.random(), self.random.randint
        if chance < 0.25 and self.is_up:
            for _ in range(self.random.choice((1, 1, 1, 10))):
                self.commit()
        elif chance < 0.45:
            self.receive(rand(0, 8), self.way)
        elif chance < 0.5:
            self.receive(rand(0, 3), self.late)
        elif chance < 0.6:
            self.serve()
        elif chance < 0.7:
            self.reply()
        elif chance < 0.8:
            self.read(rand(0, 20))
        elif chance < 0.83:
            self.hello()
        elif chance < 0.86 and self.is_up and self.last is not None:
            self.say(BEAT, [], self.store.head)
        elif chance < 0.87:
            self.resume()
        elif self.is_lossy:
            self.disaster(chance)

    def disaster(self, chance: float) -> None:
        if chance < 0.89 and self.is_up:
            self.kill()
        elif chance < 0.895 and self.is_up and self.is_replaced:
            self.kill()
            self.replace()
        elif chance < 0.9 and self.is_up:
            self.backup = self.store.copy()
        elif chance < 0.901 and self.is_replaced:
            self.trim()
        elif chance > 0.93:
            self.restart()

    def check(self) -> None:
        if self.error is None:
            assert self.is_exact(self.store.matching(0), self.got)
            return
        assert self.is_replaced, self.error
        if isinstance(self.error, CursorLost):
            assert self.past, "no store was replaced"
        else:
            assert isinstance(self.error, Trimmed), self.error
            assert self.highest_floor
        lives = [*self.past, self.store.matching(0)]
        assert any(self.is_exact(each, self.got, may_end=True) for each in lives)

    def is_exact(
        self, events: list[tuple[int, int]], got: list[tuple[int, int]], *, may_end: bool = False
    ) -> bool:
        assert self.start is not None
        start = self.start
        if self.is_open and got:
            start = max(start, min(self.highest_floor, got[0][0] - 1))
        wanted = [each for each in events if each[0] > start]
        if not got and self.is_open:
            wanted = [each for each in wanted if each[0] > self.highest_floor]
        return got == (wanted[: len(got)] if may_end else wanted)


@pytest.mark.parametrize(
    ("is_lossy", "is_replaced", "count"),
    [
        pytest.param(False, False, 30, id="steady"),
        pytest.param(True, False, 150, id="lossy"),
        pytest.param(True, True, 150, id="replaced"),
    ],
)
def test_each_event_comes_once_and_in_order(is_lossy: bool, is_replaced: bool, count: int) -> None:
    lead(lambda seed: Life(seed, is_lossy=is_lossy, is_replaced=is_replaced).lead(), count)
