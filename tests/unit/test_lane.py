"""The lane against a model of the daemon's rules, over a network that loses, delays and forgets."""

import copy
import itertools
import zlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zstream import lane as lane_module
from zstream import wire
from zstream.confirmation import Nack, Watermark
from zstream.lane import ASK_FIRST_S, ASK_S, PROBE_S, PROBES, REWIND_S, WINDOW, Lane
from zstream.source import ELEMENT_OVERHEAD, Batch, pack_body


def element(number, *, bad=False):
    return wire.pack({"n": number, "bad": bad})


class Folder:
    """A source whose batches outlive a process, as in a spool or a file."""

    def __init__(self, *, resumes=False):
        self.names = 0
        self.batches = []
        self.base = self.done = self.taken = 0  # of the list: number 1 less one, settled, taken
        self.epoch, self.resumes = 1, resumes
        self.goes_on, self.is_over = True, False
        self.rename()

    def rename(self):
        self.names += 1
        self.producer = self.names.to_bytes(16, "big")

    @property
    def first(self):
        return self.done - self.base + 1

    def put(self, numbers, bad=()):
        body = pack_body(element(each, bad=each in bad) for each in numbers)
        self.batches.append(Batch(len(numbers), body, tuple(numbers)))

    def take(self):
        if self.taken == len(self.batches):
            return None
        self.taken += 1
        return self.batches[self.taken - 1]

    def settled(self, n):
        assert self.done <= self.base + n <= self.taken
        self.done = self.base + n

    def restart(self):
        self.base = self.done
        self.rename()
        return self.goes_on

    def adopt(self, forgotten):
        """What the next process finds, if the newest settlements were not written down."""
        self.done = max(self.base, self.done - forgotten)
        self.taken = self.done
        self.epoch += 1
        self.resumes = True


class Daemon:
    """The daemon's half of docs/protocol.md, "Numbered batches", on a list."""

    def __init__(self, run=1):
        self.rows = {}  # producer -> [epoch, last, refused, refusals]
        self.events = []
        self.run = run

    def row(self, producer):
        return self.rows.setdefault(producer, [0, 0, 0, []])

    def take(self, frames):
        """Take a batch; returns what is published under the producer's topic."""
        header = wire.decode_batch_header(frames[0])
        row = self.row(header.producer)
        if header.crc32 != zlib.crc32(frames[1]):
            return self.nack(header, "bad_batch")
        events = wire.unpack(frames[1])
        if header.size != len(events):
            return self.nack(header, "bad_batch")
        if header.epoch < row[0]:
            return self.nack(header, "fenced")
        row[0] = header.epoch
        if header.n > row[1] + 1:
            return self.nack(header, "gap")
        if header.n == row[1] + 1:
            row[1] = header.n
            for place, event in enumerate(events):
                if event["bad"]:
                    row[2] += 1
                    row[3].append((header.n, place, "bad_event", "bad"))
                else:
                    self.events.append(event["n"])
        return self.ack(header.producer)

    def ack(self, producer):
        return producer, self.row(producer)[1], self.row(producer)[2], self.run

    def nack(self, header, code):
        epoch, last, _, _ = self.row(header.producer)
        return header.producer, Nack(header.n, epoch, last, code, "why", self.run)

    def watermark(self, producer):
        epoch, last, refused, refusals = self.row(producer)
        return Watermark(epoch, last, refused, tuple(refusals[-100:]), self.run)


class World(RuleBasedStateMachine):
    """A lane, a daemon and a network.

    Seconds pass in ``wait`` alone. What was sent over a connection that is gone may still arrive,
    late; publications come late, twice, in another order, or never.
    """

    @initialize(is_calm=st.booleans())
    def begin(self, is_calm):
        self.is_calm = is_calm  # nothing is lost but publications: the daemon is only slow
        self.folder = Folder()
        self.lane = Lane(self.folder)
        self.daemon = Daemon()
        self.backup = copy.deepcopy(self.daemon)
        self.now = 0.0
        self.numbers, self.bad = 0, set()
        self.wire = []  # on the connection
        self.strays = []  # of connections that are gone, a list each
        self.said = []  # publications on their way
        self.asked = []  # watermarks asked for: (ask, answer or None)
        self.room = 5
        self.is_up = True
        self.lane.connected()
        self.steps, self.excused, self.sent_at = 0, 0, {}
        self.forgotten = set()  # stored once, and gone with a store that was replaced
        self.reported = []

    # ------------------------------------------------------------ the ordinary

    @rule(bad=st.sampled_from([[False], [False, False], [True], [False, True, False], []]))
    def put(self, bad):
        numbers = range(self.numbers, self.numbers + len(bad))
        self.numbers += len(bad)
        self.bad |= {number for number, is_bad in zip(numbers, bad, strict=True) if is_bad}
        self.folder.put(numbers, self.bad)

    @rule(count=st.integers(1, 4))
    def send(self, count):
        for _ in range(count):
            frames = self.lane.offer(self.now)
            assert frames == self.lane.offer(self.now)
            if frames is None or len(self.wire) >= self.room:
                return
            assert self.is_up
            self.steps += 1
            header = wire.decode_batch_header(frames[0])
            key = header.producer, header.n
            if header.n not in PROBES:
                # Nothing is sent again without a NACK, a new connection or a new run.
                assert key not in self.sent_at or self.excused > self.sent_at[key]
                self.sent_at[key] = self.steps
            self.wire.append(frames)
            self.lane.taken(self.now)

    @rule(count=st.integers(1, 5))
    def deliver(self, count):
        for frames in self.wire[:count]:
            self.said.append(self.daemon.take(frames))
        del self.wire[:count]

    @rule(place=st.integers(0, 3), fate=st.sampled_from(["heard", "heard", "lost", "twice"]))
    def hear(self, place, fate):
        if not self.said:
            return
        place = min(place, len(self.said) - 1)
        said = self.said[place]
        if fate != "twice":
            del self.said[place]
        if fate == "lost" or said[0] != self.lane.producer:
            return
        self.excuse()
        if isinstance(said[1], Nack):
            self.lane.reject(said[1], self.now)
        else:
            self.lane.acknowledge(*said[1:], self.now)

    def excuse(self):
        self.steps += 1
        self.excused = self.steps

    @rule()
    def ask(self):
        ask = self.lane.ask(self.now)
        if ask is not None:
            assert ask.producer == self.lane.producer
            self.asked.append((ask, self.daemon.watermark(ask.producer) if self.is_up else None))

    @precondition(lambda self: self.asked)
    @rule(fails=st.booleans())
    def answer(self, fails):
        ask, watermark = self.asked.pop(0)
        self.excuse()
        self.lane.answer(ask, None if fails else watermark, self.now)

    @rule(seconds=st.sampled_from([0.01, ASK_FIRST_S, ASK_S, *PROBE_S, *REWIND_S, 6.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(room=st.integers(0, 5))
    def change_room(self, room):
        self.room = room

    @rule()
    def subscribe(self):
        """A subscription is answered with what the daemon knows."""
        self.said.append(self.daemon.ack(self.lane.producer))

    # ------------------------------------------------------------ the disasters

    @precondition(lambda self: not self.is_calm)
    @rule(are_late=st.booleans(), returns=st.booleans())
    def cut(self, are_late, returns):
        """The connection breaks; what is on it is lost, or comes late."""
        if are_late and self.wire:
            self.strays.append(self.wire)
        self.lose(returns)

    @precondition(lambda self: not self.is_calm and self.strays)
    @rule(place=st.integers(0, 3), count=st.integers(1, 3))
    def deliver_late(self, place, count):
        place = min(place, len(self.strays) - 1)
        for _ in range(min(count, len(self.strays[place]))):
            self.said.append(self.daemon.take(self.strays[place].pop(0)))
        self.strays = [each for each in self.strays if each]

    @precondition(lambda self: not self.is_calm)
    @rule(tells=st.booleans(), returns=st.booleans())
    def kill(self, tells, returns):
        """The daemon is killed: what it had not committed is gone, and what it had not said."""
        self.strays = []
        if not tells:
            self.said = []
        self.daemon.run += 1
        self.lose(returns)

    def lose(self, returns):
        self.wire = []
        if self.is_up:
            self.is_up = False
            self.lane.disconnected()
        if returns:
            self.connect()

    @rule()
    def connect(self):
        if not self.is_up:
            self.is_up = True
            self.excuse()
            self.lane.connected()

    @precondition(lambda self: not self.is_calm)
    @rule()
    def break_silently(self):
        """The connection breaks and is there again, and nobody notices."""
        self.wire = []

    @precondition(lambda self: not self.is_calm)
    @rule(place=st.integers(0, 4))
    def corrupt(self, place):
        if place < len(self.wire):
            header, body = self.wire[place]
            self.wire[place] = [header, body + b"\xc1"]

    @rule()
    def back_up(self):
        self.backup = copy.deepcopy(self.daemon)

    @precondition(lambda self: not self.is_calm)
    @rule(empty=st.booleans(), tells=st.booleans())
    def restore(self, empty, tells):
        """The daemon goes on with an older copy of its store, or with none."""
        before, run = self.daemon, self.daemon.run
        self.kill(tells, False)
        self.daemon = Daemon() if empty else copy.deepcopy(self.backup)
        self.daemon.run = run + 1
        self.forgotten |= set(before.events) - set(self.daemon.events)
        self.connect()

    @precondition(lambda self: not self.is_calm)
    @rule(forgotten=st.integers(0, 2))
    def adopt(self, forgotten):
        """The process is killed, and another one goes on with its batches."""
        if self.wire:
            self.strays.append(self.wire)
        self.folder.adopt(forgotten)
        self.asked, self.wire = [], []
        self.lane = Lane(self.folder)
        self.excuse()
        if self.is_up:
            self.lane.connected()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def stores_each_event_once_and_in_order(self):
        assert self.daemon.events == sorted(set(self.daemon.events))

    @invariant()
    def settles_only_what_was_dealt_with(self):
        dealt_with = set(self.daemon.events) | self.forgotten | self.bad
        for batch in self.folder.batches[: self.folder.done]:
            assert set(batch.tag) <= dealt_with

    @invariant()
    def counts_right(self):
        ledger = self.lane.ledger
        assert ledger.lost == 0
        assert ledger.settled <= ledger.sent <= self.numbers
        assert ledger.refused >= 0
        self.reported += ledger.take_reports()

    @invariant()
    def reports_bad_events(self):
        for report in self.reported:
            for packed, (_, place, _, _), tag in zip(
                report.elements, report.refusals, report.tags, strict=True
            ):
                assert wire.unpack(packed) == {"n": tag[place], "bad": True}
                assert tag[place] in self.bad

    def teardown(self):
        """When all is well again, the fate of every event becomes known, soon."""
        if not hasattr(self, "lane"):
            return
        self.strays, self.room = [], 100
        self.connect()
        until = self.now + 60
        while self.folder.done < len(self.folder.batches):
            assert self.now < until, "the lane stalls"
            self.ask()
            self.send(1)
            self.deliver(100)
            while self.said:
                self.hear(0, "heard")
            while self.asked:
                self.answer(False)
            wake_at = self.lane.wake_at()
            if self.lane.offer(self.now) is None and wake_at is not None:
                self.now = max(self.now, wake_at)
        self.settles_only_what_was_dealt_with()
        self.counts_right()
        self.reports_bad_events()
        self.stores_each_event_once_and_in_order()
        if self.is_calm:
            assert self.lane.resent == 0, "back-pressure makes it send nothing again"
            assert self.lane.ledger.refused == len(self.bad)
        # Whatever was not lost with a store that was replaced is there, and so is all since.
        assert set(range(self.numbers)) - self.bad - self.forgotten <= set(self.daemon.events)


TestLane = World.TestCase
TestLane.settings = settings(stateful_step_count=60)


# ---------------------------------------------------------------- one at a time


@pytest.fixture
def folder():
    return Folder()


@pytest.fixture
def lane(folder):
    lane = Lane(folder)
    lane.connected()
    return lane


def put(folder, count):
    for number in range(count):
        folder.put([number])


def send(lane, now=0.0):
    """Send all that can be sent; returns the numbers."""
    numbers = []
    while (frames := lane.offer(now)) is not None:
        lane.taken(now)
        numbers.append(wire.decode_batch_header(frames[0]).n)
    return numbers


def nack(n, last, code="gap", *, epoch=1, run=1):
    return Nack(n, epoch, last, code, "why", run)


def settle(lane, last, now=0.0, *, refused=0, run=1):
    lane.acknowledge(last, refused, run, now)


def test_a_batch_is_offered_at_once_and_once(lane, folder):
    folder.put([7])
    header = wire.decode_batch_header(lane.offer(0.0)[0])
    assert (header.producer, header.epoch, header.n, header.size) == (folder.producer, 1, 1, 1)
    assert send(lane) == [1]
    assert lane.offer(0.0) is None


def test_nothing_is_offered_without_a_connection(folder):
    lane = Lane(folder)
    folder.put([7])
    assert lane.offer(0.0) is None
    assert lane.wake_at() is None


def test_the_window_bounds_what_is_under_way(lane, folder):
    put(folder, WINDOW + 2)
    assert send(lane) == [*range(1, WINDOW + 1)]
    assert folder.taken == WINDOW, "the rest stays where it is"
    settle(lane, 1)
    assert send(lane) == [WINDOW + 1]


def test_the_window_bounds_the_bytes_under_way(lane, folder, monkeypatch):
    monkeypatch.setattr(lane_module, "WINDOW_BYTES", 2)
    put(folder, 4)
    size = len(folder.batches[0].body)
    assert size >= 2
    assert send(lane) == [1], "one at least, however large"
    monkeypatch.setattr(lane_module, "WINDOW_BYTES", 2 * size + 1)
    assert send(lane) == [2, 3]
    assert lane.ledger.kept_bytes == 3 * size
    settle(lane, 3)
    assert lane.ledger.kept_bytes == 0
    assert send(lane) == [4]


def test_an_ack_settles_and_releases(lane, folder):
    folder.put([1, 2])
    send(lane)
    settle(lane, 1)
    ledger = lane.ledger
    assert (ledger.stored, ledger.settled, ledger.sent, folder.done) == (2, 2, 2, 1)
    assert ledger.released == len(element(1)) + len(element(2)) + 2 * ELEMENT_OVERHEAD
    assert lane.wake_at() is None


def test_silence_makes_it_ask_and_a_watermark_settles(lane, folder):
    put(folder, 1)
    send(lane)
    assert lane.wake_at() == ASK_FIRST_S
    assert lane.ask(ASK_FIRST_S - 0.01) is None
    ask = lane.ask(ASK_FIRST_S)
    assert lane.ask(1.0) is None, "one at a time"
    lane.answer(ask, Watermark(1, 1, 0, (), 1), 1.0)
    assert lane.ledger.stored == 1


def test_a_watermark_that_stands_still_proves_nothing(lane, folder):
    put(folder, 1)
    send(lane)
    for now in (0.5, 1.0, 1.5):
        lane.answer(lane.ask(now), Watermark(1, 0, 0, (), 1), now)
    assert send(lane, 1.5) == []


def test_a_failed_ask_is_repeated(lane, folder):
    put(folder, 1)
    send(lane)
    lane.answer(lane.ask(1.0), None, 2.0)
    assert lane.ask(2.0) is None
    assert lane.ask(2.0 + ASK_S) is not None


def test_a_gap_is_filled_once_however_many_nacks_it_draws(lane, folder):
    put(folder, 10)
    send(lane)
    for n in range(4, 11):
        lane.reject(nack(n, 2), 0.1)
    assert send(lane, 0.1) == [*range(3, 11)], "the front is confirmed by the NACK's last"
    for n in range(4, 11):
        lane.reject(nack(n, 2), 0.2)
    assert send(lane, 0.2) == []
    settle(lane, 5, 0.3)
    lane.reject(nack(7, 5), 0.3)
    assert send(lane, 0.3) == [6, 7, 8, 9, 10], "that is another gap"


def test_a_gap_that_stays_is_filled_again_and_ever_more_slowly(lane, folder):
    put(folder, 2)
    send(lane)
    now, resent = 0.0, []
    while now < 20.0:
        lane.reject(nack(2, 0), now)
        if 1 in send(lane, now):
            resent.append(now)
        now += 0.25
    waits = [after - before for before, after in itertools.pairwise(resent)]
    assert waits[:5] == [0.5, 1.0, 2.0, 4.0, 5.0]


def test_a_nack_that_came_too_late_does_nothing(lane, folder):
    put(folder, 5)
    send(lane)
    lane.reject(nack(4, 4), 0.1)
    assert send(lane, 0.1) == [], "the gap was closed in the same transaction"
    settle(lane, 4, 0.1)
    lane.reject(nack(3, 1), 0.2)
    assert send(lane, 0.2) == []


def test_each_connection_gets_all_that_is_kept(lane, folder):
    put(folder, 4)
    send(lane)
    settle(lane, 1)
    lane.disconnected()
    folder.put([9])
    assert lane.offer(0.0) is None
    lane.connected()
    assert send(lane) == [2, 3, 4, 5]
    assert lane.resent == 3


def test_each_run_gets_all_that_is_kept_and_only_once(lane, folder):
    put(folder, 3)
    send(lane)
    settle(lane, 1, run=1)
    settle(lane, 2, run=2)
    assert send(lane) == [3], "the daemon is another one, behind a connection that held"
    settle(lane, 2, run=1)
    settle(lane, 2, run=2)
    assert send(lane) == [], "both are known"
    lane.disconnected()
    lane.connected()
    assert send(lane) == [3]
    settle(lane, 2, run=3)
    assert send(lane) == [], "it was sent to that one"


def test_a_probe_proves_a_gap(lane, folder):
    put(folder, 3)
    send(lane)
    settle(lane, 1)
    assert lane.wake_at() == ASK_S
    assert send(lane, PROBE_S[0] - 0.1) == []
    (probe,) = send(lane, PROBE_S[0])
    assert probe in PROBES
    lane.reject(nack(probe, 1), 2.1)
    assert send(lane, 2.1) == [2, 3]


def test_a_probe_proves_that_the_daemon_is_only_slow(lane, folder):
    put(folder, 3)
    send(lane)
    settle(lane, 1)
    (first,) = send(lane, 2.0)
    folder.put([4])
    assert send(lane, 2.0) == [4]
    (second,) = send(lane, 6.0)
    assert first != second
    lane.reject(nack(first, 3), 7.0)
    assert send(lane, 7.0) == [], "4 went out behind it"
    lane.reject(nack(first, 3), 7.0)
    assert send(lane, 7.0) == [], "once answered"
    lane.reject(nack(second, 3), 7.0)
    assert send(lane, 7.0) == [4]


def test_probes_come_ever_more_slowly_until_there_is_progress(lane, folder):
    put(folder, 2)
    send(lane)
    now, probed = 0.0, []
    while now < 20.0:
        probed += [now for n in send(lane, now) if n in PROBES]
        now += 0.5
    assert probed == [2.0, 6.0, 11.0, 16.0]
    settle(lane, 1, 20.0)
    assert [n in PROBES for n in send(lane, 22.0)] == [True]


def test_a_probe_of_an_old_connection_proves_nothing(lane, folder):
    put(folder, 2)
    send(lane)
    (probe,) = send(lane, 2.0)
    lane.disconnected()
    lane.connected()
    send(lane, 3.0)
    lane.reject(nack(probe, 0), 3.0)
    assert send(lane, 3.0) == []


def test_a_store_that_forgot_gets_all_that_is_kept_under_a_new_producer(lane, folder):
    put(folder, 3)
    old = folder.producer
    send(lane)
    settle(lane, 2)
    lane.disconnected()
    lane.connected()
    assert send(lane) == [3]
    lane.reject(nack(3, 1, run=2), 1.0)
    assert send(lane, 1.0) == [], "a NACK may be an old one"
    lane.answer(lane.ask(1.0), Watermark(1, 1, 0, (), 2), 1.1)
    assert folder.producer != old
    frames = lane.offer(1.1)
    assert frames == wire.encode_batch(folder.producer, 1, 1, [element(2)])
    assert send(lane, 1.1) == [1]
    settle(lane, 1, 1.2, run=2)
    assert (lane.ledger.stored, lane.restarts, folder.done) == (3, 1, 3)


def test_an_idle_lane_notices_it_too(lane, folder):
    put(folder, 1)
    send(lane)
    settle(lane, 1)
    settle(lane, 0, 5.0, run=2)  # a subscription is answered
    lane.answer(lane.ask(5.0), Watermark(0, 0, 0, (), 2), 5.1)
    assert lane.restarts == 1


def test_numbers_that_it_never_gave_are_not_believed(lane, folder):
    put(folder, 1)
    send(lane)
    settle(lane, 7)
    assert lane.ledger.stored == 0
    lane.answer(lane.ask(0.0), Watermark(1, 7, 0, (), 1), 0.1)
    assert (lane.ledger.stored, lane.ledger.lost, lane.restarts) == (0, 0, 1)
    assert send(lane, 0.1) == [1]


def test_a_watermark_from_before_an_ack_is_no_loss(lane, folder):
    put(folder, 2)
    send(lane)
    ask = lane.ask(1.0)
    settle(lane, 1, 1.0)
    lane.answer(ask, Watermark(1, 0, 0, (), 1), 1.1)
    assert (lane.ledger.stored, lane.restarts) == (1, 0)


def test_an_answer_for_a_producer_that_is_history_does_nothing(lane, folder):
    put(folder, 2)
    send(lane)
    settle(lane, 1)
    stale = lane.ask(1.0)
    lane.answer(stale, Watermark(1, 0, 0, (), 1), 1.0)
    assert lane.restarts == 1
    lane.answer(stale, Watermark(1, 2, 0, (), 1), 1.0)
    assert lane.ledger.stored == 1


def test_a_source_that_does_not_go_on_ends_the_lane(lane, folder):
    folder.goes_on = False
    put(folder, 2)
    send(lane)
    settle(lane, 1)
    settle(lane, 0, 1.0)
    lane.answer(lane.ask(1.0), Watermark(1, 0, 0, (), 1), 1.0)
    assert lane.is_over
    lane.connected()
    assert lane.offer(2.0) is None
    assert lane.wake_at() is None


# ---------------------------------------------------------------- refused


def test_refusals_come_with_the_watermark(lane, folder):
    folder.put([1, 2], {2})
    send(lane)
    settle(lane, 1, refused=1)
    assert lane.ledger.settled == 0, "the watermark has the reasons"
    refusal = (1, 1, "bad_event", "why")
    lane.answer(lane.ask(0.0), Watermark(1, 1, 1, (refusal,), 1), 0.1)
    assert (lane.ledger.stored, lane.ledger.refused) == (1, 1)
    (report,) = lane.ledger.take_reports()
    assert (report.count, report.refusals) == (1, [refusal])
    assert report.elements == [element(2, bad=True)]
    assert report.tags == [(1, 2)]
    assert lane.ledger.take_reports() == []


def test_a_batch_that_the_daemon_cannot_read_is_given_up(lane, folder):
    folder.batches.append(Batch(3, pack_body([element(1), element(2)])))
    folder.put([3])
    send(lane)
    for now in (0.0, 1.0, 3.0):
        lane.reject(nack(1, 0, "bad_batch"), now)
        lane.reject(nack(2, 0), now)
        frames = lane.offer(now)
        assert send(lane, now) == [1, 2]
    assert frames == wire.encode_batch(folder.producer, 1, 1, [])
    settle(lane, 2, 3.0)
    assert (lane.ledger.stored, lane.ledger.refused, lane.ledger.lost) == (1, 3, 0)
    (report,) = lane.ledger.take_reports()
    assert report.refusals == [(1, place, "bad_batch", "why") for place in range(3)]
    assert report.elements == [element(1), element(2), b""]


# ---------------------------------------------------------------- taken over


def test_a_higher_epoch_costs_what_was_under_way_and_no_more(lane, folder):
    put(folder, 3)
    send(lane)
    put(folder, 1)
    settle(lane, 1)
    lane.reject(nack(2, 1, "fenced", epoch=2), 1.0)
    assert send(lane, 1.0) == [4], "the watermark decides"
    folder.put([9])
    lane.answer(lane.ask(1.0), Watermark(2, 2, 0, (), 1), 1.1)
    ledger = lane.ledger
    assert (ledger.stored, ledger.lost, lane.restarts, folder.done) == (2, 2, 1, 4)
    assert send(lane, 1.1) == [1]
    settle(lane, 1, 1.2)
    assert (ledger.stored, ledger.settled) == (3, 5)


def test_a_nack_for_the_dead_owner_of_a_lane_does_not_bother_the_living(folder):
    put(folder, 2)
    folder.adopt(0)
    lane = adopted(folder, Watermark(1, 0, 0, (), 1))
    assert send(lane) == [1, 2]
    lane.reject(nack(1, 0, "fenced", epoch=2), 0.1)
    assert send(lane, 0.1) == []
    assert lane.restarts == 0


def adopted(folder, watermark):
    lane = Lane(folder)
    lane.connected()
    assert lane.offer(0.0) is None, "it asks first"
    lane.answer(lane.ask(0.0), watermark, 0.0)
    return lane


def test_what_the_daemon_has_is_not_sent_again(folder):
    put(folder, 5)
    folder.put([9])
    folder.adopt(0)
    lane = adopted(folder, Watermark(1, 4, 0, (), 1))
    assert send(lane) == [5, 6]
    assert (lane.ledger.stored, lane.resent, folder.done) == (4, 0, 4)


def test_what_is_refused_is_told_by_the_batch_that_it_was_in(folder):
    folder.put([1, 2], {2})
    folder.put([3, 4], {3})
    folder.adopt(0)
    refusals = ((1, 1, "bad_event", "a"), (2, 0, "bad_event", "b"))
    lane = adopted(folder, Watermark(1, 2, 2, refusals, 1))
    assert send(lane) == []
    reports = lane.ledger.take_reports()
    assert [(each.count, each.refusals, each.tags) for each in reports] == [
        (1, [refusals[0]], [(1, 2)]),
        (1, [refusals[1]], [(3, 4)]),
    ]
    assert (lane.ledger.stored, lane.ledger.refused) == (2, 2)


def test_refusals_that_the_dead_owner_was_told_of_are_not_told_again(folder):
    folder.put([1], {1})
    folder.put([2], {2})
    folder.taken = folder.done = 1
    folder.adopt(0)
    refusals = ((1, 0, "bad_event", "a"), (2, 0, "bad_event", "b"))
    lane = adopted(folder, Watermark(1, 2, 2, refusals, 1))
    assert send(lane) == []
    (report,) = lane.ledger.take_reports()
    assert report.refusals == [refusals[1]]
    assert (lane.ledger.stored, lane.ledger.refused) == (0, 1)


def test_a_daemon_that_never_heard_of_it_gets_all_under_a_new_producer(folder):
    put(folder, 4)
    folder.taken = folder.done = 2
    folder.adopt(0)
    lane = adopted(folder, Watermark(0, 0, 0, (), 1))
    # Perhaps the dead process had become that producer too, and could not note it.
    assert lane.offer(0.0) is None, "it asks again"
    lane.answer(lane.ask(0.0), Watermark(1, 1, 0, (), 1), 0.0)
    assert send(lane) == [2]
    assert lane.restarts == 1
