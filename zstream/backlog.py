"""What waits for a tail's reader: packed entries that follow each other without a hole."""

from collections import deque
from collections.abc import Iterator
from operator import length_hint
from typing import Final, NamedTuple

from zstream import wire
from zstream.cursor import Cursor
from zstream.errors import DecodeError, Error
from zstream.event import Event, make_events

#: Bytes that wait for a tail's reader, and as much again that waits for a page before it.
BACKLOG_BYTES: Final = 8 << 20
#: Pages that wait for a reader; while one is read there are others on their way.
BACKLOG_PAGES: Final = 2
#: What a chunk takes in memory beside its bytes, about.
OVERHEAD: Final = 200

_NOTHING: Final = wire.array_header(0)


class Place(NamedTuple):
    """Everything up to ``id`` was seen, in this run of the store."""

    run: int
    id: int


class Chunk(NamedTuple):
    """Packed entries, complete from ``after`` to ``place``."""

    after: int
    place: Place
    packed: bytes
    is_page: bool


class Backlog:
    """Chunks between two threads: `take` and `cursor` are the reader's, the rest the receiver's.

    Args:
        limit: Bytes that may wait.

    Attributes:
        end: Up to where all was put in or has nothing in it.
        node: The daemon's, of which cursors tell.
        error: Why no more comes, behind what is there; or None.
    """

    def __init__(self, limit: int) -> None:
        self.end = Place(0, 0)
        self.error: Error | None = None
        self._limit = limit
        self.node = 0
        self._ready: deque[Chunk] = deque()
        # Two counts each, so that each has one thread that writes it.
        self._pages_in = self._pages_out = self._bytes_in = self._bytes_out = 0
        # The reader's: what it read last, and where everything before that ended.
        self._events: list[Event] = []
        self._unread: Iterator[Event] = iter(())
        self._before = self._behind = Place(0, 0)
        self._broken: Error | None = None

    # ------------------------------------------------------------ the receiver

    def begin(self, node: int, place: Place) -> None:
        """Nothing was put in yet: what comes follows this place of that node."""
        self.node = node
        self.end = self._before = self._behind = place

    def put(self, chunk: Chunk) -> None:
        """Add a chunk; one of no entries is not kept."""
        if chunk.packed != _NOTHING:
            self._bytes_in += len(chunk.packed) + OVERHEAD
            self._pages_in += chunk.is_page
            self._ready.append(chunk)
        self.end = chunk.place  # behind the other: see cursor

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be read that no page is wanted."""
        return self._waits(self._limit)

    @property
    def has_room(self) -> bool:
        """Whether so little waits to be read that more is wanted."""
        return not self._waits(self._limit // 2)

    def takes(self, size: int) -> bool:
        """Whether there is room for so many bytes more."""
        return self.has_room or self._bytes_in - self._bytes_out + size <= self._limit

    def _waits(self, size: int) -> bool:
        pages, held = self._pages_in - self._pages_out, self._bytes_in - self._bytes_out
        return pages >= BACKLOG_PAGES or held >= size

    # ------------------------------------------------------------ the reader

    def take(self) -> Iterator[Event] | None:
        """The next events, at least one, or None if there are none yet; raises the error."""
        if self._broken is not None:
            raise self._broken
        error = self.error  # before the look: it comes behind what is there
        while self._ready:
            chunk = self._ready[0]
            events = self._decode(chunk)
            self._events, self._unread = events, iter(events)
            self._before, self._behind = Place(chunk.place.run, chunk.after), chunk.place
            self._bytes_out += len(chunk.packed) + OVERHEAD
            self._pages_out += chunk.is_page
            self._ready.popleft()
            if events:
                return self._unread
        if error is not None:
            self._broken = error
            raise error
        return None

    @property
    def cursor(self) -> str:
        """Where to resume: everything up to the event that was read last is behind it."""
        now = self.end  # before the look, as above
        left = length_hint(self._unread)
        if left:
            read = len(self._events) - left
            place = Place(self._behind.run, self._events[read - 1].id) if read else self._before
        elif self._ready:
            place = self._behind
        else:
            place = now
        return str(Cursor(place.run, {self.node: place.id}))

    def _decode(self, chunk: Chunk) -> list[Event]:
        try:
            events = make_events(wire.unpack(chunk.packed))
            if events and events[0].id <= chunk.after:
                events = [event for event in events if event.id > chunk.after]
        except (DecodeError, TypeError, ValueError) as error:
            self._broken = DecodeError(f"what the daemon sent cannot be read: {error}")
            raise self._broken from error
        return events
