"""Sealed runs of the Redis store: how rows become the few, dense keys that index them.

The rows of a run are numbered by (ts, id) from 0: their *ranks*. For each key, the ranks of a
value's rows stand under the value in one of many small hashes, which Redis keeps as flat lists: a
value that one row has costs some 13 bytes and its text, where a key of its own would cost 90. A
value that more than `FEW` rows have gets a string of its own, and a mark in the hash. Times, and
ids where they do not rise with the ranks, stand in strings of `CHUNK` numbers each.
"""

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate, chain, pairwise
from typing import Final, NamedTuple
from zlib import crc32

from zstream import wire
from zstream.backends.index import Segment
from zstream.backends.index_key import KeyIndex
from zstream.backends.slices import Run
from zstream.errors import BackendCorrupt

#: Rows of a value that stand in the hash itself: 4 bytes each, and 64 is what it keeps flat.
FEW: Final = 15
#: Values of a hash, on average. Redis keeps up to 512 of them flat.
_BUCKET: Final = 64
#: Longer texts stand for themselves by a digest, behind a byte that no text has.
_LONGEST: Final = 64
#: Numbers of one string of times or ids.
CHUNK: Final = 1_024
_MARK: Final = struct.Struct("<IB")
_BASE: Final = struct.Struct("<q")


class Layout(NamedTuple):
    """A sealed run, and where its pieces are.

    Attributes:
        run: See `zstream.backends.slices.Run`.
        buckets: For each key, how many hashes.
        starts: The first time of each chunk.
    """

    run: Run
    buckets: tuple[int, ...]
    starts: Sequence[int]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.run.last - self.run.first + 1

    def pieces(self) -> Iterator[str]:
        """The names of all keys that it has, but for the strings that hashes tell of."""
        for key, buckets in enumerate(self.buckets):
            yield from (f"{key}:{bucket}" for bucket in range(buckets))
        for chunk in range(len(self.starts)):
            yield f"ts:{chunk}"
            yield f"ids:{chunk}"


def describe(segment: Segment, several: frozenset[int]) -> Layout:
    """Say what a segment, in order, will be as a run; it has no number yet."""
    assert segment.last is not None
    run = Run(
        0, segment.first, segment.last, segment.min_ts, segment.max_ts,
        segment.slots_by_id is None, several,
    )  # fmt: skip
    buckets = [max(len(key.numbers) // _BUCKET, 1) for key in segment.keys]
    return Layout(run, tuple(buckets), segment.ts[::CHUNK])


def pack_layout(layout: Layout) -> bytes:
    """Make the text of a description."""
    run = layout.run
    facts = [*run[1:5], run.ordered, sorted(run.several)]
    return wire.pack([*facts, list(layout.buckets), list(layout.starts)])


def unpack_layout(number: int, text: bytes) -> Layout:
    """Read the text of a description."""
    try:
        first, last, min_ts, max_ts, ordered, several, buckets, starts = wire.unpack(text)
    except ValueError as error:
        raise BackendCorrupt(f"the description of the run {number} cannot be read") from error
    run = Run(number, first, last, min_ts, max_ts, ordered, frozenset(several))
    return Layout(run, tuple(buckets), array("q", starts))


# ---------------------------------------------------------------- numbers


def pack_ranks(ranks: "array[int]") -> bytes:
    """Four bytes each, the lowest first."""
    if sys.byteorder == "big":
        ranks = array("I", ranks)
        ranks.byteswap()
    return ranks.tobytes()


def unpack_ranks(data: bytes) -> "array[int]":
    """What `pack_ranks` made, any number of such texts behind each other."""
    ranks = array("I")
    ranks.frombytes(data)
    if sys.byteorder == "big":
        ranks.byteswap()
    return ranks


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Times or ids: the lowest, and what the others are above it, in four bytes or eight."""
    base = min(numbers)
    above = [number - base for number in numbers]
    packed = array("I" if max(above) < 1 << 32 else "Q", above)
    if sys.byteorder == "big":
        packed.byteswap()
    return _BASE.pack(base) + packed.tobytes()


class Numbers(NamedTuple):
    """What `pack_numbers` made, read without touching each of them."""

    base: int
    above: "array[int]"

    def of(self, place: int) -> int:
        """The number at a place."""
        return self.base + self.above[place]

    def every(self) -> "array[int]":
        """All of them."""
        return array("q", (self.base + each for each in self.above))

    def below(self, number: int) -> int:
        """How many are below a number, if they rise."""
        return bisect_left(self.above, number - self.base)


def unpack_numbers(data: bytes, count: int) -> Numbers:
    """Read what `pack_numbers` made of so many numbers."""
    above = array("I" if len(data) - _BASE.size == 4 * count else "Q")
    try:
        above.frombytes(data[_BASE.size :])
        (base,) = _BASE.unpack_from(data)
    except (ValueError, struct.error) as error:
        raise BackendCorrupt("times or ids of a run cannot be read") from error
    if len(above) != count:
        raise BackendCorrupt("times or ids of a run are not as many as its rows")
    if sys.byteorder == "big":
        above.byteswap()
    return Numbers(base, above)


# ---------------------------------------------------------------- values


def field(value: str) -> bytes:
    """What a value is called in a hash."""
    text = value.encode()
    return text if len(text) <= _LONGEST else b"\0" + blake2b(text, digest_size=16).digest()


def wanted(values: Iterable[str]) -> list[int | bytes]:
    """Values as the scripts want them: the hash of each, which finds its bucket, and its name."""
    fields = list(map(field, values))
    return list(chain.from_iterable(zip(map(crc32, fields), fields, strict=True)))


class Pieces(NamedTuple):
    """Keys to write: hashes with their fields, and strings; the names behind the run's own."""

    hashes: list[tuple[str, list[bytes]]]
    strings: list[str | bytes]


def entries(segment: Segment, layout: Layout, key: int, step_bytes: int) -> Iterator[Pieces]:
    """Index one key of a segment: about so many bytes at a time."""
    buckets: list[list[bytes]] = [[] for _ in range(layout.buckets[key])]
    dense = list[tuple[bytes, bytes]]()
    for name, ranks in _ranks(segment.keys[key], layout.rows):
        bucket = crc32(name) % len(buckets)
        if len(ranks) > 4 * FEW:
            dense.append((f"{key}:{bucket}=".encode() + name, ranks))
            ranks = _MARK.pack(len(ranks) // 4, 0)
        buckets[bucket] += (name, ranks)
    # The marks first: a string of which no mark tells would never be freed.
    hashes, size = list[tuple[str, list[bytes]]](), 0
    for number, fields in enumerate(buckets):
        if fields:
            hashes.append((f"{key}:{number}", fields))
            size += sum(map(len, fields))
        if size > step_bytes:
            yield Pieces(hashes, [])
            hashes, size = [], 0
    yield Pieces(hashes, [])
    strings, size = list[str | bytes](), 0
    for name, ranks in dense:
        strings += (name, ranks)
        size += len(ranks)
        if size > step_bytes:
            yield Pieces([], strings)
            strings, size = [], 0
    yield Pieces([], strings)


def _ranks(key: KeyIndex, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Each value's name, and the ranks of its rows."""
    key.settle()
    codes = key.codes[:count]
    if key.several:
        pairs = [(code, slot) for slot, code in enumerate(codes) if code >= 0]
        pairs += ((code, slot) for slot, several in key.several.items() for code in several)
        order = [slot for _, slot in sorted(pairs)]
    else:
        order = sorted(range(count), key=codes.__getitem__)
        order = order[codes.count(-1) :]
    packed = pack_ranks(array("I", order))
    ends = accumulate(key.sizes, initial=0)
    for value, (begin, end) in zip(key.numbers, pairwise(ends), strict=True):
        yield field(value), packed[4 * begin : 4 * end]


def numbers(segment: Segment) -> Iterator[Pieces]:
    """The times of a segment, and its ids if they do not rise with the ranks."""
    for chunk, start in enumerate(range(0, len(segment), CHUNK)):
        strings: list[str | bytes] = [
            f"ts:{chunk}",
            pack_numbers(segment.ts[start : start + CHUNK]),
        ]
        if segment.slots_by_id is not None:
            strings += (f"ids:{chunk}", pack_numbers(segment.ids[start : start + CHUNK]))
        yield Pieces([], strings)
