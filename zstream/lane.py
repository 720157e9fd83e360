"""A lane: a producer's events on their way to one daemon, as numbered batches. No I/O in here.

Elements, confirmations and the time go in; batches and the wish for a watermark come out. The
daemon's half of the rules is in `docs/protocol.md`, under "Numbered batches".

What makes a batch count as stored is an ACK or a watermark that reaches its number. What makes
it count as lost is a NACK: batches travel in order, so whoever is told of a gap knows that one
of his was lost on the way, and the watermark asked for *after* the NACK says from which number.
Silence proves nothing, and neither does a watermark that stands still: the batch may be under
way. So after a reconnect, or two seconds of silence, the lane is in *doubt*: it sends a *probe*,
an empty batch with the next number, and holds everything else back. The probe is confirmed, and
then so is all before it, or it draws the NACK.

A lane that lost something goes on as a new producer, because the daemon takes nothing behind a
gap. So it does when the daemon has forgotten batches that it once confirmed (a store that was
restored or emptied).
"""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from zstream import wire
from zstream.confirmation import Ask, Refusal, Report, Watermark
from zstream.limits import BATCH_BYTES, BATCH_EVENTS

#: What an element takes in memory beside its bytes, about.
ELEMENT_OVERHEAD: Final = 48
#: Batches under way at once; so many at most are lost with a daemon that is killed.
WINDOW: Final = 64
#: Seconds without progress until a watermark is asked for; the shorter one as long as no
#: confirmation was ever heard, because the first ones may come before the subscription is there.
ASK_S: Final = 0.5
ASK_FIRST_S: Final = 0.05
#: Seconds without progress until the lane is in doubt.
QUIET_S: Final = 2.0
#: Seconds between probes: doubling from the first to the last.
PROBE_S: Final = (0.1, 5.0)


@dataclass(slots=True)
class _Sent:
    n: int
    count: int
    size: int
    elements: list[bytes] | None


class Lane:
    """The state of one lane. One thread uses it; times are seconds of a monotonic clock.

    Args:
        keep: Keep the elements of unconfirmed batches, for the reports of refused events.

    Attributes:
        producer: The 16 random bytes that name the producer; new after a loss.
        sent: Events given to the socket, ever.
        stored: Events known to be on disk.
        refused: Events refused for good.
        lost: Events given to the socket that will not be stored.
        settled: stored + refused + lost: the fate of so many, in the order of ``put``, is known.
        released: Bytes of the settled ones, `ELEMENT_OVERHEAD` included.
        restarts: How often the lane became a new producer.
        reports: What was refused and not yet taken notice of.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._queue: deque[bytes] = deque()
        self.sent = self.stored = self.refused = self.lost = self.settled = self.released = 0
        self.restarts = 0
        self.reports: list[Report] = []
        self._is_connected = False
        self._begin()

    def _begin(self) -> None:
        self.producer = os.urandom(16)
        self.epoch = 1
        self._flight: deque[_Sent] = deque()
        self._batches = 0  # of them, those that are no probes
        self._sent_n = self._confirmed_n = self._refused_seen = 0
        self._offered: tuple[list[bytes], int, list[bytes]] | None = None
        self._doubt = self._broken = self._heard = False
        self._probe_n = 0  # the first probe of this doubt, 0 before it
        self._probe_at, self._probe_gap = 0.0, PROBE_S[0]
        self._asked: Ask | None = None
        self._ask_at: float | None = None
        self._ask_gap = ASK_FIRST_S
        self._progress_at = 0.0

    @property
    def waiting(self) -> int:
        """Events that were not yet given to the socket."""
        return len(self._queue)

    @property
    def unconfirmed(self) -> int:
        """Events given to the socket whose fate is not known."""
        return self.sent - self.settled

    # ------------------------------------------------------------ events in, batches out

    def put(self, elements: Iterable[bytes]) -> None:
        """Queue packed elements."""
        self._queue.extend(elements)

    def offer(self, now: float) -> list[bytes] | None:
        """The frames that are to be sent next, or None.

        They take their number when ``taken`` says that the socket took them; until then the
        same may be offered again.
        """
        if not self._is_connected or self._broken:
            return None
        if self._is_quiet(now):
            self._doubt_now(now)
        if self._offered is None:
            if self._doubt:
                if (self._queue or self._flight) and now >= self._probe_at:
                    self._offered = self._make([])
            elif self._queue and self._batches < WINDOW:
                self._offered = self._make(self._cut())
        return self._offered[2] if self._offered else None

    def taken(self, now: float) -> None:
        """The socket took what was offered last."""
        assert self._offered is not None
        elements, size, _ = self._offered
        self._offered = None
        self._sent_n += 1
        if not self._flight:
            self._progress_at = now
            self._ask_at = now + self._ask_gap
        self._flight.append(
            _Sent(self._sent_n, len(elements), size, elements if self._keep else None)
        )
        if not elements:
            self._probe_n = self._probe_n or self._sent_n
            self._probe_at = now + self._probe_gap
            self._probe_gap = min(self._probe_gap * 2, PROBE_S[1])
            return
        self._batches += 1
        self.sent += len(elements)
        for _ in elements:
            self._queue.popleft()

    def _cut(self) -> list[bytes]:
        elements = list(islice(self._queue, BATCH_EVENTS))
        size = 0
        for place, element in enumerate(elements):
            size += len(element)
            if size > BATCH_BYTES and place:
                return elements[:place]
        return elements

    def _make(self, elements: list[bytes]) -> tuple[list[bytes], int, list[bytes]]:
        size = sum(map(len, elements)) + ELEMENT_OVERHEAD * len(elements)
        frames = wire.encode_batch(self.producer, self.epoch, self._sent_n + 1, elements)
        return elements, size, frames

    # ------------------------------------------------------------ the connection

    def connected(self, now: float) -> None:
        """The socket has a connection."""
        self._is_connected = True
        self._probe_at, self._probe_gap = now, PROBE_S[0]
        self._progress_at = now

    def disconnected(self, now: float) -> None:
        """The socket lost its connection, and perhaps what it held."""
        self._is_connected = self._heard = False
        if self._sent_n:
            self._doubt_now(now)

    def _is_quiet(self, now: float) -> bool:
        return bool(self._flight) and not self._doubt and now >= self._progress_at + QUIET_S

    def _doubt_now(self, now: float) -> None:
        # A later probe than those sent so far must be confirmed: they went over the connection
        # that is gone, or were heard by a daemon that is.
        self._doubt, self._offered = True, None
        self._probe_n = 0
        self._probe_at, self._probe_gap = now, PROBE_S[0]

    # ------------------------------------------------------------ confirmations

    def acknowledge(self, last: int, refused: int, now: float) -> None:
        """An ACK came for this producer."""
        self._heard = True
        if last <= self._confirmed_n:
            return
        if last > self._sent_n or refused != self._refused_seen:
            self._ask_at = now  # the watermark has the details
        else:
            self._settle(last, 0, (), now)

    def reject(self, now: float) -> None:
        """A NACK came for this producer."""
        self._heard = True
        if self._flight:
            self._broken, self._offered = True, None
            self._ask_at = now

    def ask(self, now: float) -> Ask | None:
        """Say whether the producer's watermark is wanted now; ``answer`` must follow."""
        if self._asked is not None or self._ask_at is None or now < self._ask_at:
            return None
        self._asked = Ask(self.producer, self._confirmed_n, self._broken)
        return self._asked

    def answer(self, ask: Ask, watermark: Watermark | None, now: float) -> None:
        """The answer to an ask came; None if it failed."""
        if ask is not self._asked:
            return  # it was asked for a producer that is history
        self._asked = None
        if watermark is None:
            self._ask_at = now + ASK_S
            return
        before = self._confirmed_n
        if watermark.last <= self._sent_n:
            refused = max(0, watermark.refused - self._refused_seen)
            if watermark.last > before:
                self._settle(watermark.last, refused, watermark.refusals, now)
        if (
            (self._broken and ask.broken)
            or watermark.last < ask.confirmed_n
            or watermark.last > self._sent_n
            or watermark.epoch > self.epoch
        ):
            self._restart()
        elif self._broken:
            self._ask_at = now  # that was from before the NACK
        elif self._confirmed_n == before:
            self._ask_gap = min(self._ask_gap * 2, ASK_S)
            self._ask_at = now + self._ask_gap if self._flight else None

    def wake_at(self) -> float | None:
        """When ``ask`` or ``offer`` may have something to say without any other input."""
        times = []
        if self._ask_at is not None and self._asked is None:
            times.append(self._ask_at)
        if self._is_connected and not self._broken:
            if self._doubt:
                if self._offered is None and (self._queue or self._flight):
                    times.append(self._probe_at)
            elif self._flight:
                times.append(self._progress_at + QUIET_S)
        return min(times, default=None)

    def _settle(self, last: int, refused: int, refusals: Sequence[Refusal], now: float) -> None:
        report, settled = Report(refused), self.settled
        while self._flight and self._flight[0].n <= last:
            batch = self._drop_first()
            for refusal in refusals:
                if refusal[0] == batch.n:
                    report.add(refusal, batch.elements)
        self._refused_seen += refused
        self.refused += refused
        self.stored += self.settled - settled - refused
        if refused:
            self.reports.append(report)
        self._confirmed_n, self._progress_at = last, now
        if self._probe_n and last >= self._probe_n:
            self._doubt, self._probe_n = False, 0
        self._ask_gap = ASK_S if self._heard else ASK_FIRST_S
        self._ask_at = now + self._ask_gap if self._flight or self._broken else None

    def _drop_first(self) -> _Sent:
        batch = self._flight.popleft()
        self.settled += batch.count
        self.released += batch.size
        self._batches -= bool(batch.count)
        return batch

    def _restart(self) -> None:
        while self._flight:
            self.lost += self._drop_first().count
        self.restarts += 1
        self._begin()
