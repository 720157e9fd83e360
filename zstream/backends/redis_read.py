"""Reading the Redis store: pages, replays and counts, each of one state of the store."""

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

from zstream import wire
from zstream.backends import redis_link as link
from zstream.backends import redis_lookups, redis_scripts, slices
from zstream.backends.base import Page, Query, Replay
from zstream.backends.index import Segment, View
from zstream.backends.redis_look import Look
from zstream.backends.redis_runs import Layout
from zstream.backends.redis_times import Chunks, Gone, Times
from zstream.backends.redis_walk import count, find_by_id
from zstream.backends.redis_writer import Opened
from zstream.errors import BackendCorrupt
from zstream.limits import MAX_INTEGER


class Reader:
    """One state of the store, read over one session.

    Args:
        session: Where it is asked.
        opened: The run that was opened.
        view: The rows in memory. A segment that was sealed since then is looked for in its run.
        layouts: The sealed runs, as they were after the view.
        chunks: What is kept of their times and ids.
        budget: The work that one page may take, in look-ups and in rows looked at.
    """

    def __init__(
        self, session: link.Session, opened: Opened, view: View, layouts: Mapping[int, Layout],
        chunks: Chunks, budget: int,
    ) -> None:  # fmt: skip
        self.session, self._opened, self._budget = session, opened, budget
        sealed = max((each.run.last for each in layouts.values()), default=0)
        segments = tuple(each for each in view.segments if each.first > sealed)
        self._view = View(segments, view.head, view.floor, view.version)
        self._layouts = layouts
        self._times = Times(chunks, self._fetch)

    def _ask(self, script: link.Script, *args: Any) -> Any:
        return self._opened.ask(self.session, script, *args)

    def _fetch(self, names: bytes) -> Sequence[bytes]:
        found: Sequence[bytes] = self._ask(redis_lookups.PIECES, names)
        return found

    def last_id(self) -> int:
        """The last id that is stored."""
        return int(self._ask(redis_scripts.LAST))

    def arrived(self, since: int) -> int:
        """The last id before a time, by the marks."""
        return int(self._ask(redis_scripts.ARRIVED, since))

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see `Backend`."""
        view = self._view
        if not all(values for _, values in query.filter):
            return Page([], [], [], None, 0, view.head)
        head = view.head if query.head is None else min(query.head, view.head)
        look = Look(self._ask, self._layouts, self._times, query, head, view.floor)
        runs = [each.run for each in self._layouts.values()]
        places, next, skipped = slices.find(view, runs, look, query, self._budget)
        bodies = self._bodies([place.id for place in places], query.max_bytes)
        if len(bodies) < len(places):
            places = places[: len(bodies)]
            next = places[-1]
        ids, ts = [place.id for place in places], [place.ts for place in places]
        return Page(ids, ts, bodies, next, skipped, view.head)

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first by id; see `Backend`."""
        view = self._view
        after = max(after, view.floor)
        ids, upto = list[int](), view.head
        if all(values for _, values in query.filter):
            ids, upto = find_by_id(
                self._ask, view, self._layouts, self._times, query, after, self._budget
            )
        bodies = self._bodies(ids, query.max_bytes)
        if len(bodies) < len(ids):
            ids = ids[: len(bodies)]
            upto = ids[-1]
        return Replay(ids, self._ts_of(ids), bodies, upto, view.head)

    def count(self, query: Query) -> int:
        """Count the events of a slice; see `Backend`."""
        if not all(values for _, values in query.filter):
            return 0
        return count(self._ask, self._view, self._layouts, self._times, query)

    def _bodies(self, ids: Sequence[int], max_bytes: int) -> list[bytes]:
        """As many of the bodies as fit, one at least."""
        if not ids:
            return []
        packed = wire.pack(list(ids), raw=True)
        sizes, joined = self._ask(redis_scripts.BODIES, max_bytes, packed)
        ends = struct.unpack(f"<{len(sizes) // 4}i", sizes)
        if -1 in ends:
            raise Gone
        if not ends or sum(ends) != len(joined):
            raise BackendCorrupt("the sizes of bodies are not theirs")
        return [joined[a:b] for a, b in pairwise(accumulate(ends, initial=0))]

    def _ts_of(self, ids: Sequence[int]) -> list[int]:
        """The times of events, whose ids rise."""
        ts = list[int]()
        rest = deque(ids)
        owners: list[tuple[int, Layout | Segment]] = [
            *((each.run.first, each) for each in self._layouts.values()),
            *((each.first, each) for each in self._view.segments),
        ]
        owners.sort(key=itemgetter(0))
        for (_, owner), (end, _) in pairwise([*owners, (MAX_INTEGER + 1, owners[-1][1])]):
            mine = list[int]()
            while rest and rest[0] < end:
                mine.append(rest.popleft())
            if not mine:
                continue
            if isinstance(owner, Segment):
                ts += [owner.ts[id - owner.first] for id in mine]
            else:
                ranks = self._ranks_of(owner, mine)
                self._times.load(((owner, rank) for rank in ranks), ids=False)
                ts += [self._times.ts(owner, rank) for rank in ranks]
        return ts

    def _ranks_of(self, layout: Layout, ids: Sequence[int]) -> list[int]:
        if layout.run.ordered:
            return [id - layout.run.first for id in ids]
        ranks = {id: rank for rank, id in enumerate(self._times.ids(layout))}
        return [ranks[id] for id in ids]
