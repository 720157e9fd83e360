"""The lane against a model of the daemon's rules, over a network that loses, delays and forgets."""

import copy
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstream import wire
from zstream.confirmation import Watermark
from zstream.lane import ASK_FIRST_S, ASK_S, ELEMENT_OVERHEAD, QUIET_S, WINDOW, Lane
from zstream.limits import BATCH_BYTES, BATCH_EVENTS


def element(number, *, bad=False):
    return wire.pack({"n": number, "bad": bad})


class Daemon:
    """The daemon's half of docs/protocol.md, "Numbered batches", on a list."""

    def __init__(self):
        self.rows = {}  # producer -> [epoch, last, refused, refusals]
        self.events = []

    def row(self, producer):
        return self.rows.setdefault(producer, [0, 0, 0, []])

    def take(self, frames):
        """Take a batch; returns what is published under the producer's topic."""
        header = wire.decode_batch_header(frames[0])
        events = wire.unpack(frames[1])
        assert header.crc32 == zlib.crc32(frames[1])
        assert header.size == len(events)
        row = self.row(header.producer)
        if header.epoch < row[0]:
            return header.producer, "nack", row[1]
        row[0] = header.epoch
        if header.n > row[1] + 1:
            return header.producer, "nack", row[1]
        if header.n == row[1] + 1:
            row[1] = header.n
            for place, event in enumerate(events):
                if event["bad"]:
                    row[2] += 1
                    row[3].append((header.n, place, "bad_event", "bad"))
                else:
                    self.events.append(event["n"])
        return header.producer, "ack", row[1], row[2]

    def watermark(self, producer):
        epoch, last, refused, refusals = self.row(producer)
        return Watermark(epoch, last, refused, tuple(refusals))


class World:
    """A lane, a daemon and a network; each method that a step names does one thing to them."""

    def __init__(self, keep, may_restore, may_stray):
        self.may_restore, self.may_stray = may_restore, may_stray
        self.lane = Lane(keep=keep)
        self.daemon = Daemon()
        self.backup = copy.deepcopy(self.daemon)
        self.now = 0.0
        self.put = 0
        self.bad = set()
        self.ever_stored = []
        self.wire = []  # on the connection
        self.stray = []  # read late, from a connection that is gone
        self.said = []  # publications on their way
        self.asked = []  # watermarks asked for: (ask, answer or None)
        self.is_up = False
        self.room = 5
        self.connect()
        self.was_restored = self.was_late = False
        self.restarts = 0

    # ------------------------------------------------------------ the ordinary

    def work(self, bad, sends, arrives, hears, asks, seconds, connects):
        self.now += seconds
        if connects:
            self.connect()
        self.lane.put([element(self.put + at, bad=each) for at, each in enumerate(bad)])
        self.bad |= {self.put + at for at, each in enumerate(bad) if each}
        self.put += len(bad)
        for _ in range(sends):
            self.send()
        self.deliver(arrives)
        for each in hears:
            self.hear(each == "lost")
        if asks != "no":
            self.ask()
        if "hears" in asks or "fails" in asks:
            self.answer(asks == "fails")

    def send(self):
        frames = self.lane.offer(self.now)
        assert frames == self.lane.offer(self.now)
        assert frames is None or self.is_up
        if frames is not None and len(self.wire) < self.room:
            self.wire.append(frames)
            self.lane.taken(self.now)

    def deliver(self, count):
        for frames in self.wire[:count]:
            self.arrive(frames)
        del self.wire[:count]

    def arrive(self, frames):
        before = len(self.daemon.events)
        self.said.append(self.daemon.take(frames))
        self.ever_stored += self.daemon.events[before:]

    def hear(self, lost):
        if self.said:
            producer, kind, *fields = self.said.pop(0)
            if lost or producer != self.lane.producer:
                return
            if kind == "ack":
                self.lane.acknowledge(*fields, self.now)
            else:
                self.lane.reject(self.now)

    def ask(self):
        ask = self.lane.ask(self.now)
        if ask is not None:
            self.asked.append([ask, self.daemon.watermark(ask.producer) if self.is_up else None])

    def answer(self, fails):
        if self.asked:
            ask, watermark = self.asked.pop(0)
            self.lane.answer(ask, None if fails else watermark, self.now)

    def change_room(self, room):
        self.room = room

    def subscribe(self):
        """A subscription is answered with what the daemon knows."""
        _, last, refused, _ = self.daemon.row(self.lane.producer)
        self.said.append((self.lane.producer, "ack", last, refused))

    # ------------------------------------------------------------ the disasters

    def cut(self, kept, strays, returns):
        """The connection breaks; some frames were read, the others are lost or come late."""
        self.deliver(kept)
        if strays and self.wire and self.may_stray:
            self.was_late = True
            self.stray += self.wire
        self.lose(returns)

    def kill(self, kept, tells, returns):
        """The daemon is killed: what it had not committed is gone, and what it had not said."""
        self.deliver(kept)
        self.stray = []
        if not tells:
            self.said = []
        self.lose(returns)

    def lose(self, returns):
        self.wire = []
        if self.is_up:
            self.is_up = False
            self.lane.disconnected(self.now)
        if returns:
            self.connect()

    def connect(self):
        if not self.is_up:
            self.is_up = True
            self.lane.connected(self.now)

    def break_silently(self):
        """The connection breaks and is there again before the lane hears of it."""
        self.wire = []

    def back_up(self):
        self.backup = copy.deepcopy(self.daemon)

    def restore(self, empty):
        if not self.may_restore:
            return
        self.kill(0, True, False)
        self.daemon = Daemon() if empty else copy.deepcopy(self.backup)
        self.was_restored = True
        self.connect()

    def deliver_late(self):
        if self.stray:
            self.arrive(self.stray.pop(0))

    # ------------------------------------------------------------ what must hold

    def stores_nothing_twice_and_all_in_order(self):
        if self.was_late:
            assert len(set(self.ever_stored)) == len(self.ever_stored)
        else:
            assert self.ever_stored == sorted(set(self.ever_stored))

    def never_lies(self):
        lane = self.lane
        assert lane.settled == lane.stored + lane.refused + lane.lost
        assert lane.settled <= lane.sent <= self.put
        assert lane.sent + lane.waiting == self.put
        stored = sum(number < lane.settled for number in self.ever_stored)
        assert lane.stored <= stored
        assert min(lane.stored, lane.refused, lane.lost) >= 0
        if not (self.was_restored or self.was_late):
            assert lane.stored == stored
            assert lane.refused <= sum(number < lane.settled for number in self.bad)

    def loses_only_when_it_starts_anew(self):
        lane = self.lane
        assert lane.lost == 0 or lane.restarts > 0
        assert lane.restarts >= self.restarts
        self.restarts = lane.restarts

    def reports_are_of_bad_events(self):
        for report in self.lane.reports:
            assert report.count > 0
            assert len(report.refusals) <= report.count
            for packed in report.elements:
                assert wire.unpack(packed)["bad"]

    def check(self):
        self.stores_nothing_twice_and_all_in_order()
        self.never_lies()
        self.loses_only_when_it_starts_anew()
        self.reports_are_of_bad_events()

    def end_well(self):
        """When all is well again, the fate of every event becomes known, soon."""
        self.stray, self.room = [], 100
        self.connect()
        until = self.now + 60
        while self.lane.unconfirmed or self.lane.waiting:
            assert self.now < until, "the lane stalls"
            self.ask()
            self.send()
            self.deliver(100)
            while self.said:
                self.hear(lost=False)
            while self.asked:
                self.answer(fails=False)
            wake_at = self.lane.wake_at()
            if self.lane.offer(self.now) is None and wake_at is not None:
                self.now = max(self.now, wake_at)
        self.check()


work = st.fixed_dictionaries(
    {
        "bad": st.sampled_from([[False], [False, False], [True], [False, True, False], []]),
        "sends": st.sampled_from([1, 2, 3, 0]),
        "arrives": st.sampled_from([1, 2, 4, 0]),
        "hears": st.lists(st.sampled_from(["lost", "heard", "heard"]), max_size=4),
        "asks": st.sampled_from(["no", "asks", "asks and hears", "fails"]),
        "connects": st.booleans(),
        "seconds": st.sampled_from([0.0, 0.01, ASK_FIRST_S, ASK_S, QUIET_S, 6.0]),
    }
)
ordinary = st.tuples(st.just("work"), work)
kept = st.integers(0, 3)
rare = st.one_of(
    st.tuples(st.just("change_room"), st.fixed_dictionaries({"room": st.integers(0, 5)})),
    st.tuples(
        st.just("cut"),
        st.fixed_dictionaries(
            {"kept": kept, "strays": st.booleans(), "returns": st.sampled_from([True, True, False])}
        ),
    ),
    st.tuples(
        st.just("kill"),
        st.fixed_dictionaries(
            {"kept": kept, "tells": st.booleans(), "returns": st.sampled_from([True, True, False])}
        ),
    ),
    st.tuples(st.just("restore"), st.fixed_dictionaries({"empty": st.booleans()})),
    st.tuples(
        st.sampled_from(["subscribe", "connect", "break_silently", "back_up", "deliver_late"]),
        st.just({}),
    ),
)


#: Mapped, because one_of would give each of the rare ones as much room as the ordinary.
step = st.one_of(ordinary, ordinary, ordinary, rare.map(tuple))


@settings(max_examples=4 * settings.default.max_examples)
@given(st.tuples(st.booleans(), st.booleans(), st.booleans()), st.lists(step, min_size=10))
def test_it_never_lies_and_never_stalls(kinds, steps):
    world = World(*kinds)
    for name, arguments in steps:
        getattr(world, name)(**arguments)
        world.check()
    world.end_well()


@pytest.fixture
def lane():
    lane = Lane()
    lane.connected(0.0)
    return lane


def send(lane, now=0.0):
    frames = lane.offer(now)
    assert frames is not None
    lane.taken(now)
    return wire.decode_batch_header(frames[0])


def test_a_lone_event_is_offered_at_once(lane):
    lane.put([element(1)])
    header = send(lane)
    assert (header.producer, header.epoch, header.n, header.size) == (lane.producer, 1, 1, 1)
    assert lane.offer(0.0) is None


def test_nothing_is_offered_without_a_connection():
    lane = Lane()
    lane.put([element(1)])
    assert lane.offer(0.0) is None
    assert lane.wake_at() is None


def test_batches_are_cut_by_count_and_bytes(lane):
    lane.put([element(at) for at in range(BATCH_EVENTS + 1)])
    assert [send(lane).size, send(lane).size] == [BATCH_EVENTS, 1]
    lane.put([bytes(BATCH_BYTES // 2)] * 3 + [bytes(BATCH_BYTES + 9), element(1)])
    assert [send(lane).size for _ in range(4)] == [2, 1, 1, 1]


def test_the_window_bounds_what_is_under_way(lane):
    for at in range(WINDOW + 1):
        lane.put([element(at)])
        if at < WINDOW:
            send(lane)
    assert lane.offer(0.0) is None
    lane.acknowledge(1, 0, 0.1)
    assert send(lane).n == WINDOW + 1


def test_an_ack_settles_and_releases(lane):
    lane.put([element(1), element(2)])
    send(lane)
    lane.acknowledge(1, 0, 0.1)
    assert (lane.stored, lane.settled, lane.unconfirmed) == (2, 2, 0)
    assert lane.released == len(element(1)) + len(element(2)) + 2 * ELEMENT_OVERHEAD
    assert lane.wake_at() is None


def test_silence_makes_it_ask_and_a_watermark_settles(lane):
    lane.put([element(1)])
    send(lane)
    assert lane.wake_at() == ASK_FIRST_S
    assert lane.ask(ASK_FIRST_S - 0.01) is None
    ask = lane.ask(ASK_FIRST_S)
    assert ask.producer == lane.producer
    assert lane.ask(1.0) is None, "one at a time"
    lane.answer(ask, Watermark(1, 1, 0), 1.0)
    assert lane.stored == 1


def test_a_watermark_that_stands_still_proves_nothing(lane):
    lane.put([element(1)])
    send(lane)
    lane.answer(lane.ask(1.0), Watermark(1, 0, 0), 1.0)
    assert (lane.lost, lane.unconfirmed) == (0, 1)


def test_a_nack_and_the_watermark_after_it_settle_what_was_lost(lane):
    for at in range(3):
        lane.put([element(at)])
        send(lane)
    old, early = lane.producer, lane.ask(1.0)
    lane.reject(1.0)
    assert lane.offer(1.0) is None
    lane.answer(early, Watermark(1, 0, 0), 1.1)
    assert lane.lost == 0, "that one was asked for before"
    lane.answer(lane.ask(1.1), Watermark(1, 1, 0), 1.2)
    assert (lane.stored, lane.lost, lane.restarts) == (1, 2, 1)
    lane.put([element(3)])
    header = send(lane, 1.2)
    assert header.n == 1
    assert header.producer != old


def test_after_a_reconnect_it_probes_before_it_sends(lane):
    lane.put([element(1)])
    send(lane)
    lane.acknowledge(1, 0, 0.0)
    lane.disconnected(1.0)
    lane.connected(2.0)
    assert lane.wake_at() is None, "an idle client does nothing"
    lane.put([element(2)])
    probe = send(lane, 2.0)
    assert (probe.n, probe.size) == (2, 0)
    assert lane.offer(2.0) is None
    lane.acknowledge(2, 0, 2.1)
    assert (send(lane, 2.1).n, lane.lost, lane.restarts) == (3, 0, 0)


def test_an_emptied_store_costs_a_probe_and_no_event(lane):
    lane.put([element(1)])
    send(lane)
    lane.acknowledge(1, 0, 0.0)
    lane.disconnected(1.0)
    lane.connected(2.0)
    lane.put([element(2)])
    assert send(lane, 2.0).size == 0
    lane.reject(2.1)
    lane.answer(lane.ask(2.1), Watermark(0, 0, 0), 2.2)
    assert (lane.lost, lane.restarts) == (0, 1)
    assert (send(lane, 2.2).n, lane.waiting) == (1, 0)


def test_a_watermark_below_what_was_confirmed_starts_anew(lane):
    lane.put([element(1)])
    send(lane)
    lane.acknowledge(1, 0, 0.0)
    lane.put([element(2)])
    send(lane, 0.0)
    lane.answer(lane.ask(1.0), Watermark(1, 0, 0), 1.0)
    assert (lane.stored, lane.lost, lane.restarts) == (1, 1, 1)


def test_numbers_that_it_never_gave_are_not_believed(lane):
    lane.put([element(1)])
    send(lane)
    lane.acknowledge(7, 0, 0.0)
    assert lane.stored == 0
    lane.answer(lane.ask(0.0), Watermark(1, 7, 0), 0.1)
    assert (lane.stored, lane.lost, lane.restarts) == (0, 1, 1)


def test_refusals_come_with_the_watermark():
    lane = Lane(keep=True)
    lane.connected(0.0)
    lane.put([element(1), element(2, bad=True)])
    send(lane)
    lane.acknowledge(1, 1, 0.0)
    assert lane.settled == 0, "the watermark has the reasons"
    refusal = (1, 1, "bad_event", "why")
    lane.answer(lane.ask(0.0), Watermark(1, 1, 1, (refusal,)), 0.1)
    assert (lane.stored, lane.refused) == (1, 1)
    (report,) = lane.reports
    assert (report.count, report.refusals) == (1, [refusal])
    assert report.elements == [element(2, bad=True)]


def test_a_stale_answer_does_nothing(lane):
    lane.put([element(1)])
    send(lane)
    ask = lane.ask(1.0)
    lane.reject(1.0)
    lane.answer(ask, None, 1.0)
    lane.answer(lane.ask(2.0), Watermark(1, 0, 0), 2.0)
    assert lane.restarts == 1
    lane.answer(ask, Watermark(1, 1, 0), 3.0)
    assert (lane.stored, lane.lost) == (0, 1)


def test_a_long_silence_makes_it_probe(lane):
    lane.put([element(1)])
    send(lane)
    lane.put([element(2)])
    probe = send(lane, QUIET_S)
    assert (probe.n, probe.size) == (2, 0)
    lane.acknowledge(2, 0, QUIET_S)
    assert (send(lane, QUIET_S).n, lane.stored) == (3, 1)


def test_a_watermark_from_before_an_ack_is_no_loss(lane):
    lane.put([element(1)])
    send(lane)
    ask = lane.ask(1.0)
    lane.acknowledge(1, 0, 1.0)
    lane.put([element(2)])
    send(lane, 1.0)
    lane.answer(ask, Watermark(1, 0, 0), 1.1)
    assert (lane.stored, lane.lost, lane.unconfirmed) == (1, 0, 1)


def test_only_a_probe_over_the_new_connection_ends_the_doubt(lane):
    lane.put([element(1)])
    send(lane)
    for at in (1.0, 2.0):
        lane.disconnected(at)
        lane.connected(at)
        assert send(lane, at).size == 0
    lane.acknowledge(2, 0, 2.0)
    lane.put([element(2)])
    assert send(lane, 9.0).size == 0
    lane.acknowledge(3, 0, 9.0)
    assert send(lane, 9.0).size == 1
