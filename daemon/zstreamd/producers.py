"""The daemon's side of numbered batches: go-back-N with one row a producer."""

from collections.abc import Sequence
from typing import Final, Literal

from zstream import wire
from zstream.backends.base import Producer
from zstream.limits import FIRST_PROBE_N
from zstream.wire import BatchHeader
from zstreamd.rows import Rows
from zstreamd.validate import Refusal

#: How many of a producer's refusals are kept; all are counted.
KEPT_REFUSALS: Final = 100

Verdict = Literal["next", "again", "gap", "fenced"]

_UNKNOWN: Final = Producer(b"", 0, 0, 0, b"\x90", 0)


class Producers(Rows[Producer]):
    """What is known of the producers, with the changes of the transaction that is being made.

    A confirmation never says more than what is on disk.
    """

    def get(self, id: bytes) -> Producer:
        """A producer's row as the transaction will leave it."""
        return self._changed.get(id) or self.stored.get(id) or _UNKNOWN._replace(id=id)

    def judge(self, header: BatchHeader, now: int) -> Verdict:
        """Say what a batch is: the next one, one dealt with before, beyond a gap, or fenced.

        A higher epoch takes effect whatever becomes of the batch. A probe is always beyond a
        gap; of the same epoch it leaves no trace.
        """
        row = self.get(header.producer)
        self.hear(header.producer, now)
        if header.epoch < row.epoch:
            return "fenced"
        if header.epoch > row.epoch:
            self._changed[header.producer] = row._replace(epoch=header.epoch, seen=now)
        if header.n >= FIRST_PROBE_N:
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
