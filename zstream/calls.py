"""What a client asks the daemon, step by step and without I/O.

Each function is a generator: it yields requests, is sent the replies to them, and returns what
the caller wants to know. A failed request is thrown into it. Both clients run the same ones.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from zstream.event import Page
from zstream.queries import Inserts, Items, read_count

T = TypeVar("T")


class Ask(NamedTuple):
    """A request, as in `docs/protocol.md`; ``packed`` are fields that are packed already."""

    op: str
    fields: Mapping[str, Any]
    packed: Mapping[str, bytes] | None = None


#: A call under way: requests out, replies in, and the result.
Call = Generator[Ask, dict[str, Any], T]


def items(query: Mapping[str, Any], start: int, end: int | None, before: str | None) -> Call[Page]:
    """Read a page, of as many requests as it takes; arguments as of `queries.Items`."""
    asked = Items(query, start, end, before)
    while (fields := asked.request()) is not None:
        asked.reply((yield Ask("items", fields)))
    return asked.page


def count(query: Mapping[str, Any]) -> Call[int]:
    """Count a slice."""
    return read_count((yield Ask("count", query)))


def trim(fields: Mapping[str, int]) -> Call[int]:
    """Forget the oldest events; gives how many."""
    return read_count((yield Ask("trim", fields)), "trimmed")


def info() -> Call[dict[str, Any]]:
    """Ask what the daemon knows of itself."""
    reply = yield Ask("info", {})
    return {name: value for name, value in reply.items() if name not in ("ok", "id")}


def ping() -> Call[None]:
    """Ask for a sign of life."""
    yield Ask("ping", {})


def insert(elements: Sequence[bytes]) -> Call[list[int]]:
    """Store packed elements and give their ids; a failure tells how many had been stored."""
    inserts = Inserts(elements)
    with inserts.annotated():
        while (packed := inserts.request()) is not None:
            inserts.reply((yield Ask("insert", {}, packed)))
    return inserts.ids
