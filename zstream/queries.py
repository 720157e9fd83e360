"""Queries as callers ask them, turned into requests, and pages put together. No I/O in here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import tzinfo
from typing import Any, Final

from zstream import wire
from zstream.cursor import parse_cursor
from zstream.errors import BadFilter, BadRequest, DecodeError
from zstream.event import Event, Page
from zstream.keys import normalize
from zstream.limits import BATCH_BYTES, BATCH_EVENTS, MAX_END, MAX_INTEGER, PAGE_EVENTS
from zstream.tail import TailCore
from zstream.times import Time, micros

#: What ``end`` is when it is not given, counted from ``start``.
DEFAULT_COUNT: Final = 20

Filter = Mapping[str, Any]

#: What no key given by name is called, so that a typing slip is never taken for a key.
_ARGUMENTS: Final = frozenset(("start", "end", "since", "until", "before", "after"))


def make_filter(filter: Filter | None, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Put a filter together, and check what can be checked without the daemon.

    Args:
        filter: A map of keys to a scalar or an iterable of scalars, or None.
        keys: More of the same, given by name.

    Returns:
        The filter in normal form, its values as texts: a text, or a list of them.

    Raises:
        TypeError: A key stands in both, or is called as an argument of some query.
        BadFilter: It is no map, or a value can match nothing.
    """
    taken = _ARGUMENTS & set(keys)
    if taken:
        name = min(taken)
        raise TypeError(
            f"{name} is no argument here, and a key of that name goes in {{{name!r}: …}}"
        )
    if filter is not None and not isinstance(filter, Mapping):
        raise BadFilter(f"a filter is a map of keys to values, not {type(filter).__name__}")
    both = set(filter or ()) & set(keys)
    if both:
        raise TypeError(f"given both in the filter and by name: {', '.join(sorted(both))}")
    wanted = {key: _values(key, value) for key, value in {**(filter or {}), **keys}.items()}
    names = tuple(sorted(wanted))
    return {
        names[place]: texts[0] if len(texts) == 1 else list(texts)
        for place, texts in normalize(wanted, names)
    }


def _values(key: object, value: Any) -> Any:
    if not isinstance(key, str):
        raise BadFilter(f"a key is text, not {key!r}")
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        return value
    return list(value)


def make_query(
    filter: Filter | None, keys: Mapping[str, Any], since: Time | None, until: Time | None,
    tz: tzinfo | None,
) -> dict[str, Any]:  # fmt: skip
    """The fields of a slice: filter and time range; raises as `make_filter`, and BadTime."""
    fields: dict[str, Any] = {"filter": make_filter(filter, keys)}
    if since is not None:
        fields["since"] = micros(since, tz=tz, name="since")
    if until is not None:
        fields["until"] = micros(until, tz=tz, name="until")
    return fields


class Items:
    """One ``items`` call: its requests one by one, and the page that comes of their replies.

    Args:
        query: As `make_query` gives it.
        start, end: Which of the newest events; ``end`` None is start + 20.
        before: The token of another page.

    Attributes:
        page: What has come so far.

    Raises:
        BadRequest: ``start`` and ``end`` are no such range.
    """

    def __init__(
        self, query: Mapping[str, Any], start: int, end: int | None, before: str | None
    ) -> None:
        end = start + DEFAULT_COUNT if end is None and type(start) is int else end
        for name, value in (("start", start), ("end", end)):
            if type(value) is not int or value < 0:
                raise BadRequest(f"{name} is a whole number from 0, not {value!r}")
        if before is not None and not isinstance(before, str):
            raise BadRequest(f"before is the text of page.next, not {before!r}")
        assert end is not None
        if end > MAX_END:
            raise BadRequest(
                f"end is {end}; beyond {MAX_END} go on from a page: items(..., before=page.next)"
            )
        if end < start:
            raise BadRequest(f"end is {end}, before start, which is {start}")
        self._query = query
        self._start, self._left, self._before = start, end - start, before
        self.page = Page((), next=before)

    def request(self) -> dict[str, Any] | None:
        """The fields of the next request, or None when the page is complete."""
        if not self._left:
            return None
        fields = {
            **self._query, "start": self._start, "limit": min(self._left, PAGE_EVENTS),
        }  # fmt: skip
        if self._before is not None:
            fields["before"] = self._before
        return fields

    def reply(self, reply: Mapping[str, Any]) -> None:
        """Take the reply to it.

        Raises:
            DecodeError: It is not what the protocol says.
        """
        try:
            events = [Event(fields, id, ts) for id, ts, fields in reply["events"]]
            following, skipped, head = reply["next"], reply["skipped"], reply["head"]
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"the daemon's page cannot be read: {error!r}") from error
        self.page.extend(events)
        self.page.head = self.page.head or head
        self.page.next = self._before = following
        self._start = max(0, self._start - skipped)
        self._left = max(0, self._left - len(events)) if following is not None else 0


def make_trim(before: Time | None, upto: int | None, tz: tzinfo | None) -> dict[str, int]:
    """The fields of a ``trim``; raises BadRequest, and BadTime."""
    if (before is None) is (upto is None):
        raise BadRequest("trim forgets what arrived before a time, or all up to an id: give one")
    if before is not None:
        return {"before": micros(before, tz=tz, name="before")}
    if type(upto) is not int or not 0 <= upto <= MAX_INTEGER:
        raise BadRequest(f"upto is an id, not {upto!r}")
    return {"floor": upto}


def read_count(reply: Mapping[str, Any], name: str = "count") -> int:
    """The number in the reply to ``count`` or ``trim``; raises DecodeError if there is none."""
    count = reply.get(name)
    if type(count) is not int:
        raise DecodeError(f"the daemon answered with no {name}")
    return count


def make_start(after: int | str | None, since: Time | None, tz: tzinfo | None) -> TailCore:
    """Make the core of a tail that begins there.

    Raises:
        BadRequest: ``after`` is neither an id nor a cursor, or both are given.
        BadTime: ``since`` is no time.
    """
    if after is not None and since is not None:
        raise BadRequest("a tail begins after an id or cursor, or since a time, not both")
    if isinstance(after, str):
        if not (after.isascii() and after.isdecimal()):
            return TailCore(after=parse_cursor(after))
        after = int(after)  # an id that was stored as text
    if after is not None and (type(after) is not int or not 0 <= after <= MAX_INTEGER):
        raise BadRequest(f"after is an event's id or a cursor's text, not {after!r}")
    start = None if since is None else micros(since, tz=tz, name="since")
    return TailCore(after=after, since=start)


class Inserts:
    """One ``insert(wait=True)``: its requests one by one, and the ids of their replies.

    Args:
        elements: Packed; they are cut into parts that one request can hold. Each part is stored
            whole or not at all.

    Attributes:
        ids: Those that have come so far, in the elements' order.
    """

    def __init__(self, elements: Sequence[bytes]) -> None:
        self._elements = elements
        self._asked = 0
        self.ids: list[int] = []

    def request(self) -> dict[str, bytes] | None:
        """The packed fields of the next request, or None when all are stored."""
        start = len(self.ids)
        if start == len(self._elements):
            return None
        end = start
        size = 0
        while end < len(self._elements) and end < start + BATCH_EVENTS:
            size += len(self._elements[end])
            if size > BATCH_BYTES and end > start:
                break
            end += 1
        self._asked = end - start
        part = self._elements[start:end]
        return {"events": wire.array_header(len(part)) + b"".join(part)}

    def reply(self, reply: Mapping[str, Any]) -> None:
        """Take the reply to it; raises DecodeError if it is not what the protocol says."""
        ids = reply.get("ids")
        if not isinstance(ids, list) or len(ids) != self._asked:
            raise DecodeError("the daemon answered an insert with other ids than asked for")
        self.ids += ids

    @contextmanager
    def annotated(self) -> Iterator[None]:
        """Note on an error that ends the block what it did not hinder."""
        try:
            yield
        except Exception as error:
            if self.ids:
                error.add_note(f"the first {len(self.ids)} of {len(self._elements)} were stored")
            raise
