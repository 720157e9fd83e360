"""What the I/O thread hands to the writer: a queue that is bounded in bytes."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from zstream.errors import Error
from zstreamd.validate import elements

#: What an event costs beside its bytes, so that tiny ones are bounded too.
_EVENT_BYTES: Final = 100
#: The first bytes of a msgpack array.
_ARRAYS: Final = frozenset(bytes((first,)) for first in (*range(0x90, 0xA0), 0xDC, 0xDD))
_first: Final = itemgetter(slice(1))


class Numbered(NamedTuple):
    """A numbered batch, as it came."""

    header: bytes
    frame: bytes


class Call(NamedTuple):
    """An insert that wants its ids: all of the frame or nothing."""

    frame: bytes
    reply: Callable[[Sequence[int] | Error], None]


class Trim(NamedTuple):
    """Events to forget: all up to an id; the reply is how many there were and the floor."""

    floor: int
    reply: Callable[[tuple[int, int] | Error], None]


class Register(NamedTuple):
    """A filter to be followed by its hash; the reply is None, or why not."""

    name: bytes
    text: str
    reply: Callable[[Error | None], None]


class Malformed(NamedTuple):
    """A message that is no insert at all."""

    frame: bytes
    error: Error


class Subscription(NamedTuple):
    """A topic that somebody subscribed to, or that the last follower left."""

    topic: bytes
    on: bool


#: Bytes are one raw frame, fire and forget: the most frequent item is the cheapest.
Item = bytes | Numbered | Call | Malformed | Subscription | Trim | Register


class Inbox:
    """A queue from the I/O thread (and the query threads) to the writer.

    Args:
        limit_bytes: ``full`` is set while more than this waits. Nobody is blocked or turned
            away: who fills it looks at ``full`` and stops reading its socket.
        on_room: Called by the writer's thread when ``full`` is over.
    """

    def __init__(self, limit_bytes: int, on_room: Callable[[], None]) -> None:
        self._limit = limit_bytes
        self._on_room = on_room
        #: What was put at once stays together, with its size: a lock and a sum a group.
        self._groups: deque[tuple[Sequence[Item], int]] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self.bytes = 0
        self.full = False

    def put(self, items: Sequence[Item], size: int) -> None:
        """Append items, in their order, and the sum of what they `cost`."""
        if not items:
            return
        with self._ready:
            self._groups.append((items, size))
            self.bytes += size
            # Only the writer says that it is over: a small item must not hide the change from it.
            if self.bytes > self._limit:
                self.full = True
            self._ready.notify()

    def take(self, most: int, most_bytes: int, timeout_s: float | None) -> list[Item] | None:
        """Take what waits, waiting for it if there is nothing.

        Returns:
            About so many items and bytes, at least what was put at once; empty after the
            timeout; None when the inbox is closed and empty.
        """
        with self._ready:
            if not self._groups and not self._closed:
                self._ready.wait(timeout_s)
            if not self._groups and self._closed:
                return None
            taken: list[Item] = []
            total = 0
            while self._groups and len(taken) < most and total < most_bytes:
                items, size = self._groups.popleft()
                taken += items
                total += size
            self.bytes -= total
            room = self.full and self.bytes <= self._limit // 2
            if room:
                self.full = False
        if room:
            self._on_room()
        return taken

    def close(self) -> None:
        """Say that nothing more will come; what waits can still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify()


def cost(item: Item) -> int:
    """The bytes that an item stands for in the queue: its own, and some for each event."""
    if type(item) is bytes:
        if item[:1] in _ARRAYS:
            return len(item) + _EVENT_BYTES * (elements(item) or 1)
        return len(item) + _EVENT_BYTES
    if isinstance(item, Subscription):
        return len(item.topic) + _EVENT_BYTES
    if isinstance(item, Trim):
        return _EVENT_BYTES
    if isinstance(item, Register):
        return len(item.text) + _EVENT_BYTES
    assert not isinstance(item, bytes)
    return len(item.frame) + _EVENT_BYTES * (elements(item.frame) or 1)


def costs(items: Sequence[Item]) -> int:
    """What items cost together; without a call for each if all are frames of one event."""
    if set(map(type, items)) == {bytes} and _ARRAYS.isdisjoint(map(_first, items)):
        return sum(map(len, items)) + _EVENT_BYTES * len(items)
    return sum(map(cost, items))
