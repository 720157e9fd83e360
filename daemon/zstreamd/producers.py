"""The daemon's side of numbered batches: go-back-N with one row a producer."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from zstream import wire
from zstream.backends.base import Producer
from zstream.limits import PROBE_N
from zstream.wire import BatchHeader
from zstreamd.validate import Refusal

#: How many of a producer's refusals are kept; all are counted.
KEPT_REFUSALS: Final = 100

Verdict = Literal["next", "again", "gap", "fenced"]

_UNKNOWN: Final = Producer(b"", 0, 0, 0, b"\x90", 0)


class Producers:
    """What is known of the producers, with the changes of the transaction that is being made.

    Args:
        known: The rows of the store. They change here only by ``commit``, once the store has
            them, so that a confirmation never says more than what is on disk.
    """

    def __init__(self, known: Mapping[bytes, Producer]) -> None:
        self.stored = dict(known)
        self._changed: dict[bytes, Producer] = {}

    def get(self, id: bytes) -> Producer:
        """A producer's row as the transaction will leave it."""
        return self._changed.get(id) or self.stored.get(id) or _UNKNOWN._replace(id=id)

    def judge(self, header: BatchHeader, now: int) -> Verdict:
        """Say what a batch is: the next one, one dealt with before, beyond a gap, or fenced.

        A higher epoch takes effect whatever becomes of the batch. A probe is always beyond a
        gap; of the same epoch it leaves no trace.
        """
        row = self.get(header.producer)
        if header.epoch < row.epoch:
            return "fenced"
        if header.epoch > row.epoch:
            self._changed[header.producer] = row._replace(epoch=header.epoch, seen=now)
        if header.n == PROBE_N:
            return "gap"
        if header.n <= row.last:
            return "again"
        return "next" if header.n == row.last + 1 else "gap"

    def accept(self, header: BatchHeader, refusals: Sequence[Refusal], now: int) -> None:
        """Note that the next batch of a producer was dealt with."""
        row = self.get(header.producer)
        packed = row.refusals
        if refusals:
            kept = wire.unpack(packed)
            for position, error, _ in refusals[-KEPT_REFUSALS:]:
                kept.append([header.n, position, error.code, str(error)[:500]])
            packed = wire.pack(kept[-KEPT_REFUSALS:])
        self._changed[header.producer] = Producer(
            header.producer,
            header.epoch,
            header.n,
            row.refused + len(refusals),
            packed,
            now,
        )

    def changes(self) -> list[Producer]:
        """The rows that the transaction writes."""
        return list(self._changed.values())

    def commit(self) -> list[Producer]:
        """The store has them: make them known; returns what changed."""
        changed = list(self._changed.values())
        self.stored.update(self._changed)
        self._changed.clear()
        return changed
