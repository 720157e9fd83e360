"""All of a store in Redis read and compared with itself: bodies, runs, what is not sealed yet."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from zlib import crc32

from zstream import wire
from zstream.backends.redis_link import Session
from zstream.backends.redis_lookups import MARKED
from zstream.backends.redis_open import Opening
from zstream.backends.redis_runs import CHUNK, Layout, unpack_numbers, unpack_ranks
from zstream.backends.redis_scripts import BLOCK
from zstream.backends.upkeep import Progress
from zstream.errors import BackendCorrupt


def check(session: Session, prefix: str, opening: Opening, progress: Progress) -> list[str]:
    """Check a store that no daemon has open.

    Args:
        session: Has the lock of the store.
        prefix: What its keys begin with.
        opening: What it says of itself.
        progress: See `Progress`.

    Returns:
        What is wrong, a sentence each.
    """
    head, stored = opening.head, opening.stored
    wrong = list(_facts(session, prefix, opening))
    wrong += _bodies(session, prefix, head.floor, head.id, progress)
    layouts = sorted(stored.runs.values(), key=lambda each: each.run.first)
    wrong += _gaps(layouts, head.floor, head.id, stored.newest)
    for number, layout in enumerate(layouts):
        progress("checking runs", number, len(layouts))
        if layout.run.last > head.floor:
            wrong += _Run(session, prefix, layout).check()
    progress("checking runs", len(layouts), len(layouts))
    return wrong


def _facts(session: Session, prefix: str, opening: Opening) -> Iterator[str]:
    head = opening.head
    if head.floor > head.id:
        yield f"the floor, {head.floor}, is above the last id, {head.id}"
    ends = [end for _, end in head.runs]
    if sorted(ends) != ends or len({run for run, _ in head.runs}) != len(ends):
        yield "the openings of the store do not follow each other"
    if not head.runs or head.runs[-1][0] != head.run:
        yield "the run of the store is not the one of its last opening"
    marks = [
        tuple(map(int, each.split())) for each in session.ask("LRANGE", f"{prefix}:marks", 0, -1)
    ]
    if sorted(marks) != marks or any(id > head.id for _, id in marks):
        yield "the marks of arrival do not follow each other"


def _bodies(
    session: Session, prefix: str, floor: int, last: int, progress: Progress
) -> Iterator[str]:
    first, end = floor // BLOCK, -(-last // BLOCK)
    for number in range(first, end):
        if number % 100 == 0:
            progress("looking at events", number - first, end - first)
        expected = min(last - number * BLOCK, BLOCK)
        found = session.ask("LLEN", f"{prefix}:rows:{number}")
        if found != expected:
            low = number * BLOCK + 1
            yield f"of the events from {low} to {low + expected - 1} there are {found}"
    if session.ask("EXISTS", f"{prefix}:rows:{end}"):
        yield f"there are events above the last id, {last}"


def _gaps(layouts: list[Layout], floor: int, last: int, newest: Sequence[bytes]) -> Iterator[str]:
    done = floor
    for each in layouts:
        if each.run.first > done + 1:
            yield f"the events from {done + 1} to {each.run.first - 1} are not indexed"
        if each.run.first <= done and done > floor:
            yield f"the events from {each.run.first} to {done} are indexed twice"
        done = max(done, each.run.last)
    for packed in newest:
        first, ts, _ = wire.unpack(packed)
        if first > done + 1:
            yield f"the events from {done + 1} to {first - 1} are not indexed"
        done = max(done, first + len(ts) - 1)
    if done != last:
        yield f"events are indexed up to {done}, and the last id is {last}"


class _Run:
    def __init__(self, session: Session, prefix: str, layout: Layout) -> None:
        self._session, self._layout = session, layout
        self._base = f"{prefix}:run:{layout.run.number}:"
        run = layout.run
        self._what = f"the run {run.number}, of the events from {run.first} to {run.last}"

    def check(self) -> Iterator[str]:
        try:
            yield from self._places()
        except BackendCorrupt as error:
            yield f"{self._what}: {error}"
        for key in range(len(self._layout.buckets)):
            yield from self._values(key)

    def _numbers(self, what: str) -> "array[int]":
        every = array("q")
        for chunk in range(len(self._layout.starts)):
            data = self._session.ask("GET", f"{self._base}{what}:{chunk}") or b""
            every += unpack_numbers(data, min(self._layout.rows - chunk * CHUNK, CHUNK)).every()
        return every

    def _places(self) -> Iterator[str]:
        run, rows = self._layout.run, self._layout.rows
        ts = self._numbers("ts")
        ids = array("q", range(run.first, run.last + 1)) if run.ordered else self._numbers("ids")
        if sorted(ids) != list(range(run.first, run.last + 1)):
            yield f"{self._what}, does not have each of their ids once"
        places = list(zip(ts, ids, strict=True))
        if sorted(places) != places:
            yield f"{self._what}, is not in the order of times"
        if rows and (min(ts), max(ts)) != (run.min_ts, run.max_ts):
            yield f"{self._what}, has other times than is noted of it"
        if list(ts[::CHUNK]) != list(self._layout.starts):
            yield f"{self._what}, has other times than its parts are said to begin with"

    def _values(self, key: int) -> Iterator[str]:
        rows, buckets = self._layout.rows, self._layout.buckets[key]
        seen: Counter[int] = Counter()
        for bucket in range(buckets):
            flat = self._session.ask("HGETALL", f"{self._base}{key}:{bucket}")
            for name, data in zip(flat[::2], flat[1::2], strict=True):
                if len(data) == MARKED:
                    text = self._session.ask("GET", f"{self._base}{key}:{bucket}=".encode() + name)
                    count, data = int.from_bytes(data[:4], "little"), text or b""
                else:
                    count = len(data) // 4
                ranks = unpack_ranks(data) if len(data) % 4 == 0 else array("I")
                if (
                    len(ranks) != count
                    or not count
                    or list(ranks) != sorted(set(ranks))
                    or ranks[-1] >= rows
                    or crc32(name) % buckets != bucket
                ):
                    yield f"{self._what}: the entries of the key {key} under {name!r:.80} are wrong"
                seen.update(ranks)
        if key not in self._layout.run.several and any(each > 1 for each in seen.values()):
            yield f"{self._what}: a row has several values of the key {key}, which has no lists"
