"""What callers get back: events and pages of them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Event(dict[str, Any]):
    """A stored event: the map that was inserted, and what the store knows of it.

    It is a dict, prints as one and equals one; id and time stand beside the map, not in it.

    Attributes:
        id: The event's id, given in commit order; above 0 and below 2^53.
        ts: Microseconds since 1970 UTC: the date that the caller gave, or the arrival.
    """

    __slots__ = ("id", "ts")

    id: int
    ts: int

    def __init__(self, fields: Mapping[str, Any], id: int, ts: int) -> None:
        super().__init__(fields)
        self.id = id
        self.ts = ts

    @property
    def date(self) -> datetime:
        """The event's time as an aware datetime, in UTC."""
        return _EPOCH + timedelta(microseconds=self.ts)

    def __reduce__(self) -> tuple[Any, ...]:
        return Event, (dict(self), self.id, self.ts)


_new = Event.__new__
_fill = dict.update


def make_events(entries: Iterable[tuple[int, int, Mapping[str, Any]]]) -> list[Event]:
    """Make events of ``(id, ts, fields)``; in half the time that as many calls take.

    Raises:
        TypeError, ValueError: An entry is no such triple.
    """
    events: list[Event] = []
    add = events.append
    for id, ts, fields in entries:
        event = _new(Event)
        _fill(event, fields)
        event.id = id
        event.ts = ts
        add(event)
    return events


class Page(list[Event]):
    """A list of events, newest first.

    Attributes:
        next: The token that continues the walk (``items(..., before=page.next)``), or None
            when there is nothing older.
        head: The last id committed when the page was read.
    """

    __slots__ = ("head", "next")

    next: str | None
    head: int

    def __init__(self, events: Iterable[Event] = (), next: str | None = None, head: int = 0):
        super().__init__(events)
        self.next = next
        self.head = head

    def __reduce__(self) -> tuple[Any, ...]:
        return Page, (list(self), self.next, self.head)
