"""The tail's rules against a store of several lives and a socket that drops and reorders."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from zstream import wire
from zstream.cursor import Cursor, parse_cursor
from zstream.errors import CursorLost, Trimmed
from zstream.tail import BACKLOG_PAGES, State, TailCore
from zstream.wire import BEAT, BYE, DATA, HELLO, Header

EMPTY = wire.pack({})
BLOB = b"x" * 400


class Store:
    """Events by id, of which some match; every opening begins a run."""

    runs_ever = itertools.count(1)

    def __init__(self):
        self.events = []  # (matches, content): the id is the place, from 1
        self.runs = []  # [run, last id]
        self.floor = 0
        self.open()

    @property
    def head(self):
        return len(self.events)

    @property
    def run(self):
        return self.runs[-1][0]

    def open(self):
        self.runs = [*self.runs, [next(self.runs_ever), self.head]]

    def copy(self):
        other = object.__new__(Store)
        other.events, other.floor = list(self.events), self.floor
        other.runs = [list(each) for each in self.runs]
        return other

    def commit(self, matches, contents):
        self.events += [(each, next(contents)) for each in matches]
        self.runs[-1][1] = self.head

    def matching(self, after, upto):
        return [
            [id, id * 10, {"n": self.events[id - 1][1], "blob": BLOB}]
            for id in range(after + 1, upto + 1)
            if self.events[id - 1][0]
        ]

    def replay(self, fields, work):
        """A page, bounded by so many ids: its run, upto, head and packed events."""
        if "since" in fields:
            after = min(self.head, max(self.floor, -(-fields["since"] // 10) - 1))
        else:
            after, run = fields["after"], fields.get("run", self.run)
            if after > dict(map(tuple, self.runs)).get(run, -1):
                raise CursorLost("another life")
            if after < self.floor and (after or "run" in fields):
                raise Trimmed("older than what is kept")
            after = max(after, self.floor)
        upto = min(self.head, after + work)
        return self.run, upto, self.head, wire.pack(self.matching(after, upto))


matches = st.sampled_from([[True], [False], [True] * 2, [False, True, False], [True] * 9])
seldom = st.sampled_from([False] * 7 + [True])


class Tailing(RuleBasedStateMachine):
    """A store that is published from, a lossy way, a receiver, and a reader who may be slow.

    What was acknowledged may be lost only by a restore, and then the tail must end with
    CursorLost unless all that it had seen is still there.
    """

    @initialize(start=st.sampled_from(["now", "after", "oldest", "cursor", "since"]))
    def begin(self, start):
        self.start, self.contents = start, itertools.count(1)
        self.store = Store()
        self.store.commit([True, False, True, True], self.contents)
        self.backup = self.store.copy()
        self.last = None  # the topic's chain, None while nobody follows
        self.way = []  # publications not yet received
        self.got = []  # (id, content)
        self.seen = []  # as the store had them when they were handed out
        self.first = None  # the id that the tail begins behind
        self.reply = None  # a page under way
        self.error = None
        self.highest_floor, self.was_replaced = 0, False
        self.unread = iter(())
        after = since = None
        if start == "after":
            after = self.first = 1
        elif start == "oldest":
            after = self.first = 0
        elif start == "cursor":
            after, self.first = Cursor(self.store.run, {0: 2}), 2
        elif start == "since":
            since = 25  # that is behind 2
        # So little that a few events of these are too much.
        self.core = TailCore(after=after, since=since, backlog_bytes=3_000)
        self.subscribe()

    # ------------------------------------------------------------ the daemon

    @rule()
    def subscribe(self):
        if self.last is None:
            self.last = self.store.head
        self.say(HELLO)

    def say(self, kind, body=EMPTY, upto=None):
        upto = self.store.head if upto is None else upto
        self.way.append((Header(kind, 0, self.store.run, self.last, upto, 0), body))
        self.last = upto

    @rule(matches=matches, parts=st.integers(1, 3))
    def commit(self, matches, parts):
        before = self.store.head
        self.store.commit(matches, self.contents)
        events = self.store.matching(before, self.store.head)
        if not events or self.last is None:
            return
        while parts > 1 and len(events) > 1:
            self.say(DATA, wire.pack(events[:1]), events[0][0])
            events, parts = events[1:], parts - 1
        self.say(DATA, wire.pack(events))

    @rule()
    def beat(self):
        if self.last is not None:
            self.say(BEAT)

    @rule(
        bye=st.booleans(), reorders=st.booleans(),
        back=st.sampled_from([None] * 6 + ["older", "empty"]),
    )  # fmt: skip
    def restart(self, bye, reorders, back):
        """The daemon ends and begins anew; what was on the way may come late or never."""
        if bye and self.last is not None:
            self.say(BYE)
        old, self.way = self.way, []
        if back == "older":
            self.store = self.backup.copy()
            self.was_replaced = True
        elif back == "empty":
            self.store = Store()
            self.was_replaced = True
        self.store.open()
        self.last = None
        self.subscribe()
        self.way = self.way + old if reorders else old + self.way

    @rule(matches=st.sampled_from([[], [True], [True] * 2]))
    def crash(self, matches):
        """As above, and what it committed last it never said; nobody follows yet."""
        self.store.commit(matches, self.contents)
        self.way = []
        self.store.open()
        self.last = None

    @rule()
    def back_up(self):
        self.backup = self.store.copy()

    @rule(really=seldom)
    def trim(self, really):
        if not really:
            return
        self.store.floor = max(self.store.floor, self.store.head - 3)
        self.highest_floor = max(self.highest_floor, self.store.floor)

    # ------------------------------------------------------------ the way

    @precondition(lambda self: self.way)
    @rule(count=st.integers(1, 2))
    def drop(self, count):
        del self.way[:count]

    @precondition(lambda self: self.way)
    @rule(count=st.sampled_from([1, 2, 3, 20]), twice=st.booleans())
    def receive(self, count, twice):
        for publication in self.way[:count]:
            for _ in range(1 + twice):
                self.core.publication(*publication)
        del self.way[:count]
        self.note_start()

    def note_start(self):
        if self.first is None and self.core.has_started:
            self.first = parse_cursor(self.core.cursor).ids[0]
            if self.start == "since" and not (self.was_replaced or self.highest_floor):
                assert self.first == 2

    # ------------------------------------------------------------ the receiver

    @rule(work=st.integers(1, 4))
    def ask(self, work):
        """A page is read; it comes later, when much may have happened."""
        self.core.resume()
        if self.reply is None and self.core.wants_page:
            fields = self.core.ask()
            try:
                self.reply = self.store.replay(fields, work)
            except (CursorLost, Trimmed) as error:
                self.reply = error

    @precondition(lambda self: self.reply is not None)
    @rule(fails=st.booleans())
    def answer(self, fails):
        reply, self.reply = self.reply, None
        if isinstance(reply, Exception):
            self.core.fail(reply)
        elif not fails:
            self.core.page(*reply)
            self.note_start()

    # ------------------------------------------------------------ the reader

    @rule(count=st.sampled_from([1, 2, 50]))
    def read(self, count):
        """Read so many events, or as far as there are any."""
        while count and self.error is None:
            for event in self.unread:
                self.got.append((event.id, event["n"]))
                assert parse_cursor(self.core.cursor).ids[0] >= event.id
                break
            else:
                try:
                    self.unread = self.core.take() or iter(())
                except (CursorLost, Trimmed) as error:
                    self.error = error
                if not self.core.cursor or not self.unread.__length_hint__():
                    return
                continue
            count -= 1

    @precondition(lambda self: self.core.has_started and self.error is None)
    @rule()
    def resume(self):
        """Another tail goes on from the cursor; it is subscribed and finds the store as it is."""
        self.core = TailCore(after=parse_cursor(self.core.cursor), backlog_bytes=3_000)
        self.unread, self.reply, self.way = iter(()), None, []
        self.subscribe()
        self.receive(1, False)

    # ------------------------------------------------------------ all together

    @rule(
        matches=matches, parts=st.integers(1, 3), lost=st.sampled_from([0, 0, 1, 2]),
        received=st.sampled_from([1, 2, 20]), pages=st.sampled_from([0, 1, 3]),
        read=st.sampled_from([0, 1, 50]),
    )  # fmt: skip
    def flow(self, matches, parts, lost, received, pages, read):
        """Some of everything, as it goes; by single steps alone little would come to pass."""
        self.commit(matches, parts)
        self.drop(lost)
        self.receive(received, False)
        for _ in range(pages):
            self.ask(3)
            if self.reply is not None:
                self.answer(False)
        self.read(read)

    @rule(flows=st.lists(st.tuples(matches, st.booleans()), max_size=4))
    def undisturbed(self, flows):
        """It goes well for a while; beats come too."""
        for each, beats in flows:
            self.flow(each, 1, 0, 20, 2, 50)
            if beats:
                self.beat()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def exact(self):
        if not hasattr(self, "got"):
            return
        ids = [id for id, _ in self.got]
        assert ids == sorted(set(ids)), "each once, in order"
        cursor = parse_cursor(self.core.cursor)
        last = dict(map(tuple, self.store.runs)).get(cursor.run, -1)
        if self.core.has_started and cursor.ids[0] <= last:
            # The store still has all that was read: it is what matched, without a hole.
            wanted = self.store.matching(self.first, cursor.ids[0])
            found = {id: event["n"] for id, _, event in wanted}
            read = [(id, n) for id, n in self.got if id > self.store.floor]
            assert read == [(id, n) for id, n in found.items() if id > self.store.floor]

    @invariant()
    def bounded(self):
        if hasattr(self, "core"):
            held = sum(len(body) for _, body in self.core._held)
            ready = sum(len(chunk.packed) for chunk in self.core._ready)
            assert held <= 2 * 3_000 + 9 * 500
            assert ready <= 2 * 3_000 + 9 * 500 * BACKLOG_PAGES

    def teardown(self):
        if not hasattr(self, "core"):
            return
        # Whoever begins with the oldest stands nowhere before the first page.
        started = self.core.has_started and not self.core._from_oldest
        cursor = parse_cursor(self.core.cursor)
        lost = cursor.ids[0] > dict(map(tuple, self.store.runs)).get(cursor.run, -1)
        for _ in range(100):
            self.subscribe()
            self.beat()
            self.receive(100, False)
            self.ask(3)
            if self.reply is not None:
                self.answer(False)
            self.read(100)
        if self.error is None:
            assert self.core.state is State.LIVE
            assert not (started and lost), "a store that was replaced is never silence"
            assert parse_cursor(self.core.cursor) == Cursor(self.store.run, {0: self.store.head})
            self.exact()
        elif isinstance(self.error, Trimmed):
            assert self.highest_floor > cursor.ids[0]
        else:
            assert self.was_replaced


Tailing.TestCase.settings = settings(
    max_examples=settings.default.max_examples, stateful_step_count=40
)
TestTailing = Tailing.TestCase
