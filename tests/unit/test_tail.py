"""The tail's rules against a store of several lives and a socket that drops and reorders."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstream import wire
from zstream.cursor import Cursor, parse_cursor
from zstream.errors import BadFilter, CursorLost, DecodeError, TailGap
from zstream.tail import State, TailCore
from zstream.wire import BEAT, BYE, DATA, ERR, HELLO, Header

FILTER = {"kind": "a"}
EMPTY = wire.pack({})


class Store:
    """Events by id, of which some match; every opening begins a run."""

    runs_ever = itertools.count(1)

    def __init__(self):
        self.events = []  # (matches, content): the id is the place, from 1
        self.runs = []  # [run, last id]
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
        other.events = list(self.events)
        other.runs = [list(each) for each in self.runs]
        return other

    def commit(self, matches, contents):
        self.events += [(each, next(contents)) for each in matches]
        self.runs[-1][1] = self.head

    def matching(self, after, upto):
        return [
            [id, id * 10, {"n": self.events[id - 1][1]}]
            for id in range(after + 1, upto + 1)
            if self.events[id - 1][0]
        ]

    def replay(self, fields, work):
        """A page, bounded by so many ids."""
        if "since" in fields:
            after = min(self.head, max(0, -(-fields["since"] // 10) - 1))
        else:
            after = fields["after"]
            run = fields.get("run", self.run)
            if after > dict(map(tuple, self.runs)).get(run, -1):
                raise CursorLost("another life")
        upto = min(self.head, after + work)
        return {
            "events": self.matching(after, upto), "upto": upto, "head": self.head, "run": self.run,
        }  # fmt: skip


class World:
    """A store that is published from, a lossy way, and a reader that resumes after each gap."""

    def __init__(self, start, may_restore):
        self.contents = itertools.count(1)
        self.store = Store()
        self.store.commit([True, False, True, True], self.contents)
        self.may_restore, self.was_restored = may_restore, False
        self.backup = self.store.copy()
        self.last = None  # the topic's chain, None while nobody follows
        self.way = []  # publications not yet received
        self.feed = []  # received ones, and None where some were dropped
        self.got = []  # (id, content)
        self.first = None  # the id that the tail begins behind
        self.gaps = 0
        self.lost = False
        after, since = None, None
        if start == "after":
            after = self.first = 1
        elif start == "cursor":
            after, self.first = Cursor(self.store.run, {0: 2}), 2
        elif start == "since":
            since, self.first = 25, 2
        self.core = TailCore(FILTER, after=after, since=since)
        self.subscribe()

    # ------------------------------------------------------------ the daemon

    def subscribe(self):
        if self.last is None:
            self.last = self.store.head
        self.say(HELLO)

    def say(self, kind, body=EMPTY):
        header = Header(kind, 0, self.store.run, self.last, self.store.head, 0)
        self.last = self.store.head
        self.way.append((header, body))

    def commit(self, matches):
        before = self.store.head
        self.store.commit(matches, self.contents)
        events = self.store.matching(before, self.store.head)
        if events and self.last is not None:
            self.say(DATA, wire.pack(events))

    def beat(self):
        if self.last is not None:
            self.say(BEAT)

    def restart(self, before_bye, reorders, restores):
        """The daemon ends and begins anew; what was on the way may come late or never."""
        if before_bye and self.last is not None:
            self.say(BYE)
        old, self.way = self.way, []
        if restores and self.may_restore:
            self.store, self.was_restored = self.backup.copy(), True
        self.store.open()
        self.last = None
        self.subscribe()
        if reorders:
            self.way += old
        else:
            self.way = old + self.way

    def crash(self, matches):
        """As above, and what it committed last it never said."""
        self.store.commit(matches, self.contents)
        self.way = []
        self.store.open()
        self.last = None

    def back_up(self):
        self.backup = self.store.copy()

    # ------------------------------------------------------------ the way

    def drop(self, count):
        del self.way[:count]

    def receive(self, count, twice):
        for _ in range(count):
            if self.way:
                publication = self.way.pop(0)
                self.feed += [publication] * (1 + twice)

    def overflow(self):
        """The feed is full: what comes now is dropped, and the reader will know."""
        if self.way:
            self.way = []
            self.feed.append(None)

    # ------------------------------------------------------------ the reader

    def read(self, steps, work, fails):
        for _ in range(steps):
            if self.lost:
                return
            self.take()
            if not self.lost:
                self.step(work, fails)

    def take(self):
        try:
            while (event := self.core.take()) is not None:
                self.got.append((event.id, event["n"]))
                assert parse_cursor(self.core.cursor).ids[0] >= event.id
        except TailGap as error:
            self.gaps += 1
            if error.cursor != self.core.cursor:
                raise AssertionError("the error and the tail differ on where to go on") from error
            self.core = TailCore(FILTER, after=parse_cursor(error.cursor))
            self.feed, self.way = [], []
            self.subscribe()
        except CursorLost:
            assert self.was_restored
            self.lost = True

    def step(self, work, fails):
        core = self.core
        if core.wants_publications:
            if not self.feed:
                core.caught_up()
            elif (publication := self.feed.pop(0)) is None:
                core.dropped()
            else:
                core.publication(*publication)
            if self.first is None and core.has_started:
                self.first = parse_cursor(core.cursor).ids[0]
        elif not fails and (fields := core.wanted()) is not None:
            try:
                core.page(self.store.replay(fields, work))
            except CursorLost as error:
                core.fail(error)

    # ------------------------------------------------------------ what must hold

    def check(self):
        ids = [id for id, _ in self.got]
        assert ids == sorted(set(ids)), "each once, in order"
        is_of_this_life = parse_cursor(self.core.cursor).run == self.store.run
        if self.got and (is_of_this_life or not self.was_restored):
            wanted = self.store.matching(self.first, ids[-1])
            assert self.got == [(id, event["n"]) for id, _, event in wanted], "without a hole"

    def end_well(self):
        self.subscribe()
        for _ in range(200):
            if self.lost:
                return
            self.beat()
            self.receive(100, False)
            self.read(5, 3, False)
        assert self.core.state is State.LIVE
        assert parse_cursor(self.core.cursor) == Cursor(self.store.run, {0: self.store.head})
        wanted = self.store.matching(self.first, self.store.head)
        assert self.got == [(id, event["n"]) for id, _, event in wanted]


flags = st.booleans()
matches = st.sampled_from([[True], [False], [True, True], [False, True, False], [True] * 5])
reading = st.fixed_dictionaries(
    {"steps": st.sampled_from([1, 2, 5, 20]), "work": st.integers(1, 4), "fails": flags}
)
ordinary = st.one_of(
    st.tuples(st.just("commit"), st.fixed_dictionaries({"matches": matches})),
    st.tuples(
        st.just("receive"),
        st.fixed_dictionaries({"count": st.sampled_from([1, 2, 3]), "twice": flags}),
    ),
    st.tuples(st.just("read"), reading),
    st.tuples(st.just("read"), reading),
)
rare = st.one_of(
    st.tuples(st.sampled_from(["beat", "subscribe", "overflow", "back_up"]), st.just({})),
    st.tuples(st.just("drop"), st.fixed_dictionaries({"count": st.integers(1, 2)})),
    st.tuples(st.just("crash"), st.fixed_dictionaries({"matches": matches})),
    st.tuples(
        st.just("restart"),
        st.fixed_dictionaries({"before_bye": flags, "reorders": flags, "restores": flags}),
    ),
)
#: Mapped, because one_of would give each of the rare ones as much room as the ordinary.
step = st.one_of(ordinary.map(tuple), ordinary.map(tuple), ordinary.map(tuple), rare.map(tuple))
starts = st.sampled_from(["now", "after", "cursor", "since"])


@settings(max_examples=4 * settings.default.max_examples)
@given(starts, flags, st.lists(step, min_size=10))
def test_each_event_once_in_order_or_an_error(start, may_restore, steps):
    world = World(start, may_restore)
    for name, arguments in steps:
        getattr(world, name)(**arguments)
        world.check()
    world.end_well()


def live(run=7, id=10):
    core = TailCore(FILTER)
    core.publication(Header(HELLO, 0, run, id, id, 0), EMPTY)
    return core


def data(prev, id, *ids, run=7):
    entries = [[each, each * 10, {"n": each}] for each in ids]
    return Header(DATA, 0, run, prev, id, 0), wire.pack(entries)


def drain(core):
    ids = []
    while (event := core.take()) is not None:
        ids.append(event.id)
    return ids


def page(run, upto, head, *ids):
    return {
        "run": run, "upto": upto, "head": head, "events": [[id, id * 10, {"n": id}] for id in ids],
    }  # fmt: skip


def test_nothing_counts_before_the_first_hello():
    core = TailCore(FILTER)
    core.publication(*data(0, 3, 3))
    assert not core.has_started
    assert core.take() is None


def test_it_begins_at_the_head_that_hello_tells():
    core = live(id=10)
    assert core.cursor == str(Cursor(7, {0: 10}))
    core.publication(*data(10, 12, 11, 12))
    assert drain(core) == [11, 12]


def test_the_cursor_moves_with_what_was_taken():
    core = live(id=10)
    core.publication(*data(10, 20, 11, 12))
    assert parse_cursor(core.cursor).ids == {0: 10}
    event = core.take()
    assert (event, event.id, event.ts) == ({"n": 11}, 11, 110)
    assert parse_cursor(core.cursor).ids == {0: 11}
    core.take()
    assert parse_cursor(core.cursor).ids == {0: 20}, "it is complete up to there"


def test_what_was_seen_is_dropped_and_what_overlaps_is_cut():
    core = live(id=10)
    core.publication(*data(8, 10, 9, 10))
    core.publication(*data(9, 12, 10, 11, 12))
    assert drain(core) == [11, 12]


def test_a_hole_ends_a_live_tail_behind_the_events_before_it():
    core = live(id=10)
    core.publication(*data(10, 11, 11))
    core.publication(*data(12, 13, 13))
    core.publication(*data(13, 14, 14)) if core.wants_publications else None
    assert core.take().id == 11
    with pytest.raises(TailGap) as caught:
        core.take()
    assert caught.value.cursor == core.cursor == str(Cursor(7, {0: 11}))
    with pytest.raises(TailGap):
        core.take()


def test_a_beat_shows_a_hole_too():
    core = live(id=10)
    core.publication(Header(BEAT, 0, 7, 12, 12, 0), EMPTY)
    with pytest.raises(TailGap):
        core.take()


def test_history_runs_into_live():
    core = TailCore(FILTER, after=3)
    assert core.wanted() is None
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    assert not core.wants_publications
    assert core.wanted() == {"filter": FILTER, "limit": 1000, "after": 3, "run": 7}
    core.page(page(7, 6, 12, 5))
    assert core.wanted()["after"] == 6
    core.page(page(7, 11, 12, 8, 11))
    assert core.wants_publications
    core.publication(*data(10, 12, 11, 12))
    assert drain(core) == [5, 8, 11, 12]


def test_the_beginning_is_no_place_in_a_run():
    """0 is the oldest that is kept; a cursor at 0 has seen that nothing was there, and misses."""
    core = TailCore(FILTER, after=0)
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    assert core.wanted() == {"filter": FILTER, "limit": 1000, "after": 0}
    core.page(page(7, 6, 12, 5))
    assert core.wanted() == {"filter": FILTER, "limit": 1000, "after": 6, "run": 7}
    core = TailCore(FILTER, after=Cursor(7, {0: 0}))
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    assert core.wanted() == {"filter": FILTER, "limit": 1000, "after": 0, "run": 7}


def test_since_begins_where_the_first_page_does():
    core = TailCore(FILTER, since=123)
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    assert core.wanted() == {"filter": FILTER, "limit": 1000, "since": 123, "run": 7}
    core.page(page(7, 10, 10, 8, 9))
    assert parse_cursor(core.cursor).ids == {0: 7}
    assert drain(core) == [8, 9]


def test_the_newest_publication_may_be_ahead_of_a_page():
    core = TailCore(FILTER, after=0)
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    core.page(page(7, 4, 4, 1))
    with pytest.raises(DecodeError):
        drain(core)


def test_a_replay_that_stands_still_is_no_endless_loop():
    core = TailCore(FILTER, after=5)
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    core.page(page(7, 5, 10))
    with pytest.raises(DecodeError, match="stands still"):
        core.take()


def test_dropped_publications_are_a_gap_live_and_replayed_before():
    core = live(id=10)
    core.dropped()
    with pytest.raises(TailGap):
        core.take()
    core = TailCore(FILTER, after=10)
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    core.page(page(7, 10, 10))
    core.dropped()
    core.page(page(7, 15, 15, 12))
    assert drain(core) == [12]
    core.caught_up()
    core.dropped()
    with pytest.raises(TailGap):
        core.take()


def test_a_restart_without_a_hole_goes_on():
    core = live(run=7, id=10)
    core.publication(Header(BYE, 0, 7, 10, 10, 0), EMPTY)
    core.publication(Header(HELLO, 0, 8, 10, 10, 0), EMPTY)
    assert core.wanted() == {"filter": FILTER, "limit": 1000, "after": 10, "run": 7}
    core.page(page(8, 11, 11, 11))
    core.publication(*data(10, 11, 11, run=8))
    core.publication(*data(11, 12, 12, run=8))
    assert drain(core) == [11, 12]
    assert parse_cursor(core.cursor).run == 8


def test_a_restart_with_a_hole_is_a_gap_of_the_new_run():
    core = live(run=7, id=10)
    core.publication(Header(HELLO, 0, 8, 12, 12, 0), EMPTY)
    core.page(page(8, 12, 12, 11))
    with pytest.raises(TailGap) as caught:
        core.take()
    assert caught.value.cursor == str(Cursor(8, {0: 10}))


def test_another_store_is_a_lost_cursor():
    core = live(run=7, id=10)
    core.publication(Header(HELLO, 0, 8, 0, 0, 0), EMPTY)
    core.fail(CursorLost("its run is unknown"))
    with pytest.raises(CursorLost):
        core.take()


def test_a_late_publication_of_an_earlier_life_is_passed_over():
    core = live(run=8, id=10)
    core.publication(*data(9, 10, 10, run=7))
    core.page(page(8, 11, 11, 11))
    core.publication(*data(11, 12, 12, run=8))
    assert drain(core) == [11, 12]


def test_a_cursor_of_other_nodes_is_lost():
    core = TailCore(FILTER, after=Cursor(7, {0: 5, 1: 5}))
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    with pytest.raises(CursorLost, match="nodes"):
        core.take()


def test_err_ends_it_with_the_error_that_it_names():
    core = TailCore(FILTER)
    body = wire.pack({"code": "bad_filter", "message": "kind is not indexed"})
    core.publication(Header(ERR, 0, 7, 0, 0, 0), body)
    with pytest.raises(BadFilter, match="kind is not indexed"):
        core.take()


@pytest.mark.parametrize("body", [b"", b"\xc1", wire.pack(5), wire.pack([[1, 2]]), wire.pack([5])])
def test_a_body_that_cannot_be_read_ends_it(body):
    core = live(id=0)
    core.publication(Header(DATA, 0, 7, 0, 3, 0), body)
    with pytest.raises(DecodeError):
        core.take()
    assert parse_cursor(core.cursor).ids == {0: 0}
    core = live(id=0)
    core.publication(Header(ERR, 0, 7, 0, 0, 0), body)
    with pytest.raises(DecodeError):
        core.take()


@pytest.mark.parametrize("reply", [{}, {"events": 5}, page(7, "x", 3), page(None, 1, 1)])
def test_a_page_that_cannot_be_read_ends_it(reply):
    core = TailCore(FILTER, after=0)
    core.publication(Header(HELLO, 0, 7, 10, 10, 0), EMPTY)
    core.page(reply)
    with pytest.raises(DecodeError):
        core.take()
