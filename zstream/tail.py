"""The rules of a tail: history and live publications in, each event once and in order out.

No I/O in here. Publications are looked at by their headers only; what they and the pages of
``replay`` bring waits packed, in chunks that follow each other without a hole, until a reader
takes it. A hole, a restart of the daemon, and what had no room here, are made good by ``replay``.
`docs/protocol.md` has the follower's rules, under "Publications"; they are kept here.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from zstream import wire
from zstream.backlog import BACKLOG_BYTES, OVERHEAD, Backlog, Chunk, Place
from zstream.cursor import Cursor
from zstream.errors import CursorLost, DecodeError, Error, from_wire
from zstream.event import Event, make_events
from zstream.limits import PAGE_EVENTS
from zstream.wire import BEAT, BYE, DATA, ERR, HELLO, Header

_CHAIN: Final = frozenset((DATA, HELLO, BEAT, BYE))


class State(Enum):
    """Where a tail stands."""

    WAITING = "for the first HELLO"
    LIVE = "live"
    REPLAYING = "what the store has"


class TailCore:
    """One tail.

    Two threads may use it, one that receives and one that reads: `take`, `cursor` and `has_room`
    are the reader's, all else is the receiver's.

    Args:
        after: Begin behind this id or cursor.
        since: Begin at this arrival, in microseconds since 1970 UTC; instead of ``after``.
            With neither the tail begins at the head that HELLO tells.
        backlog_bytes: See `BACKLOG_BYTES`.

    Attributes:
        state: Where it stands.
        is_sudden: Whether the page that is wanted is the first for what others miss at the same
            moment: a hole that came live, a restart.
    """

    def __init__(
        self, *, after: int | Cursor | None = None, since: int | None = None,
        backlog_bytes: int = BACKLOG_BYTES,
    ) -> None:  # fmt: skip
        self._after, self._since = after, since
        self._limit = backlog_bytes
        self.state = State.WAITING
        self.is_sudden = self._has_missed = False
        #: Whether a page has yet to say that the beginning is one that the store knows.
        self._is_unchecked = False
        #: Whether it begins with the oldest that is kept: 0 in a run would be a place, and lost
        #: once events were trimmed.
        self._from_oldest = type(after) is int and after == 0
        #: What came while a page is wanted: one chain of one run, its oldest dropped if need be.
        self._held: deque[tuple[Header, bytes]] = deque()
        self._held_bytes = 0
        #: The place that the page that was asked for must reach if it is the last.
        self._asked = Place(0, 0)
        self._lives_over: set[int] = set()
        #: What waits for the reader; its end is the place up to which the tail has come.
        self._backlog = Backlog(backlog_bytes)

    # ------------------------------------------------------------ the reader

    def take(self) -> Iterator[Event] | None:
        """The next events, of which there is at least one, or None if there are none yet.

        What an iterator given before still has must not be wanted any more.

        Raises:
            Error: The tail ended, and why: CursorLost, Trimmed, BadFilter.
        """
        return self._backlog.take()

    @property
    def cursor(self) -> str:
        """Where to resume: everything up to the event that was read last is behind it."""
        return self._backlog.cursor

    @property
    def has_room(self) -> bool:
        """Whether so little waits to be read that `resume` is due."""
        return self._backlog.has_room

    @property
    def error(self) -> Error | None:
        """Why the tail ends, behind what waits to be read; or None."""
        return self._backlog.error

    # ------------------------------------------------------------ the receiver: in

    @property
    def has_started(self) -> bool:
        """Whether it is known where the tail begins."""
        return self.state is not State.WAITING and self._since is None

    def publication(self, header: Header, body: bytes) -> None:
        """Take a publication; one that cannot be used yet is held."""
        if self.error is not None or header.run in self._lives_over:
            return
        if header.type == ERR:
            self.fail(err(body))
        elif header.type not in _CHAIN:
            return
        elif self.state is State.WAITING:
            if header.type == HELLO:
                self._begin(header, body)
        elif self.state is State.REPLAYING:
            self._hold(header, body)
        elif header.run != self._place.run or header.prev > self._place.id:
            self.state, self.is_sudden = State.REPLAYING, True
            self._has_missed = header.run == self._place.run
            self._hold(header, body)
        elif header.id > self._place.id:
            self._pass(header, body)

    def page(self, run: int, upto: int, head: int, packed: bytes) -> None:
        """Take the reply to the ``replay`` that was asked for; its events are packed."""
        if self.error is not None:
            return
        after, self.is_sudden, self._has_missed = self._place.id, False, False
        if self._since is not None:
            after = self._first(packed, upto) - 1
            self._backlog.begin(self._backlog.node, Place(run, after))
        elif upto <= after and upto < head:
            self.fail(DecodeError(f"the daemon's replay stands still at {upto}"))
            return
        elif self._place.run != run and not self._from_oldest:
            self._lives_over.add(self._place.run)  # who answered knows it as one of the past
        self._backlog.put(Chunk(after, Place(run, max(after, upto)), packed, True))
        self._from_oldest, self._since, self._is_unchecked = False, None, False
        if self._held and self._held[0][0].run != run:
            # It came late, from a life that is over, or a daemon that is just going answered.
            # Runs have no order, so it is only passed over: the next publication tells.
            self._let_go()
        if self._held:
            self.resume()
            if self._asked.run == run and upto >= head < self._asked.id:
                self.fail(DecodeError("the daemon publishes what its store does not have"))
        elif upto >= head:
            self.state = State.LIVE

    def resume(self) -> None:
        """Go on with what is held, as far as it follows and there is room."""
        while self._held and self._follows(self._held[0][0]):
            header, body = self._held[0]
            if header.id > self._place.id and not self._pass(header, body):
                return
            self._held.popleft()
            self._held_bytes -= len(body) + OVERHEAD
            if not self._held:
                self.state = State.LIVE

    def fail(self, error: Error) -> None:
        """End the tail with this error, behind the events that are there."""
        if self.error is None:
            self._let_go()
            self._backlog.error = error

    # ------------------------------------------------------------ the receiver: out

    @property
    def wants_page(self) -> bool:
        """Whether `ask` is due, as long as no page is under way."""
        if self.state is not State.REPLAYING or self.error is not None or self._backlog.is_full:
            return False
        return not (self._held and self._follows(self._held[0][0]))

    def ask(self) -> dict[str, Any]:
        """The fields, but for the filter, of the ``replay`` that is wanted."""
        fields: dict[str, Any] = {"limit": PAGE_EVENTS}
        if self._since is not None:
            fields["since"] = self._since
        else:
            fields["after"] = self._place.id
            if not self._from_oldest:
                fields["run"] = self._place.run
        if self._has_missed:
            fields["missed"] = True
        header = self._held[0][0] if self._held else None
        self._asked = Place(header.run, header.prev) if header else Place(0, 0)
        return fields

    # ------------------------------------------------------------ rules

    @property
    def _place(self) -> Place:
        return self._backlog.end

    def _begin(self, header: Header, body: bytes) -> None:
        place = Place(header.run, header.id)
        if isinstance(self._after, Cursor):
            if set(self._after.ids) != {header.node}:
                self.fail(CursorLost("the cursor is of other nodes than this daemon's"))
                return
            place = Place(self._after.run, self._after.ids[header.node])
        elif self._after is not None:
            place = Place(header.run, self._after)
        elif self._since is not None:
            place = Place(header.run, 0)
        self._backlog.begin(header.node, place)
        self.state = State.LIVE
        if self._after is not None or self._since is not None:
            self.state, self._is_unchecked = State.REPLAYING, True
            self._hold(header, body)

    def _follows(self, header: Header) -> bool:
        is_next = header.run == self._place.run and header.prev <= self._place.id
        return is_next and not self._is_unchecked

    def _pass(self, header: Header, body: bytes) -> bool:
        """Hand on what follows; False if there is no room for it."""
        place = Place(header.run, header.id)
        if header.type != DATA:
            self._backlog.end = place
        elif not self._backlog.takes(len(body)):
            if self.state is State.LIVE:
                self.state, self._has_missed = State.REPLAYING, True
                self._hold(header, body)
            return False
        else:
            self._backlog.put(Chunk(self._place.id, place, body, False))
        return True

    def _hold(self, header: Header, body: bytes) -> None:
        if self._held:
            last = self._held[-1][0]
            if header.run == last.run and header.id <= last.id:
                return  # it is covered
            if header.run != last.run or header.prev > last.id:
                self._let_go()
        self._held.append((header, body))
        self._held_bytes += len(body) + OVERHEAD
        while self._held_bytes > self._limit and len(self._held) > 1:
            _, dropped = self._held.popleft()
            self._held_bytes -= len(dropped) + OVERHEAD

    def _let_go(self) -> None:
        self._held.clear()
        self._held_bytes = 0

    def _first(self, packed: bytes, upto: int) -> int:
        try:
            events = make_events(wire.unpack(packed))
        except (DecodeError, TypeError, ValueError):
            return upto + 1  # the reader will say so
        return events[0].id if events else upto + 1


def err(body: bytes) -> Error:
    """The error that an ERR tells."""
    try:
        fields = wire.unpack(body)
        return from_wire(str(fields["code"]), str(fields["message"]))
    except (DecodeError, KeyError, TypeError) as error:
        return DecodeError(f"the daemon's ERR cannot be read: {error!r}")
