"""What a lane keeps: the batches whose fate is not known, and a count of all others."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from zstream import wire
from zstream.confirmation import Refusal, Report
from zstream.source import ELEMENT_OVERHEAD, Batch

#: ``bad_batch`` for the same batch until it is given up.
_MOST_FAILURES: Final = 3


@dataclass(slots=True)
class Kept:
    """A batch under its number.

    Attributes:
        batch: As the source gave it.
        frames: What is sent.
        was_sent: Whether it ever was.
        failures: How often the daemon could not read it.
        given_up: Why an empty batch has its number.
    """

    batch: Batch
    frames: list[bytes]
    was_sent: bool = False
    failures: int = 0
    given_up: str = ""


class Ledger:
    """The batches of one lane, from the first that is kept, and what became of those before.

    Attributes:
        sent: Events given to the socket, ever, and those that needed not be.
        found: Those that needed not be and are stored, as far as that is known.
        refused: Events refused for good.
        lost: Events of which nothing is known any more: somebody else took the producer over.
        settled: Events whose fate is known, in the order of the source.
        released: Bytes of these, `ELEMENT_OVERHEAD` included.
        kept: The batches that are kept; the first has the number ``confirmed_n + 1``.
        kept_bytes: What they have together.
        confirmed_n: The number of the last that is not.
        ahead_n: The daemon has batches up to this number that were not taken yet.
        refused_seen: The daemon's count of the producer's refused events, as far as it is counted
            here.
    """

    def __init__(self) -> None:
        self.sent = self.refused = self.lost = self.settled = self.released = self.found = 0
        self._reports: list[Report] = []
        self.kept: deque[Kept] = deque()
        self.kept_bytes = 0
        self.begin(b"", 0, 0)

    def begin(self, producer: bytes, epoch: int, confirmed_n: int) -> None:
        """Count for another producer; what is kept gets new numbers."""
        self._producer, self._epoch = producer, epoch
        self.confirmed_n = self.ahead_n = confirmed_n
        self.refused_seen = 0
        self._ahead: list[Refusal] = []
        for n, kept in enumerate(self.kept, confirmed_n + 1):
            self._number(kept, n)

    @property
    def stored(self) -> int:
        """Events known to be on disk."""
        return max(0, self.settled - self.refused - self.lost)

    @property
    def last_n(self) -> int:
        """The number of the last that is kept."""
        return self.confirmed_n + len(self.kept)

    def take_reports(self) -> list[Report]:
        """What was refused since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def add(self, batch: Batch) -> bool:
        """Keep the next batch; False if the daemon has it, and it is settled."""
        kept = Kept(batch, [])
        self.kept.append(kept)
        self.kept_bytes += len(batch.body)
        n = self.last_n
        if n > self.ahead_n:
            self._number(kept, n)
            return True
        self.sent += batch.size
        refusals = [each for each in self._ahead if each[0] == n]
        self.found += batch.size - len(refusals)
        self._settle(n, len(refusals), refusals)
        return False

    def fail(self, n: int, why: str) -> None:
        """The daemon could not read a batch; at last an empty one takes its number."""
        place = n - self.confirmed_n - 1
        if 0 <= place < len(self.kept):
            kept = self.kept[place]
            kept.failures += 1
            if kept.failures == _MOST_FAILURES:
                kept.given_up = why
                self._number(kept, n)

    def resume(self, refused: int, refusals: Sequence[Refusal]) -> None:
        """The first watermark of a lane that resumes: pass over refusals of its earlier life."""
        if self.confirmed_n:
            own = sum(each[0] > self.confirmed_n for each in refusals)
            self.refused_seen = max(0, refused - own)

    def settle(self, last: int, refused: int, refusals: Sequence[Refusal]) -> None:
        """The daemon has dealt with all up to ``last``.

        Args:
            last: May be beyond what is kept.
            refused: Events of the producer that it ever refused.
            refusals: The newest of them.
        """
        beyond = max(self.last_n, self.ahead_n)
        ahead = [each for each in refusals if each[0] > beyond]
        new = max(0, refused - self.refused_seen - len(ahead))
        self.refused_seen = max(refused, self.refused_seen)
        if not self.kept:
            self.found -= new  # they are in batches that are still to be passed over
        self._settle(min(last, self.last_n), new, refusals)
        self._ahead = [each for each in self._ahead if each[0] > self.confirmed_n] + ahead
        self.ahead_n = max(self.ahead_n, last)

    def lose(self) -> None:
        """Whatever was sent and is kept is lost; it is the front."""
        while self.kept and self.kept[0].was_sent:
            kept = self.kept.popleft()
            self.confirmed_n += 1
            self._count(kept)
            self.lost += kept.batch.size

    def _settle(self, last: int, refused: int, refusals: Iterable[Refusal]) -> None:
        report = Report(refused)
        while self.confirmed_n < last:
            kept = self.kept.popleft()
            self.confirmed_n += 1
            self._count(kept)
            if kept.given_up:
                self._give_up(kept)
                continue
            for refusal in refusals:
                if refusal[0] == self.confirmed_n:
                    report.add(refusal, _elements(kept.batch), kept.batch.tag)
        self.refused += refused
        if refused:
            self._reports.append(report)

    def _count(self, kept: Kept) -> None:
        size, body, _ = kept.batch
        self.kept_bytes -= len(body)
        self.settled += size
        self.released += len(body) - len(wire.array_header(size)) + ELEMENT_OVERHEAD * size

    def _give_up(self, kept: Kept) -> None:
        report = Report(kept.batch.size)
        elements = _elements(kept.batch)
        for place in range(kept.batch.size):
            refusal = (self.confirmed_n, place, "bad_batch", kept.given_up)
            report.add(refusal, elements, kept.batch.tag)
        self.refused += report.count
        self._reports.append(report)

    def _number(self, kept: Kept, n: int) -> None:
        size, body, _ = Batch(0, wire.array_header(0)) if kept.given_up else kept.batch
        kept.frames = wire.number_batch(self._producer, self._epoch, n, size, body)


def _elements(batch: Batch) -> list[bytes]:
    return wire.split_array(batch.body, batch.size)[0]
