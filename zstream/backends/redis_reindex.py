"""Other keys for a store in Redis: an index made anew from the bodies, beside the old one.

It is made run by run, and takes the old one's place in one step. Until then the store is what it
was, for whoever opens it; what is made already is kept for another call.
"""

import json
from collections.abc import Sequence

from zstream.backends import redis_lookups, redis_sealing
from zstream.backends.base import Query
from zstream.backends.index import Segment
from zstream.backends.redis_newest import Stored
from zstream.backends.redis_read import Reader
from zstream.backends.upkeep import Extract, Progress
from zstream.errors import BackendCorrupt
from zstream.limits import PAGE_EVENTS


class Change:
    """A change of keys; begun anew, or gone on with where another call was cut off.

    Args:
        run: Executes a script; whoever does it has the store's lock.
        reader: Reads the store.
        stored: What it says of itself.
        keys: Those that it is to have.
        extract: See `Upkeep.reindex`.
        seal_rows: Rows that make a run.
    """

    def __init__(
        self, run: redis_sealing.Run, reader: Reader, stored: Stored, keys: Sequence[str],
        extract: Extract, seal_rows: int,
    ) -> None:  # fmt: skip
        self._run, self._reader, self._stored = run, reader, stored
        self._keys, self._extract, self._seal_rows = tuple(keys), extract, seal_rows

    def make(self, floor: int, last: int, progress: Progress) -> None:
        """Do all of it.

        Args:
            floor: Events up to this id were trimmed.
            last: The last id.
            progress: See `Progress`.
        """
        note = json.dumps(self._keys, ensure_ascii=False)
        made = self._stored.changed if self._stored.change == note else {}
        unfinished = self._stored.unfinished
        if self._stored.change != note:
            unfinished |= self._stored.changed
        self._run(redis_lookups.BEGIN_CHANGE, note)
        self._free(progress)
        done = max([floor, *(each.run.last for each in made.values())])
        while done < last:
            done = self._make_run(done, floor, last, progress)
        progress("putting them in place", last - floor, last - floor)
        self._run(redis_lookups.END_CHANGE, note)
        unfinished |= self._stored.runs
        self._free(progress)

    def _free(self, progress: Progress) -> None:
        freeing = redis_sealing.Freeing(self._run, self._stored.unfinished)
        while freeing.step():
            progress("freeing what nobody looks into", 0, 0)

    def _make_run(self, done: int, floor: int, last: int, progress: Progress) -> int:
        segment = Segment(done + 1, len(self._keys))
        listed = set[int]()
        while done < last and len(segment) < self._seal_rows:
            progress("indexing events", done - floor, last - floor)
            room = self._seal_rows - len(segment)
            page = self._reader.replay(Query(limit=min(room, PAGE_EVENTS)), done)
            if list(page.ids) != list(range(done + 1, page.upto + 1)) or page.upto <= done:
                raise BackendCorrupt(f"the events above {done} are missing")
            columns = self._extract(page.bodies, self._keys)
            listed.update(n for n, each in enumerate(columns) if tuple in set(map(type, each)))
            segment.extend(page.ids, page.ts, columns)
            done = page.upto
        segment.last = done
        segment = segment.sealed(done)
        layout = redis_sealing.begin(self._run, segment, frozenset(listed))
        redis_sealing.write(self._run, segment, layout)
        self._run(redis_lookups.NOTE_CHANGED, layout.run.number)
        return done
