"""Live filters: who follows what, and what is said to them, in commit order.

Pure: subscriptions, commits and the time go in, messages come out. Each topic has its chain:
a message is complete for the filter from ``prev`` to ``id``, and ``prev`` is the ``id`` of the
message before it on that topic.
"""

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, count
from typing import Final

from zstream import topics, wire
from zstream.backends.base import Batch, Producer
from zstream.errors import BadFilter, Busy, Error
from zstream.keys import Filter, Value, normalize
from zstream.limits import PUBLICATION_BYTES
from zstream.wire import ACK, BEAT, BYE, DATA, ERR, HELLO, Header

#: Seconds from a topic's last message to its first beat, and from beat to beat.
FIRST_BEAT_S: Final = 0.5
BEAT_S: Final = 5.0
#: Hellos of one topic are at least so many seconds apart.
HELLO_S: Final = 0.05

_PRODUCER = re.compile(rb"@[0-9a-f]{32}")
_REGISTERED = re.compile(rb"#[0-9a-f]{32}")
_EMPTY: Final = wire.pack({})

Message = list[bytes]


class Topic:
    """One live filter and where its chain stands."""

    __slots__ = ("due", "entry", "greet", "greeted", "last", "name", "others")

    def __init__(self, name: bytes, head: int) -> None:
        self.name = name
        self.last = head
        self.greeted = float("-inf")
        self.greet = True
        self.due = self.entry = float("inf")
        #: What must match beside the key that the topic is indexed under.
        self.others: tuple[tuple[int, frozenset[str]], ...] = ()


class Followers:
    """The live topics of one daemon.

    Args:
        keys: The store's keys.
        node, run: What the headers say.
        head: The last id committed.
        producers: The known producers, read when one asks for its confirmations.
        max_filters: How many topics may be live.
    """

    def __init__(
        self, keys: Sequence[str], node: int, run: int, head: int,
        producers: Mapping[bytes, Producer], max_filters: int,
    ) -> None:  # fmt: skip
        self._keys = keys
        self._node, self._run, self._head = node, run, head
        self._producers = producers
        self._max = max_filters
        self._topics: dict[bytes, Topic] = {}
        self._filters: dict[bytes, Filter] = {}
        self._confirmed: set[bytes] = set()
        self._everything: dict[bytes, Topic] = {}
        #: For each key: index value -> the topics that wait for it.
        self._index: list[dict[str, dict[bytes, Topic]]] = [{} for _ in keys]
        self._due: list[tuple[float, bytes]] = []

    @property
    def filters(self) -> int:
        """How many filters are live."""
        return len(self._topics)

    @property
    def confirmed(self) -> int:
        """How many producers listen for confirmations."""
        return len(self._confirmed)

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

    def unsubscribe(self, name: bytes) -> None:
        """The last follower of a topic left."""
        self._confirmed.discard(name)
        if self._topics.pop(name, None) is None:
            return
        self._everything.pop(name, None)
        for place, texts in self._filters.pop(name)[:1]:
            for text in texts:
                waiting = self._index[place].get(text, {})
                waiting.pop(name, None)
                if not waiting:
                    self._index[place].pop(text, None)

    def _enter(self, name: bytes) -> Topic:
        if _REGISTERED.fullmatch(name):
            raise BadFilter("no filter is registered under this name")
        filter = normalize(topics.decode(name), self._keys)
        if len(self._topics) >= self._max:
            raise Busy(f"{self._max} filters are live already; no more are taken", retry_s=5)
        # Indexed under its most telling key: the one under whose values the fewest others wait.
        filter = tuple(sorted(filter, key=self._crowd))
        topic = self._topics[name] = Topic(name, self._head)
        self._filters[name] = filter
        if not filter:
            self._everything[name] = topic
        topic.others = tuple((place, frozenset(texts)) for place, texts in filter[1:])
        for place, texts in filter[:1]:
            for text in texts:
                self._index[place].setdefault(text, {})[name] = topic
        return topic

    def _crowd(self, term: tuple[int, tuple[str, ...]]) -> int:
        place, texts = term
        return sum(len(self._index[place].get(text, ())) + 1 for text in texts)

    # ------------------------------------------------------------ commits

    def commit(self, batch: Batch, now_s: float, ts: int) -> list[Message]:
        """Take a committed batch; the DATA of every topic that it concerns."""
        self._head = batch.first + len(batch.bodies) - 1
        messages: list[Message] = []
        entries: dict[int, bytes] = {}
        for name, rows in self._concerned(batch.columns, len(batch.bodies)).items():
            topic = self._topics[name]
            messages += self._data(topic, batch, rows, entries, ts)
            if not topic.greet:
                self._schedule(topic, now_s + FIRST_BEAT_S)
        return messages

    def _concerned(self, columns: Sequence[Sequence[Value]], size: int) -> dict[bytes, list[int]]:
        concerned = {name: list(range(size)) for name in self._everything}
        for index, column in zip(self._index, columns, strict=True):
            if not index:
                continue
            for row, texts in _rows_with(index, column):
                for text in texts:
                    for name, topic in index.get(text, {}).items():
                        if not topic.others or _others_match(topic.others, columns, row):
                            rows = concerned.setdefault(name, [])
                            if not rows or rows[-1] != row:
                                rows.append(row)
        return concerned

    def _data(
        self, topic: Topic, batch: Batch, rows: Sequence[int], entries: dict[int, bytes], ts: int
    ) -> Iterator[Message]:
        part: list[bytes] = []
        size = 0
        for place, row in enumerate(rows):
            entry = entries.get(row)
            if entry is None:
                entry = wire.pack_entry(batch.first + row, batch.ts[row], batch.bodies[row])
                entries[row] = entry
            if part and size + len(entry) > PUBLICATION_BYTES:
                yield self._say(topic, DATA, batch.first + rows[place - 1], ts, _array(part))
                part, size = [], 0
            part.append(entry)
            size += len(entry)
        yield self._say(topic, DATA, self._head, ts, _array(part))

    # ------------------------------------------------------------ time

    def tick(self, now_s: float, ts: int) -> list[Message]:
        """What is due by now: hellos and beats."""
        messages = []
        while self._due and self._due[0][0] <= now_s:
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
                self._schedule(topic, now_s + BEAT_S)
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
        body = {"epoch": producer.epoch, "last": producer.last, "refused": producer.refused}
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


def _rows_with(
    index: Mapping[str, object], column: Sequence[Value]
) -> Iterator[tuple[int, Sequence[str]]]:
    if tuple not in set(map(type, column)):
        for row in compress(count(), map(index.__contains__, column)):
            yield row, (column[row],)  # type: ignore[misc]  # what is in the index is text
        return
    for row, value in enumerate(column):
        if isinstance(value, tuple):
            yield row, [text for text in value if text in index]
        elif value is not None and value in index:
            yield row, (value,)


def _others_match(
    others: tuple[tuple[int, frozenset[str]], ...], columns: Sequence[Sequence[Value]], row: int
) -> bool:
    for place, texts in others:
        value = columns[place][row]
        if type(value) is tuple:
            if texts.isdisjoint(value):
                return False
        elif value not in texts:
            return False
    return True
