"""Events as a plain list that is scanned: the rules again, without a line of zstream.

It judges what the store answers, so nothing of zstream may be imported here, and nothing here
is clever. The rules are those of `docs/protocol.md`.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Row(NamedTuple):
    """An event, its place in the file from 1, and its time in microseconds since 1970."""

    ts: int
    id: int
    event: dict[str, Any]
    texts: tuple[frozenset[str], ...]


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file of JSON Lines, packed with gzip."""
    with gzip.open(path) as file:
        yield from file


def event_of(line: bytes) -> dict[str, Any]:
    """The event of a line."""
    event = json.loads(line)
    assert isinstance(event, dict)
    return event


def micros(text: str) -> int:
    """Microseconds since 1970 of ISO 8601 text."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def text_of(value: object) -> str | None:
    """The text that a scalar is compared as, or None for what nothing can be compared with."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        value = int(value) if value.is_integer() else repr(value)
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, str) and "\0" not in value and len(value.encode()) <= 255:
        return value
    return None


def field_of(event: Mapping[str, Any], key: str) -> object:
    """What an event has under a key: literally, or else by the dotted path."""
    if key in event:
        return event[key]
    found: object = event
    for name in key.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def texts_of(event: Mapping[str, Any], key: str) -> frozenset[str]:
    """All texts under which an event is found by a key."""
    value = field_of(event, key)
    texts = map(text_of, value if isinstance(value, list) else [value])
    return frozenset([text for text in dict.fromkeys(texts) if text is not None][:64])


class Plain:
    """Events in the order in which they were inserted.

    Args:
        events: The events.
        keys: The keys by which they can be found.
        date: Finds the time of an event, in microseconds; without it all have the same time.

    Attributes:
        rows: Newest first, by time and then by id.
        by_id: In the order of their ids.
    """

    def __init__(
        self,
        events: Iterable[dict[str, Any]],
        keys: Sequence[str],
        date: Callable[[dict[str, Any]], int] = lambda event: 0,
    ) -> None:
        self.keys = tuple(keys)
        self.by_id = [
            Row(date(event), id, event, tuple(texts_of(event, key) for key in keys))
            for id, event in enumerate(events, 1)
        ]
        self.rows = sorted(self.by_id, key=lambda row: (row.ts, row.id), reverse=True)
        self._texts = [[row.texts[at] for row in self.rows] for at in range(len(self.keys))]
        # Where no event has several texts, one of them is compared faster than a set.
        self._one = [
            [next(iter(each), None) for each in texts] if max(map(len, texts)) < 2 else None
            for texts in self._texts
        ]

    @property
    def late(self) -> int:
        """How many events are older than one that came before them."""
        newest = count = 0
        for row in self.by_id:
            count += row.ts < newest
            newest = max(newest, row.ts)
        return count

    def select(
        self, filter: Mapping[str, Any], since: int | None = None, until: int | None = None
    ) -> list[Row]:
        """The events of a slice, newest first."""
        kept: Iterable[int] = range(len(self.rows))
        for key, value in filter.items():
            at = self.keys.index(key)
            texts, one = self._texts[at], self._one[at]
            wanted = {text_of(each) for each in (value if isinstance(value, list) else [value])}
            wanted.discard(None)
            if one is not None:
                kept = [place for place in kept if one[place] in wanted]
            else:
                kept = [place for place in kept if not wanted.isdisjoint(texts[place])]
        return [
            row
            for row in map(self.rows.__getitem__, kept)
            if (since is None or row.ts >= since) and (until is None or row.ts < until)
        ]


def jsonl(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Events as JSON Lines."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)
