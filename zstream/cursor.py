"""Cursors and page tokens: places in a store, as opaque text with a type tag.

A cursor says up to which id of each node a follower has seen everything; a token says where a
walk through ``items`` stands. Both name the run of the store that they were made in, so that a
restored copy or an emptied store is noticed and never silently misread.
"""

import re
from dataclasses import dataclass

from zstream.errors import BadRequest
from zstream.limits import MAX_INTEGER, MAX_NODE

_CURSOR = re.compile(r"c1\.([0-9a-f]{1,14})((?:\.[0-9a-f]{1,2}-[0-9a-f]{1,14}){1,128})", re.ASCII)
_TOKEN = re.compile(
    r"p1\.([0-9a-f]{1,14})\.([0-9a-f]{1,14})\.([0-9a-f]{1,14})\.([0-9a-f]{1,14})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything up to ``ids[node]`` has been seen, in the store's run ``run``."""

    run: int
    ids: dict[int, int]

    def __str__(self) -> str:
        places = "".join(f".{node:x}-{id:x}" for node, id in sorted(self.ids.items()))
        return f"c1.{self.run:x}{places}"


@dataclass(frozen=True, slots=True)
class Token:
    """A walk newest first stands below ``(ts, id)`` and sees ids up to ``head`` only."""

    run: int
    ts: int
    id: int
    head: int

    def __str__(self) -> str:
        return f"p1.{self.run:x}.{self.ts:x}.{self.id:x}.{self.head:x}"


def parse_cursor(text: object) -> Cursor:
    """Read a cursor back from its text; BadRequest if it is not one."""
    match = _CURSOR.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise BadRequest(f"not a cursor: {_short(text)}; pass tail.cursor or an event's id")
    places = [place.split("-") for place in match[2][1:].split(".")]
    ids = {int(node, 16): int(id, 16) for node, id in places}
    run = int(match[1], 16)
    if max(run, *ids.values()) > MAX_INTEGER or max(ids) > MAX_NODE or len(ids) != len(places):
        raise BadRequest(f"not a cursor: {_short(text)}")
    return Cursor(run, ids)


def parse_token(text: object) -> Token:
    """Read a page token back from its text; BadRequest if it is not one."""
    match = _TOKEN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise BadRequest(f"not a page token: {_short(text)}; pass page.next as before=")
    run, ts, id, head = (int(part, 16) for part in match.groups())
    if max(run, ts, id, head) > MAX_INTEGER:
        raise BadRequest(f"not a page token: {_short(text)}")
    return Token(run, ts, id, head)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
