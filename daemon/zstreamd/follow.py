"""Live filters: who follows what, and what is said to them, in commit order.

Pure: subscriptions, commits and the time go in, messages come out. Each topic has its chain:
a message is complete for the filter from ``prev`` to ``id``, and ``prev`` is the ``id`` of the
message before it on that topic.
"""

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from zlib import crc32

from zstream import topics, wire
from zstream.backends.base import Batch, Durability, Producer, Registration
from zstream.errors import BadFilter, Busy, Error
from zstream.keys import Filter, normalize
from zstream.limits import PUBLICATION_BYTES
from zstream.wire import ACK, BEAT, BYE, DATA, ERR, HELLO, Header
from zstreamd.matching import Index, Topic

#: Seconds from a topic's last message to its first beat, and from beat to beat.
FIRST_BEAT_S: Final = 0.5
BEAT_S: Final = 5.0
#: Beats go out so many times in BEAT_S: thousands of topics must not beat at once, nor wake the
#: threads for each of them.
_SLOTS: Final = 100
#: Hellos of one topic are at least so many seconds apart.
HELLO_S: Final = 0.05
#: Messages of one tick at the most: what else is due waits for the next one.
_TICK: Final = 500

_PRODUCER = re.compile(rb"@[0-9a-f]{32}")
_REGISTERED = re.compile(rb"#[0-9a-f]{32}")
_EMPTY: Final = wire.pack({})

Message = list[bytes]


class Followers:
    """The live topics of one daemon.

    Args:
        keys: The store's keys.
        node, run: What the headers say.
        head: The last id committed.
        producers: The known producers, read when one asks for its confirmations.
        registrations: The registered filters, read when one is subscribed to.
        max_filters: How many topics may be live.

    Attributes:
        durability: What a confirmation is worth just now; see `zstream.backends.base.Durability`.
    """

    def __init__(
        self, keys: Sequence[str], node: int, run: int, head: int,
        producers: Mapping[bytes, Producer], registrations: Mapping[bytes, Registration],
        max_filters: int,
    ) -> None:  # fmt: skip
        self._keys = keys
        self._node, self._run, self._head = node, run, head
        self._producers, self._registrations = producers, registrations
        self._max = max_filters
        self.durability: Durability = "synced"
        self._topics: dict[bytes, Topic] = {}
        self._index = Index(len(keys))
        self._confirmed: set[bytes] = set()
        #: Names that are subscribed to and that no filter is registered under.
        self._waiting: set[bytes] = set()
        self._due: list[tuple[float, bytes]] = []

    @property
    def filters(self) -> int:
        """How many filters are live."""
        return len(self._topics)

    @property
    def confirmed(self) -> int:
        """How many producers listen for confirmations."""
        return len(self._confirmed)

    def names(self) -> list[bytes]:
        """All topics that are subscribed to, the live ones and the others."""
        return [*self._topics, *self._confirmed, *self._waiting]

    def registered(self) -> list[bytes]:
        """The hashes of the registered filters that are live."""
        return [topics.hash_of(name) for name in self._topics if name[:1] == b"#"]

    # ------------------------------------------------------------ subscriptions

    def subscribe(self, name: bytes, now_s: float, ts: int) -> list[Message]:
        """Take a (re)subscription; the answer to it, if it is due at once."""
        if _PRODUCER.fullmatch(name):
            if len(self._confirmed) >= self._max:
                return [self._error(name, Busy("too many producers listen"), ts)]
            self._confirmed.add(name)
            known = self._producers.get(bytes.fromhex(name[1:].decode()))
            return [self.ack(known or Producer(b"", 0, 0, 0, b"", 0), name, ts)]
        topic = self._topics.get(name)
        if topic is None:
            try:
                topic = self._enter(name)
            except Error as error:
                return [self._error(name, error, ts)]
        topic.greet = True
        self._schedule(topic, max(now_s, topic.greeted + HELLO_S))
        return self.tick(now_s, ts)

    def activate(self, name: bytes, now_s: float, ts: int) -> list[Message]:
        """A filter was registered under this name: greet who has subscribed to it already."""
        return self.subscribe(name, now_s, ts) if name in self._waiting else []

    def unsubscribe(self, name: bytes) -> None:
        """The last follower of a topic left."""
        self._confirmed.discard(name)
        self._waiting.discard(name)
        topic = self._topics.pop(name, None)
        if topic is not None:
            self._index.remove(topic)

    def _enter(self, name: bytes) -> Topic:
        if _REGISTERED.fullmatch(name):
            filter = self._registered(name)
        else:
            filter = normalize(topics.decode(name), self._keys)
        if len(self._topics) >= self._max:
            raise Busy(f"{self._max} filters are live already; no more are taken", retry_s=5)
        self._waiting.discard(name)
        topic = self._topics[name] = Topic(name, self._head, crc32(name) % _SLOTS)
        self._index.add(topic, filter)
        return topic

    def _registered(self, name: bytes) -> Filter:
        known = self._registrations.get(topics.hash_of(name))
        if known is None:
            if len(self._waiting) < self._max:
                self._waiting.add(name)
            raise BadFilter(
                "no filter is registered under this name: register it by the operation 'filter'"
            )
        return normalize(topics.read(known.text), self._keys)

    # ------------------------------------------------------------ commits

    def commit(self, batch: Batch, now_s: float, ts: int) -> list[Message]:
        """Take a committed batch; the DATA of every topic that it concerns."""
        self._head = batch.first + len(batch.bodies) - 1
        messages: list[Message] = []
        entries: dict[int, bytes] = {}
        for topic, rows in self._index.concerned(batch.columns, len(batch.bodies)):
            for row in rows:
                if row not in entries:
                    entries[row] = wire.pack_entry(
                        batch.first + row, batch.ts[row], batch.bodies[row]
                    )
            messages += self._data(topic, batch.first, rows, entries, ts)
            if not topic.greet:
                self._schedule(topic, now_s + FIRST_BEAT_S)
        return messages

    def _data(
        self, topic: Topic, first: int, rows: Sequence[int], entries: Mapping[int, bytes], ts: int
    ) -> Iterator[Message]:
        packed = [entries[row] for row in rows]
        if sum(map(len, packed)) <= PUBLICATION_BYTES:
            yield self._say(topic, DATA, self._head, ts, _array(packed))
            return
        begin = size = 0
        for place, entry in enumerate(packed):
            if place > begin and size + len(entry) > PUBLICATION_BYTES:
                upto = first + rows[place - 1]
                yield self._say(topic, DATA, upto, ts, _array(packed[begin:place]))
                begin, size = place, 0
            size += len(entry)
        yield self._say(topic, DATA, self._head, ts, _array(packed[begin:]))

    # ------------------------------------------------------------ time

    def tick(self, now_s: float, ts: int) -> list[Message]:
        """What is due by now: hellos and beats; not too many at once."""
        messages: list[Message] = []
        while self._due and self._due[0][0] <= now_s and len(messages) < _TICK:
            due, name = heapq.heappop(self._due)
            topic = self._topics.get(name)
            if topic is None or topic.entry != due:
                continue
            topic.entry = float("inf")
            if topic.due > now_s:
                self._schedule(topic, topic.due)
            elif topic.greet:
                topic.greet, topic.greeted = False, now_s
                messages.append(self._say(topic, HELLO, self._head, ts, _EMPTY))
                self._schedule(topic, now_s + FIRST_BEAT_S)
            else:
                messages.append(self._say(topic, BEAT, self._head, ts, _EMPTY))
                slot = round(now_s * _SLOTS / BEAT_S) + 1
                slot += (topic.slot - slot) % _SLOTS
                self._schedule(topic, slot * BEAT_S / _SLOTS)
        return messages

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until something is due, or None if nothing is."""
        return max(0.0, self._due[0][0] - now_s) if self._due else None

    def _schedule(self, topic: Topic, due: float) -> None:
        # Data puts a beat off without touching the heap: the entry that is there comes up too
        # early and is put back then.
        topic.due = due
        if due < topic.entry:
            topic.entry = due
            heapq.heappush(self._due, (due, topic.name))

    # ------------------------------------------------------------ messages

    def bye(self, ts: int) -> list[Message]:
        """The last message of every topic."""
        return [self._say(topic, BYE, self._head, ts, _EMPTY) for topic in self._topics.values()]

    def ack(self, producer: Producer, name: bytes, ts: int) -> Message:
        """The confirmation of a producer's last batch."""
        body = {
            "epoch": producer.epoch, "last": producer.last, "refused": producer.refused,
            "durability": self.durability,
        }  # fmt: skip
        return self._message(name, ACK, 0, producer.last, ts, wire.pack(body))

    def hears(self, producer: bytes) -> bytes | None:
        """The topic of a producer's confirmations, if it listens."""
        name = topics.of_producer(producer)
        return name if name in self._confirmed else None

    def nack(
        self, producer: Producer, n: int, code: str, text: str, name: bytes, ts: int
    ) -> Message:
        """The rejection of a producer's batch, which had the number n."""
        body = {
            "epoch": producer.epoch, "last": producer.last, "n": n, "code": code, "message": text,
        }  # fmt: skip
        return self._message(name, wire.NACK, 0, producer.last, ts, wire.pack(body))

    def _error(self, name: bytes, error: Error, ts: int) -> Message:
        body = wire.pack({"code": error.code, "message": str(error)})
        return self._message(name, ERR, 0, 0, ts, body)

    def _say(self, topic: Topic, kind: int, id: int, ts: int, body: bytes) -> Message:
        prev, topic.last = topic.last, id
        return self._message(topic.name, kind, prev, id, ts, body)

    def _message(self, name: bytes, kind: int, prev: int, id: int, ts: int, body: bytes) -> Message:
        return [name, wire.encode_header(Header(kind, self._node, self._run, prev, id, ts)), body]


def _array(entries: list[bytes]) -> bytes:
    return wire.array_header(len(entries)) + b"".join(entries)
