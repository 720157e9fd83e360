"""One store through many lives of its daemon: what was told outside, and whether it is so."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from .model import KEYS, Event, Model, Row, check_whole, make_event
from .process import DATA, Died, Peer, Plan, Process, serve

HELLO, ACK = 2, 4
EVERYTHING: Final = b"{}"
FEW: Final = b'{"user":[1,2]}'
FEWER: Final = b'{"user":[1,2,3,4],"deep.x":["true","2.5"]}'


def element(event: Event) -> Any:
    """As it stands in an insert frame."""
    return [event["at"], event] if "at" in event else event


@dataclass
class Outside:
    """What everybody but the daemon knows of a store.

    Attributes:
        sent: All that was ever sent, by its number n.
        rows: What was found in the store when it was last looked at, by n.
        committed: Numbers known to be committed since then.
        ids: Of those, the ids where they were told.
        inserts: Groups of numbers that were asked to be inserted all or none, not answered.
        batches: Numbered batches, by their number.
        acknowledged: The last of them known to be dealt with.
        head: The last id that was told.
        floors: Floors that may be.
    """

    sent: dict[int, Event] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)
    ids: dict[int, int] = field(default_factory=dict)
    inserts: list[list[int]] = field(default_factory=list)
    batches: dict[int, list[int]] = field(default_factory=dict)
    acknowledged: int = 0
    head: int = 0
    floors: list[int] = field(default_factory=lambda: [0])

    def make(self, rng: random.Random, count: int) -> list[int]:
        """So many new events; their numbers."""
        first = len(self.sent)
        for n in range(first, first + count):
            self.sent[n] = make_event(n, rng)
        return list(range(first, first + count))


class History:
    """A store, and one daemon after another on it."""

    def __init__(self, folder: Path, rng: random.Random, store: Path | None = None) -> None:
        self.folder, self.rng = folder, rng
        self.store = store or folder / "store.db"
        #: What daemons are told of keys.
        self.told: tuple[str, ...] = ("--keys", ",".join(KEYS))
        self.known = Outside()
        self.producer = rng.randbytes(16)
        self.model = Model()

    def live(self, plan: Plan, queries: int, actions: int) -> tuple[Process, bool]:
        """Start a daemon, compare the store with what is known, and load the daemon.

        Args:
            plan: Where it dies, if it gets there.
            queries: Random questions about what is in the store.
            actions: Things done to it after that.

        Returns:
            The process, and whether it died.
        """
        process = serve(self.folder, self.store, plan, *self.told)
        ack = b"@" + self.producer.hex().encode()
        topics = (EVERYTHING, FEW, FEWER, ack)
        peer = Peer(process, self.producer, topics)
        timer = None
        try:
            peer.await_published({(topic, ACK if topic == ack else HELLO) for topic in topics})
            self._look(peer)
            self._resend(peer)
            self._look(peer)
            self.model.compare(peer, self.rng, queries)
            if plan.delay is not None:
                timer = process.kill_later(plan.delay)
            for _ in range(actions):
                self._act(peer)
        except Died:
            return process, True
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
            self._read_published(peer.published, ack)
            peer.close()
        return process, False

    # ------------------------------------------------------------ what is done to it

    def _act(self, peer: Peer) -> None:
        known, rng = self.known, self.rng
        draw = rng.random()
        if draw < 0.45:
            self._insert(peer, rng.choice((1, 1, 5, 40)))
        elif draw < 0.85:
            for _ in range(rng.choice((1, 3))):
                numbers = known.make(rng, rng.choice((0, 1, 20)))
                n = len(known.batches) + 1
                known.batches[n] = numbers
                peer.push_batch(n, [element(known.sent[each]) for each in numbers])
            if rng.random() < 0.3:
                self._settle(peer.watermark())
        elif draw < 0.93:
            numbers = known.make(rng, rng.choice((1, 10)))
            peer.push(msgpack.packb([element(known.sent[each]) for each in numbers]))
        else:
            self._trim(peer)

    def _insert(self, peer: Peer, count: int) -> None:
        known = self.known
        numbers = known.make(self.rng, count)
        known.inserts.append(numbers)
        ids = peer.ask("insert", events=[element(known.sent[n]) for n in numbers])["ids"]
        known.inserts.pop()
        known.committed.update(numbers)
        known.ids.update(zip(numbers, ids, strict=True))
        known.head = max(known.head, ids[-1])

    def _trim(self, peer: Peer) -> None:
        # Only what was there when this life began: so it is known what goes.
        known = self.known
        if not self.model.rows:
            return
        first, last = self.model.rows[0][0], self.model.rows[-1][0]
        floor = self.rng.randint(first, max(first, last - 200))
        known.floors.append(floor)
        told = peer.ask("trim", floor=floor)["floor"]
        assert told == max(known.floors)
        known.floors = [told]

    def _settle(self, last: int) -> None:
        known = self.known
        for n in range(known.acknowledged + 1, last + 1):
            known.committed.update(known.batches[n])
        known.acknowledged = max(known.acknowledged, last)

    def _read_published(self, published: list[tuple[bytes, int, int, Any]], ack: bytes) -> None:
        known = self.known
        for topic, kind, id, body in published:
            if topic == ack:
                self._settle(id)
            else:
                known.head = max(known.head, id)
            if kind == DATA:
                for id, _, event in body:
                    known.committed.add(event["n"])
                    assert known.ids.setdefault(event["n"], id) == id

    # ------------------------------------------------------------ what is there afterwards

    def _look(self, peer: Peer) -> None:
        known = self.known
        info = peer.ask("info")
        head, floor = info["head"], info["floor"]
        found = peer.replay({}, 0, 1000)
        check_whole(found, floor, head)
        assert head >= known.head, f"the head is {head}; {known.head} was told outside"
        assert floor in known.floors
        rows = {event["n"]: (id, ts, event) for id, ts, event in found}
        for n, row in rows.items():
            assert row[2] == known.sent[n]
            assert known.rows.get(n, row) == row
            assert known.ids.get(n, row[0]) == row[0]
        gone = {n for n, row in known.rows.items() if row[0] <= floor}
        lost = (known.rows.keys() | known.committed) - rows.keys() - gone
        assert not lost, f"{len(lost)} events that were committed are not there: {sorted(lost)[:9]}"
        for numbers in known.inserts:
            there = [rows[n][0] for n in numbers if n in rows]
            assert not there or there == list(range(there[0], there[0] + len(numbers)))
        self._check_batches(peer.watermark(), rows, gone)
        known.rows = {**{n: known.rows[n] for n in gone if n in known.rows}, **rows}
        known.committed, known.ids, known.inserts = set(), {}, []
        known.head, known.floors = head, [floor]
        self.model = Model(found, tuple(info["keys"]))

    def _check_batches(self, last: int, rows: dict[int, Row], gone: set[int]) -> None:
        known = self.known
        assert last >= known.acknowledged
        for n, numbers in known.batches.items():
            there = [each for each in numbers if each in rows or each in gone]
            assert there == (numbers if n <= last else []), f"batch {n}, the last one is {last}"

    def _resend(self, peer: Peer) -> None:
        """Send all batches that are not known to be dealt with, some of the others too."""
        known = self.known
        last = peer.watermark()
        first = max(1, last - self.rng.randrange(3))
        for n in range(first, len(known.batches) + 1):
            peer.push_batch(n, [element(known.sent[each]) for each in known.batches[n]])
        while (last := peer.watermark()) < len(known.batches):
            pass
        self._settle(last)
