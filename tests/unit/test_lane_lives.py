"""Random lives of a producer: connections that break, daemons that die and forget, heirs.

The examples of the rules are in test_lane.py; here is all of them at once, against a model of the
daemon that knows nothing of the lane. What must hold is what a user is promised: each event is
stored once and in order, nothing is lost but with a store that was replaced or a producer that
somebody else took over, and nothing is sent again without a reason.
"""

import random
import zlib
from collections import Counter, deque
from typing import NamedTuple

import pytest

from zstream import wire
from zstream.confirmation import Ask, Nack, Refusal, Watermark
from zstream.lane import PROBES, WINDOW, Lane
from zstream.source import Batch, pack_body

from .lives import lead

STEPS = 350
#: Rounds and seconds in which all must be settled once nothing is lost any more.
ROUNDS, SECONDS = 3_000, 60
#: Messages that a socket holds.
ROOM = 20

Frames = list[bytes]


def is_bad(number: int) -> bool:
    """Whether the daemon refuses this event."""
    return number % 17 == 3


def is_poisoned(place: int) -> bool:
    """Whether a batch rots each time that it is sent."""
    return place % 97 == 5


class Row(NamedTuple):
    epoch: int = 0
    last: int = 0
    refusals: tuple[Refusal, ...] = ()


class Daemon:
    """The daemon's half of docs/protocol.md, "Numbered batches"; it takes several at a time."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.events: list[int] = []
        self.run = 0

    def copy(self) -> "Daemon":
        other = Daemon()
        other.rows, other.events = dict(self.rows), list(self.events)
        return other

    def row(self, producer: bytes) -> Row:
        return self.rows.get(producer, Row())

    def ack(self, producer: bytes) -> tuple[bytes, tuple[int, int, int]]:
        row = self.row(producer)
        return producer, (row.last, len(row.refusals), self.run)

    def watermark(self, producer: bytes) -> Watermark:
        epoch, last, refusals = self.row(producer)
        return Watermark(epoch, last, len(refusals), refusals[-100:], self.run)

    def transact(self, messages: list[Frames]) -> list[tuple[bytes, tuple[int, int, int] | Nack]]:
        """Take batches in one transaction; returns what is said of them when it is committed."""
        confirmed: dict[bytes, None] = {}
        refused: list[tuple[bytes, int, str]] = []
        for frames in messages:
            header = wire.decode_batch_header(frames[0])
            code = self.take(header, frames[1])
            if code:
                refused.append((header.producer, header.n, code))
            else:
                confirmed[header.producer] = None
        said: list[tuple[bytes, tuple[int, int, int] | Nack]] = [*map(self.ack, confirmed)]
        for producer, n, code in refused:
            row = self.row(producer)
            said.append((producer, Nack(n, row.epoch, row.last, code, "why", self.run)))
        return said

    def take(self, header: wire.BatchHeader, body: bytes) -> str:
        epoch, last, refusals = self.row(header.producer)
        if header.crc32 != zlib.crc32(body):
            return "bad_batch"
        if header.epoch < epoch:
            return "fenced"
        if header.n <= last + 1 or header.epoch > epoch:
            is_next = header.n == last + 1
            if is_next:
                for place, number in enumerate(wire.unpack(body)):
                    if is_bad(number):
                        refusals += ((header.n, place, "bad_request", "why"),)
                    else:
                        self.events.append(number)
            self.rows[header.producer] = Row(header.epoch, last + is_next, refusals)
        return "gap" if header.n > last + 1 else ""


class Folder:
    """A source whose batches outlive a process, as a spool's do."""

    def __init__(self, life: "Life") -> None:
        self.life = life
        self.batches: list[Batch] = []
        self.base = self.done = self.taken = 0  # number 1 less one, settled, taken
        self.epoch = self.names = 1
        self.resumes = self.is_over = False
        self.producer = self.names.to_bytes(16, "big")

    @property
    def first(self) -> int:
        return self.done - self.base + 1

    def put(self, numbers: range) -> None:
        self.batches.append(Batch(len(numbers), pack_body(map(wire.pack, numbers)), numbers))

    def take(self) -> Batch | None:
        if self.taken == len(self.batches):
            return None
        self.taken += 1
        return self.batches[self.taken - 1]

    def settled(self, n: int) -> None:
        done = self.base + n
        assert self.done <= done <= self.taken
        for place in range(self.done, done):
            self.life.check_fate(place)
        self.done = done

    def restart(self) -> bool:
        self.base = self.done
        self.names += 1
        self.producer = self.names.to_bytes(16, "big")
        return True

    def adopt(self, forgotten: int) -> None:
        """What the next process finds, if the newest settlements were not written down."""
        self.done = self.taken = max(self.base, self.done - forgotten)
        self.epoch += 1
        self.resumes = True


class Watch:
    """What was sent: nothing may be again without a reason."""

    def __init__(self) -> None:
        self.under_way: set[int] = set()
        self.runs: deque[int] = deque(maxlen=8)

    def excuse(self) -> None:
        self.under_way.clear()

    def heard(self, run: int) -> None:
        if run not in self.runs:
            self.runs.append(run)
            self.excuse()

    def sends(self, n: int) -> None:
        assert n not in self.under_way, "sent again without a reason"
        self.under_way.add(n)


class Life:
    """One producer's.

    Args:
        seed: Of all that happens.
        faults: What besides slowness: "cut" (connections break, batches rot, the daemon is
            killed), "replace" (its store is), "adopt" (the process is killed, and another goes on),
            "usurp" (another goes on, though it was not).
    """

    def __init__(self, seed: int, faults: frozenset[str]) -> None:
        self.faults = faults
        self.random = random.Random(f"{seed} {sorted(faults)}")
        self.daemon = Daemon()
        self.daemon.run = self.new_run()
        self.backup: Daemon | None = None
        self.is_up, self.is_calm = True, False
        self.now = 0.0
        self.total = 0
        self.ever: set[int] = set()  # stored, perhaps in a store that was replaced
        self.kept_from = 0
        self.rotten: Counter[int] = Counter()  # how often a batch, by its place, was not readable
        self.usurped: set[int] = set()  # the places of what an usurper may have got
        self.connections: list[deque[Frames]] = []
        self.live: deque[Frames] | None = None
        self.changes: deque[bool] = deque()  # of the connection, not yet heard of
        self.said: deque[tuple[bytes, tuple[int, int, int] | Nack]] = deque()
        self.asked: list[tuple[Ask, Watermark | None]] = []
        self.folder = Folder(self)
        self.start()

    def new_run(self) -> int:
        return self.random.getrandbits(50)

    def start(self) -> None:
        self.lane = Lane(self.folder)
        self.first = self.folder.done  # the place of the lane's first batch
        self.reported = 0
        self.is_fresh = False  # connected, and nothing sent yet
        self.topic = b""
        self.meet()

    def meet(self) -> None:
        """Subscribe to what is said of the producer, which is answered with what is known."""
        if self.topic != self.lane.producer:
            self.topic = self.lane.producer
            self.sent_n = 0
            self.watch = Watch()
        if self.is_up and (self.is_calm or self.random.random() < 0.8):
            self.said.append(self.daemon.ack(self.topic))

    def check_fate(self, place: int) -> None:
        """A batch is settled: of each of its events it is known what became of it."""
        if self.rotten[place] < 3 and place not in self.usurped:
            numbers = self.folder.batches[place].tag
            assert isinstance(numbers, range)
            assert all(is_bad(each) or each in self.ever for each in numbers)

    # ------------------------------------------------------------ the process

    def put(self) -> None:
        size = self.random.choice((0, 1, 1, 2, 5, 30))
        for _ in range(self.random.choice((1, 1, 1, 1, 1, 30))):
            self.folder.put(range(self.total, self.total + size))
            self.total += size

    def turn(self) -> None:
        """The link's thread goes round."""
        choose = self.random.random
        if choose() < 0.5:
            self.hear()
        while self.changes and (self.is_calm or choose() < 0.8):
            if self.changes.popleft():
                self.watch.excuse()
                self.is_fresh = True
                self.lane.connected()
            else:
                self.lane.disconnected()
        for answer in self.asked[:]:
            if self.is_calm or choose() < 0.4:
                self.asked.remove(answer)
                self.answer(*answer)
        self.hear()
        self.send()
        ask = self.lane.ask(self.now)
        if ask is not None:
            assert ask.producer == self.lane.producer
            assert not self.asked, "one request at a time"
            fails = not self.is_up or (not self.is_calm and choose() < 0.2)
            self.asked.append((ask, None if fails else self.daemon.watermark(ask.producer)))
        if self.lane.producer != self.topic:
            self.meet()
        self.check_reports()

    def answer(self, ask: Ask, watermark: Watermark | None) -> None:
        sent = 0
        if watermark is not None:
            if ask.producer == self.topic:
                self.watch.heard(watermark.run)
            if watermark.epoch > self.folder.epoch and ask.producer == self.lane.producer:
                sent = self.folder.base + self.sent_n
                self.usurped |= set(range(self.folder.done, sent))
        self.lane.answer(ask, watermark, self.now)
        assert self.folder.done >= sent, "what the other one has is sent again"

    def hear(self) -> None:
        for _ in range(len(self.said) if self.is_calm else self.random.randint(0, len(self.said))):
            producer, said = self.said.popleft()
            if producer != self.lane.producer or (not self.is_calm and self.random.random() < 0.1):
                continue
            if isinstance(said, Nack):
                self.watch.heard(said.run)
                if said.code != "fenced":
                    self.watch.under_way -= {n for n in self.watch.under_way if n > said.last}
                self.lane.reject(said, self.now)
            else:
                self.watch.heard(said[2])
                self.lane.acknowledge(*said, self.now)

    def send(self) -> None:
        while (frames := self.lane.offer(self.now)) is not None:
            assert frames == self.lane.offer(self.now)
            if self.live is None or len(self.live) >= ROOM:
                return  # and the same comes again
            header = wire.decode_batch_header(frames[0])
            if header.producer != self.topic:
                self.meet()
            if header.n not in PROBES:
                assert header.n <= self.lane.ledger.confirmed_n + WINDOW
                assert not self.is_fresh or header.n == self.lane.ledger.confirmed_n + 1
                self.is_fresh = False
                self.watch.sends(header.n)
                self.sent_n = max(self.sent_n, header.n)
            self.live.append(frames)
            self.lane.taken(self.now)
            self.poison(header)

    def check_reports(self) -> None:
        for report in self.lane.ledger.take_reports():
            self.reported += report.count
            for refusal, element, tag in zip(
                report.refusals, report.elements, report.tags, strict=True
            ):
                assert isinstance(tag, range)
                assert wire.unpack(element) == tag[refusal[1]]
                assert refusal[2] == "bad_batch" or is_bad(tag[refusal[1]])
        assert self.reported == self.lane.ledger.refused

    # ------------------------------------------------------------ the network

    def connect(self) -> None:
        if self.live is None and self.is_up:
            self.live = deque()
            self.connections.append(self.live)
            self.changes.append(True)
            self.meet()

    def cut(self) -> None:
        """The first of what is under way may still arrive, beside what the next one brings."""
        if self.live is not None:
            for _ in range(self.random.randint(0, len(self.live))):
                self.live.pop()
            self.live = None
            self.changes.append(False)
            if self.random.random() < 0.5:
                for _ in range(self.random.randint(0, len(self.said))):
                    self.said.pop()

    def poison(self, header: wire.BatchHeader) -> None:
        """Some batches never arrive whole, as long as there is something in them."""
        place = self.folder.base + header.n - 1
        if self.faults == {"cut"} and header.size and is_poisoned(place) and self.live is not None:
            frames = self.live.pop()
            self.live.append([frames[0], frames[1] + b"\xc1"])
            self.rotten[place] += 1

    def rot(self) -> None:
        if self.live:
            place = self.random.randrange(len(self.live))
            frames = self.live[place]
            header = wire.decode_batch_header(frames[0])
            is_whole = header.crc32 == zlib.crc32(frames[1])
            if is_whole and header.producer == self.lane.producer and header.n not in PROBES:
                self.live[place] = [frames[0], frames[1] + b"\xc1"]
                self.rotten[self.folder.base + header.n - 1] += 1

    # ------------------------------------------------------------ the daemon

    def serve(self) -> None:
        if not self.is_up:
            return
        messages = []
        for _ in range(self.random.randint(0, 30)):
            waiting = [each for each in self.connections if each]
            if waiting:
                messages.append(self.random.choice(waiting).popleft())
        self.connections = [each for each in self.connections if each or each is self.live]
        if messages:
            self.said += self.daemon.transact(messages)
            self.ever |= set(self.daemon.events)

    def kill(self) -> None:
        self.cut()
        self.connections.clear()
        self.is_up = False

    def replace(self) -> None:
        self.kill()
        is_empty = self.backup is None or self.random.random() < 0.2
        self.daemon = Daemon() if is_empty or self.backup is None else self.backup.copy()

    def restart(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.daemon.run = self.new_run()

    # ------------------------------------------------------------ the heirs

    def adopt(self) -> None:
        """The process is killed, and another one goes on with its batches."""
        self.cut()
        self.folder.adopt(self.random.choice((0, 0, 1, 3)))
        self.asked.clear()
        self.changes.clear()
        self.start()

    def usurp(self) -> None:
        """Somebody else goes on with its batches, and it does not know."""
        row = self.daemon.row(self.lane.producer)
        self.daemon.rows[self.lane.producer] = row._replace(epoch=self.folder.epoch + 1)

    # ------------------------------------------------------------ the life

    def step(self) -> None:
        self.now += self.random.choice((0.001, 0.001, 0.01, 0.1, 0.6, 2.5))
        chance = self.random.random()
        if chance < 0.2:
            self.put()
        elif chance < 0.4:
            self.connect()
        elif chance < 0.7:
            self.turn()
        elif chance < 0.9:
            self.serve()
        elif chance < 0.95:
            self.restart()
        elif chance < 0.96:
            self.backup = self.daemon.copy()
        else:
            self.disaster()

    def disaster(self) -> None:
        chance = self.random.random()
        if "replace" in self.faults and chance < 0.1:
            self.replace()
        elif "adopt" in self.faults and chance < 0.3:
            self.adopt()
        elif "usurp" in self.faults and chance < 0.1:
            self.usurp()
        elif "cut" in self.faults:
            self.random.choice((self.cut, self.cut, self.kill, self.rot, self.rot, self.rot))()

    def lead(self) -> None:
        for _ in range(STEPS):
            self.step()
        self.is_calm = True
        until = self.now + SECONDS
        for _ in range(ROUNDS):
            self.restart()
            self.connect()
            before = self.now
            self.turn()
            self.serve()
            if self.folder.done == len(self.folder.batches) and not self.asked:
                break
            if not (self.said or self.asked or any(self.connections) or self.changes):
                wake_at = self.lane.wake_at()
                assert wake_at is not None or self.lane.offer(self.now), "it sleeps for ever"
                self.now = max(self.now, wake_at or 0.0)
            assert before <= until, "it takes too long"
        else:
            raise AssertionError(f"it stalls at {self.folder.done} of {len(self.folder.batches)}")
        self.check()

    def check(self) -> None:
        events, ledger = self.daemon.events, self.lane.ledger
        assert events == sorted(set(events)), "twice, or not in order"
        given_up = {place for place, count in self.rotten.items() if count >= 3}
        for place in range(len(self.folder.batches)):
            self.check_fate(place)
        if "usurp" not in self.faults:
            assert ledger.lost == 0
        if "cut" not in self.faults:
            assert self.lane.resent == 0, "being slow makes it send nothing again"
        if not self.faults & {"usurp", "replace"}:
            assert self.lane.restarts == 0
        if "replace" not in self.faults:
            gone = [each for each in self.good(0) if each not in self.ever]
            assert len(gone) <= ledger.lost
        chance = {each for each in given_up if "adopt" in self.faults or not is_poisoned(each)}
        if not self.faults & {"usurp", "replace"} and not chance:
            total = sum(batch.size for batch in self.folder.batches[self.first :])
            assert ledger.settled == ledger.sent == total
            assert ledger.stored == len(self.good(self.first))
            assert ledger.refused == total - ledger.stored

    def good(self, first: int) -> list[int]:
        """The events from this batch on that are to be stored."""
        return [
            number
            for place, batch in enumerate(self.folder.batches[first:], first)
            if self.rotten[place] < 3 and isinstance(batch.tag, range)
            for number in batch.tag
            if not is_bad(number)
        ]


@pytest.mark.parametrize(
    ("faults", "count"),
    [
        pytest.param("", 15, id="slow"),
        pytest.param("cut", 35, id="cut"),
        pytest.param("cut replace", 30, id="replaced"),
        pytest.param("cut adopt", 40, id="adopted"),
        pytest.param("cut usurp", 25, id="usurped"),
    ],
)
def test_each_event_is_stored_once_and_in_order(faults: str, count: int) -> None:
    lead(lambda seed: Life(seed, frozenset(faults.split())).lead(), count)
