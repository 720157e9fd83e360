"""Events, and a plain list that knows what a store must answer.

Nothing here calls zstream: the list judges it.
"""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

KEYS: Final = ("kind", "user", "tags", "deep.x")
#: Dated events lie in the ten days before this, in microseconds; the others arrive after it.
DATED: Final = 1_700_000_000_000_000
DAY_US: Final = 86_400_000_000

_KINDS: Final = ("friend", "watch", "Watch", "fork ", "é")
_TAGS: Final = tuple("abcdefgh")

Event = dict[str, Any]
Filter = dict[str, Any]
#: Id, ts, event.
Row = tuple[int, int, Event]


def make_event(n: int, rng: random.Random) -> Event:
    """An event with the number n; ``at``, if it has that, is its time."""
    event: Event = {"n": n, "kind": rng.choice(_KINDS), "user": int(rng.paretovariate(0.6)) % 500}
    draw = rng.random()
    if draw < 0.3:
        event["tags"] = rng.choices(_TAGS, k=rng.randrange(5))
    elif draw < 0.6:
        event["tags"] = rng.choice(_TAGS)
    if rng.random() < 0.5:
        event["deep"] = {"x": rng.choice((n % 3, True, None, 2.5, "2.5", f"only {n // 40}"))}
    if rng.random() < 0.02:
        event["user"] = "once upon a time"
    if rng.random() < 0.2:
        event["at"] = DATED - rng.randrange(10 * DAY_US) // DAY_US * DAY_US - rng.randrange(5)
    if rng.random() < 0.02:
        event["body"] = bytes(rng.randrange(9_000))
    return event


def _texts(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_texts, value)) if value else set()
    if isinstance(value, bool):
        return {"true" if value else "false"}
    return set() if value is None else {str(value)}


def index_values(event: Event) -> dict[str, set[str]]:
    """For each key that a store may have the texts by which the event is found."""
    deep = event.get("deep", {}).get("x")
    return {"deep.x": _texts(deep)} | {key: _texts(event.get(key)) for key in (*KEYS[:3], "n")}


class Reader(Protocol):
    """Whoever answers for a store: a daemon, or a backend opened in this process."""

    def items(
        self, wanted: Filter, since: int | None, until: int | None, start: int, page: int, most: int
    ) -> list[Row]:
        """The newest from ``start`` on, ``most`` or all, fetched in pages of ``page``."""

    def replay(self, wanted: Filter, after: int, page: int) -> list[Row]:
        """All above an id, oldest first."""

    def count(self, wanted: Filter, since: int | None, until: int | None) -> int:
        """How many."""


@dataclass
class Model:
    """What is in the store."""

    rows: list[Row] = field(default_factory=list)
    keys: tuple[str, ...] = KEYS

    def __post_init__(self) -> None:
        # Newest first by (ts, id).
        ordered = sorted(self.rows, key=lambda row: (row[1], row[0]), reverse=True)
        self._newest = [(row, index_values(row[2])) for row in ordered]

    def slice(self, wanted: Filter, since: int | None, until: int | None) -> list[Row]:
        tests = [
            (key, set().union(*map(_texts, values if isinstance(values, list) else [values])))
            for key, values in wanted.items()
        ]
        return [
            row
            for row, texts in self._newest
            if (since is None or row[1] >= since)
            and (until is None or row[1] < until)
            and all(values & texts[key] for key, values in tests)
        ]

    def _filter(self, rng: random.Random) -> Filter:
        wanted: Filter = {}
        for key in rng.sample(self.keys, rng.choice((0, 1, 1, 1, 2, 2, 3))):
            present = [rng.choice(self._newest)[1].get(key) for _ in range(3)] if self.rows else []
            values: list[Any] = [value for texts in present if texts for value in sorted(texts)]
            if key == "user":
                values += rng.choice(
                    ([], range(40), range(500), [f"nobody {n}" for n in range(90)])
                )
            elif key == "kind":
                values += rng.choice(([], _KINDS[1:], ["nothing"]))
            one = len(values) == 1 or (values and rng.random() < 0.4)
            wanted[key] = rng.choice(values) if one else values
        return wanted

    def _time(self, rng: random.Random) -> int | None:
        if not self.rows or rng.random() < 0.6:
            return None
        return rng.choice(self.rows)[1] + rng.choice((0, 0, 1, -1))

    def compare(self, reader: Reader, rng: random.Random, queries: int) -> None:
        """Ask random questions, and some that are always asked."""
        newest = [row for row, _ in self._newest]
        assert reader.items({}, None, None, 0, 1000, len(newest) + 1) == newest
        assert reader.count({}, None, None) == len(newest)
        for key in self.keys:
            self._ask(reader, rng, {key: "nothing at all"}, None, None)
        for _ in range(queries):
            self._ask(reader, rng, self._filter(rng), self._time(rng), self._time(rng))

    def _ask(
        self, reader: Reader, rng: random.Random, wanted: Filter, since: int | None,
        until: int | None,
    ) -> None:  # fmt: skip
        expected = self.slice(wanted, since, until)
        told = f"of {wanted}, {since} to {until}"
        assert reader.count(wanted, since, until) == len(expected), f"count {told}"
        start, most = rng.choice((0, 0, 0, 1, 30)), rng.choice((1, 20, 200, 400))
        page = max(rng.choice((1, 7, 20, 100, 1000)), most // 15)
        found = reader.items(wanted, since, until, start, page, most)
        assert found == expected[start : start + most], f"items {told}, from {start}, pages {page}"
        after = rng.choice((0, rng.choice(self.rows)[0])) if self.rows else 0
        by_id = sorted(row for row in self.slice(wanted, None, None) if row[0] > after)
        assert reader.replay(wanted, after, max(page, 50)) == by_id, f"replay {told} after {after}"


def check_whole(rows: Iterable[Row], floor: int, head: int) -> None:
    """The ids from the floor to the head without a gap, each event once, arrivals in order."""
    kept = list(rows)
    assert [id for id, _, _ in kept] == list(range(floor + 1, head + 1))
    numbers = [event["n"] for _, _, event in kept]
    assert len(set(numbers)) == len(numbers), "an event is stored twice"
    for _, ts, event in kept:
        assert ts == event["at"] if "at" in event else ts > DATED
    arrivals = [ts for _, ts, event in kept if "at" not in event]
    assert all(a <= b for a, b in itertools.pairwise(arrivals))
