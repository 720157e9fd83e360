"""The tail's rules against a store of several lives and a socket that drops and reorders."""

import itertools

import pytest
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
from zstream.backlog import BACKLOG_PAGES
from zstream.cursor import Cursor, parse_cursor
from zstream.errors import BadFilter, CursorLost, DecodeError, Trimmed
from zstream.tail import State, TailCore
from zstream.wire import BEAT, BYE, DATA, ERR, HELLO, Header

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
            ready = sum(len(chunk.packed) for chunk in self.core._backlog._ready)
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


# ---------------------------------------------------------------- by example


def hello(run=7, id=10):
    return Header(HELLO, 0, run, id, id, 0), EMPTY


def live(run=7, id=10, **options):
    core = TailCore(**options)
    core.publication(*hello(run, id))
    return core


def entries(*ids):
    return wire.pack([[id, id * 10, {"n": id}] for id in ids])


def data(prev, id, *ids, run=7):
    return Header(DATA, 0, run, prev, id, 0), entries(*ids)


def beat(prev, id, run=7):
    return Header(BEAT, 0, run, prev, id, 0), EMPTY


def page(core, run, upto, head, *ids):
    core.page(run, upto, head, entries(*ids))


def drain(core):
    ids = []
    while (events := core.take()) is not None:
        ids += [event.id for event in events]
    return ids


def place(core):
    cursor = parse_cursor(core.cursor)
    return cursor.run, cursor.ids[0]


def test_nothing_counts_before_the_first_hello():
    core = TailCore()
    core.publication(*data(0, 3, 3))
    core.publication(*beat(0, 3))
    assert not core.has_started
    assert core.take() is None


def test_it_begins_at_the_head_that_hello_tells():
    core = live(id=10)
    assert place(core) == (7, 10)
    core.publication(*data(10, 12, 11, 12))
    assert not core.wants_page
    assert drain(core) == [11, 12]


def test_the_cursor_moves_with_what_was_read():
    core = live(id=10)
    core.publication(*data(10, 20, 11, 12))
    core.publication(*beat(20, 30))
    assert place(core) == (7, 10)
    events = core.take()
    assert place(core) == (7, 10)
    event = next(events)
    assert (event, event.id, event.ts) == ({"n": 11}, 11, 110)
    assert place(core) == (7, 11)
    next(events)
    assert place(core) == (7, 30), "nothing is unread: it is complete up to there"


def test_the_cursor_does_not_run_ahead_of_what_waits():
    core = live(id=10)
    core.publication(*data(10, 20, 11, 12))
    core.publication(*data(20, 30, 25))
    for _ in core.take():
        pass
    assert place(core) == (7, 20)
    for _ in core.take():
        assert place(core) == (7, 30)


def test_what_was_seen_is_dropped_and_what_overlaps_is_cut():
    core = live(id=10)
    core.publication(*data(8, 10, 9, 10))
    core.publication(*data(9, 12, 10, 11, 12))
    core.publication(*data(9, 12, 10, 11, 12))
    assert drain(core) == [11, 12]


def test_a_hole_is_read_from_the_store():
    core = live(id=10)
    core.publication(*data(10, 11, 11))
    core.publication(*data(13, 14, 14))
    core.publication(*data(14, 15, 15))
    assert core.wants_page
    assert core.is_sudden
    assert core.ask() == {"limit": 1000, "after": 11, "run": 7, "missed": True}
    page(core, 7, 12, 14, 12)
    assert (core.wants_page, core.is_sudden) == (True, False)
    assert core.ask() == {"limit": 1000, "after": 12, "run": 7}
    page(core, 7, 14, 14, 13, 14)
    assert core.state is State.LIVE
    core.publication(*data(15, 16, 16))
    assert drain(core) == [11, 12, 13, 14, 15, 16]


def test_a_beat_shows_a_hole_too():
    core = live(id=10)
    core.publication(*beat(12, 12))
    assert core.ask()["missed"]
    page(core, 7, 12, 12, 11)
    assert drain(core) == [11]
    assert core.state is State.LIVE


def test_a_hole_in_what_is_held_is_read_from_the_store():
    core = live(id=10)
    core.publication(*data(11, 12, 12))
    core.publication(*data(14, 15, 15))
    core.ask()
    page(core, 7, 12, 15, 11, 12)
    assert core.wants_page
    assert core.ask()["after"] == 12
    page(core, 7, 15, 15, 13, 14, 15)
    assert drain(core) == [11, 12, 13, 14, 15]
    assert core.state is State.LIVE


def test_history_runs_into_live():
    core = TailCore(after=3)
    assert not core.wants_page
    core.publication(*hello())
    assert not core.is_sudden
    assert core.ask() == {"limit": 1000, "after": 3, "run": 7}
    page(core, 7, 6, 12, 5)
    core.publication(*data(10, 12, 11, 12))
    assert core.ask()["after"] == 6
    page(core, 7, 11, 12, 8, 11)
    assert core.state is State.LIVE
    assert drain(core) == [5, 8, 11, 12]


def test_pages_wait_for_their_reader():
    core = live(after=0)
    for id in range(1, 3):
        assert core.wants_page
        core.ask()
        page(core, 7, id, 10, id)
    assert (core.wants_page, core.has_room) == (False, False)
    page(core, 7, 3, 10)
    assert [event.id for event in core.take()] == [1]
    assert core.wants_page
    assert core.has_room


def test_a_page_without_events_needs_no_reader():
    core = live(after=0)
    for id in range(1, 5):
        core.ask()
        page(core, 7, id, 10)
        assert core.wants_page
    assert place(core) == (7, 4)


def test_the_beginning_is_no_place_in_a_run():
    """0 is the oldest that is kept; a cursor at 0 has seen that nothing was there, and misses."""
    core = live(after=0)
    assert core.ask() == {"limit": 1000, "after": 0}
    page(core, 7, 6, 12, 5)
    assert core.ask() == {"limit": 1000, "after": 6, "run": 7}
    core = live(after=Cursor(7, {0: 0}))
    assert core.ask() == {"limit": 1000, "after": 0, "run": 7}


def test_an_id_that_the_store_never_gave_is_asked_about():
    core = live(id=10, after=11)
    assert core.wants_page


def test_since_begins_where_the_first_page_does():
    core = live(since=123)
    assert not core.has_started
    assert core.ask() == {"limit": 1000, "since": 123}
    page(core, 7, 10, 10, 8, 9)
    assert core.has_started
    assert place(core) == (7, 7)
    assert drain(core) == [8, 9]


def test_the_daemon_publishes_nothing_that_its_store_does_not_have():
    core = live(after=0)
    core.ask()
    page(core, 7, 4, 4, 1)
    with pytest.raises(DecodeError, match="does not have"):
        drain(core)


def test_what_came_after_the_page_was_asked_for_may_be_ahead_of_it():
    core = live(id=10)
    core.publication(*data(11, 12, 12))
    core.ask()
    core.publication(*data(20, 21, 21))
    page(core, 7, 12, 12, 11, 12)
    assert core.wants_page
    page(core, 7, 20, 21, 20)
    assert drain(core) == [11, 12, 20, 21]


def test_a_replay_that_stands_still_is_no_endless_loop():
    core = live(after=5)
    core.ask()
    page(core, 7, 5, 10)
    with pytest.raises(DecodeError, match="stands still"):
        core.take()


def test_what_has_no_room_waits_and_beyond_that_is_read_from_the_store():
    core = live(id=10, backlog_bytes=1_000)
    for id in range(11, 41):
        core.publication(*data(id - 1, id, id))
    assert len(core._backlog._ready) + len(core._held) < 15
    assert not core.is_sudden, "only this one missed it"
    got = [event.id for event in core.take()]
    core.resume()
    assert core.ask()["missed"], "there was more room than for what was held"
    while got[-1] < 40:
        core.resume()
        if core.wants_page:
            after = core.ask()["after"]
            page(core, 7, min(after + 3, 40), 40, *range(after + 1, min(after + 3, 40) + 1))
        got += [event.id for event in core.take()]
    assert got == list(range(11, 41))
    core.resume()
    assert core.state is State.LIVE


def test_what_is_held_needs_no_page_once_there_is_room():
    core = live(id=10, backlog_bytes=700)
    for id in range(11, 18):
        core.publication(*data(id - 1, id, id))
    assert core.state is State.REPLAYING
    got = []
    while len(got) < 7:
        got += [event.id for event in core.take()]
        core.resume()
        assert not core.wants_page
    assert got == list(range(11, 18))
    assert core.state is State.LIVE


def test_a_restart_is_checked_with_the_store():
    core = live(run=7, id=10)
    core.publication(Header(BYE, 0, 7, 10, 10, 0), EMPTY)
    core.publication(*hello(8, 10))
    assert core.is_sudden
    assert core.ask() == {"limit": 1000, "after": 10, "run": 7}, "nothing was missed yet"
    core.publication(*data(10, 11, 11, run=8))
    page(core, 8, 10, 10)
    core.publication(*data(11, 12, 12, run=8))
    assert drain(core) == [11, 12]
    assert place(core) == (8, 12)


def test_another_store_is_a_lost_cursor():
    core = live(run=7, id=10)
    core.publication(*data(10, 11, 11))
    core.publication(*hello(8, 0))
    core.fail(CursorLost("its run is unknown"))
    core.publication(*data(0, 12, 12, run=8))
    page(core, 8, 12, 12, 12)
    assert [event.id for event in core.take()] == [11]
    for _ in range(2):
        with pytest.raises(CursorLost):
            core.take()
    assert place(core) == (7, 11)


def test_a_late_publication_of_an_earlier_life_is_passed_over():
    core = live(run=7, id=10)
    core.publication(*hello(8, 10))
    core.publication(*data(9, 12, 12, run=7))
    core.ask()
    page(core, 8, 11, 11, 11)
    assert core.state is State.LIVE
    core.publication(*data(8, 15, 13, 14, 15, run=7))
    core.publication(*data(11, 12, 12, run=8))
    assert drain(core) == [11, 12]


def test_a_daemon_that_is_just_going_may_have_answered():
    core = live(run=7, id=10)
    core.publication(*beat(11, 11))
    core.ask()
    core.publication(*hello(8, 12))
    page(core, 7, 11, 11, 11)
    core.publication(*beat(12, 12, run=8))
    assert core.ask() == {"limit": 1000, "after": 11, "run": 7}
    page(core, 8, 12, 12, 12)
    assert drain(core) == [11, 12]
    assert core.state is State.LIVE


def test_a_cursor_of_other_nodes_is_lost():
    core = live(after=Cursor(7, {0: 5, 1: 5}))
    with pytest.raises(CursorLost, match="nodes"):
        core.take()


def test_err_ends_it_with_the_error_that_it_names():
    core = TailCore()
    body = wire.pack({"code": "bad_filter", "message": "kind is not indexed"})
    core.publication(Header(ERR, 0, 7, 0, 0, 0), body)
    with pytest.raises(BadFilter, match="kind is not indexed"):
        core.take()


def test_types_that_are_not_known_are_ignored():
    core = live(id=10)
    core.publication(Header(99, 0, 7, 20, 30, 0), EMPTY)
    assert core.state is State.LIVE
    assert place(core) == (7, 10)


@pytest.mark.parametrize("body", [b"", b"\xc1", wire.pack(5), wire.pack([[1, 2]]), wire.pack([5])])
def test_a_body_that_cannot_be_read_ends_it(body):
    core = live(id=0)
    core.publication(Header(DATA, 0, 7, 0, 3, 0), body)
    core.publication(*data(3, 4, 4))
    for _ in range(2):
        with pytest.raises(DecodeError):
            core.take()
    assert place(core) == (7, 0)
    core = live(id=0)
    core.publication(Header(ERR, 0, 7, 0, 0, 0), body)
    with pytest.raises(DecodeError):
        core.take()
