"""The rules of a tail: history and live publications in, each event once and in order out.

No I/O in here. Publications come as they were received, one at a time; when the core holds one
that it cannot use yet, it says which page of ``replay`` it wants first. `docs/protocol.md` has
the follower's rules, under "Publications"; they are kept here, and only here.
"""

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from zstream import wire
from zstream.cursor import Cursor
from zstream.errors import CursorLost, DecodeError, Error, TailGap, from_wire
from zstream.event import Event
from zstream.limits import PAGE_EVENTS
from zstream.wire import BEAT, BYE, DATA, ERR, HELLO, Header

_CHAIN: Final = frozenset((DATA, HELLO, BEAT, BYE))


class State(Enum):
    """Where a tail stands."""

    WAITING = "for the first HELLO"
    LIVE = "live"
    REPLAYING = "what the store has"
    CHECKING = "whether the cursor is good in another run"


class TailCore:
    """One tail.

    Args:
        filter: As the daemon takes it.
        after: Begin behind this id or cursor.
        since: Begin at this arrival, in microseconds since 1970 UTC; instead of ``after``.
            With neither the tail begins at the head that HELLO tells.

    Attributes:
        state: Where it stands.
    """

    def __init__(
        self, filter: Mapping[str, Any], *, after: int | Cursor | None = None,
        since: int | None = None,
    ) -> None:  # fmt: skip
        self._filter = filter
        self._after, self._since = after, since
        #: As long as history is being caught up with, holes are filled from it. A tail that is
        #: live stops at a hole.
        self._heals = after is not None or since is not None
        self.state = State.WAITING
        self._node = 0
        #: Whether it begins with the oldest that is kept: 0 in a run would be a place, and lost
        #: once events were trimmed.
        self._from_oldest = type(after) is int and after == 0
        self._run: int | None = None
        self._id = self._delivered = 0
        self._held: tuple[Header, bytes] | None = None
        self._events: deque[Event] = deque()
        self._error: Error | None = None

    @property
    def has_started(self) -> bool:
        """Whether the first HELLO came."""
        return self.state is not State.WAITING

    @property
    def wants_publications(self) -> bool:
        """Whether it can take another publication now."""
        return self._error is None and self.state in (State.WAITING, State.LIVE)

    @property
    def cursor(self) -> str:
        """Where to resume: everything up to the event that ``take`` gave last is behind it."""
        id = self._delivered if self._events else max(self._delivered, self._id)
        return str(Cursor(self._run or 0, {self._node: id}))

    # ------------------------------------------------------------ out

    def take(self) -> Event | None:
        """The next event, or None if there is none yet.

        Raises:
            Error: The tail ended, and why: TailGap, CursorLost, Trimmed, BadFilter.
        """
        if self._events:
            event = self._events.popleft()
            self._delivered = event.id
            return event
        if self._error is not None:
            raise self._error
        return None

    def wanted(self) -> dict[str, Any] | None:
        """The fields of the ``replay`` that is wanted now, or None."""
        if self._error is not None or self.state not in (State.REPLAYING, State.CHECKING):
            return None
        fields: dict[str, Any] = {"filter": self._filter, "limit": PAGE_EVENTS}
        if self._since is not None:
            fields["since"] = self._since
        else:
            fields["after"] = self._id
        if self._run is not None and not self._from_oldest:
            fields["run"] = self._run
        return fields

    # ------------------------------------------------------------ in

    def publication(self, header: Header, body: bytes) -> None:
        """Take a publication; only when `wants_publications`."""
        if header.type == ERR:
            self.fail(_error(body))
        elif header.type not in _CHAIN:
            return
        elif self.state is State.WAITING:
            if header.type == HELLO:
                self._begin(header, body)
        else:
            self._follow(header, body)

    def dropped(self) -> None:
        """Publications were dropped here, because nobody took them in time."""
        if self._error is not None or self.state is State.WAITING:
            return
        if self._heals:
            self.state = State.REPLAYING
        else:
            self._fail_gap("publications were dropped because nobody read the tail in time")

    def caught_up(self) -> None:
        """Everything that was received has been taken: what follows is live."""
        if self.state is State.LIVE:
            self._heals = False

    def page(self, reply: Mapping[str, Any]) -> None:
        """Take the reply to the ``replay`` that was wanted."""
        try:
            events = [Event(fields, id, ts) for id, ts, fields in reply["events"]]
            run, upto, head = reply["run"], reply["upto"], reply["head"]
            is_known = max(run, upto, head) >= 0
        except (KeyError, TypeError, ValueError) as error:
            self.fail(DecodeError(f"the daemon's page cannot be read: {error!r}"))
            return
        assert is_known
        if self._since is not None:
            self._delivered = events[0].id - 1 if events else upto
            self._since = None
        elif upto <= self._id and upto < head:
            self.fail(DecodeError(f"the daemon's replay stands still at {upto}"))
            return
        self._run, self._from_oldest = run, False
        if self.state is State.CHECKING and not self._heals and self._has_missed(events):
            self._fail_gap("events came while the connection was away")
            return
        self._add(events)
        self._id = max(self._id, upto)
        self._go_on(upto >= head)

    def fail(self, error: Error) -> None:
        """End the tail with this error, behind the events that are there."""
        if self._error is None:
            self._error, self._held = error, None

    # ------------------------------------------------------------ rules

    def _begin(self, header: Header, body: bytes) -> None:
        self._node = header.node
        self._run, self._id = header.run, header.id
        self.state = State.LIVE
        if isinstance(self._after, Cursor):
            if set(self._after.ids) != {header.node}:
                self.fail(CursorLost("the cursor is of other nodes than this daemon's"))
                return
            self._run, self._id = self._after.run, self._after.ids[header.node]
        elif self._after is not None:
            self._id = self._after
        elif self._since is not None:
            self._id = 0
        if self._heals:
            self.state, self._held = State.REPLAYING, (header, body)
        self._delivered = self._id

    def _follow(self, header: Header, body: bytes) -> None:
        if header.run != self._run:
            self.state, self._held = State.CHECKING, (header, body)
        elif header.id <= self._id:
            return
        elif header.prev <= self._id:
            if header.type == DATA and not self._take_data(body):
                return
            self._id = header.id
        elif self._heals:
            self.state, self._held = State.REPLAYING, (header, body)
        else:
            self._fail_gap(f"events between {self._id} and {header.prev} were not received")

    def _go_on(self, is_head: bool) -> None:
        held = self._held
        if held is not None and held[0].run != self._run:
            # It came late, from a life that is over, or a daemon that is just going answered.
            # Runs have no order, so it is only passed over: the next publication tells.
            held = self._held = None
            self.state = State.REPLAYING if self._heals else State.LIVE
        if held is None:
            if is_head:
                self.state = State.LIVE
            return
        if held[0].prev <= self._id:
            self.state, self._held = State.LIVE, None
            self._follow(*held)
        elif is_head:
            self.fail(DecodeError("the daemon publishes what its store does not have"))

    def _has_missed(self, events: list[Event]) -> bool:
        # What is held came with the new connection, and so does all above its prev: the reader
        # may just not have come so far.
        if self._held is None or self._held[0].run != self._run:
            return False
        return any(event.id <= self._held[0].prev for event in events)

    def _take_data(self, body: bytes) -> bool:
        try:
            self._add([Event(fields, id, ts) for id, ts, fields in wire.unpack(body)])
        except (DecodeError, TypeError, ValueError) as error:
            self.fail(DecodeError(f"the daemon's publication cannot be read: {error}"))
            return False
        return True

    def _add(self, events: list[Event]) -> None:
        self._events.extend(event for event in events if event.id > self._id)

    def _fail_gap(self, why: str) -> None:
        cursor = str(Cursor(self._run or 0, {self._node: self._id}))
        self.fail(TailGap(f"{why}; go on with tail(..., after=error.cursor)", cursor=cursor))


def _error(body: bytes) -> Error:
    try:
        fields = wire.unpack(body)
        return from_wire(str(fields["code"]), str(fields["message"]))
    except (DecodeError, KeyError, TypeError) as error:
        return DecodeError(f"the daemon's ERR cannot be read: {error!r}")
