"""A lane: one producer's batches on their way to one daemon, in order and once. No I/O in here.

Batches, confirmations and the time go in; frames and the wish for a watermark come out. The
daemon's half of the rules is in `docs/protocol.md`, under "Numbered batches".

A batch counts as stored when an ACK or a watermark reaches its number, and is kept until then. It
is sent again when it is lost, or may be:

- after a NACK, because batches travel in order: who is told of a gap knows that one was lost;
- over each new connection and in each new run, because what was under way may be gone.

Silence proves nothing, and neither does a watermark that stands still: the daemon may be slow. So
after two silent seconds a *probe* follows the batches: an empty one with a number that is never
reached. It always draws a NACK, and what was sent before it and is above that NACK's ``last`` is
lost.

A daemon that has forgotten what it confirmed (its store was restored from a copy, or emptied)
takes nothing behind the gap. The lane goes on as a new producer, with the batches that it keeps.
"""

from collections import deque
from typing import Final

from zstream import wire
from zstream.confirmation import Ask, Nack, Watermark
from zstream.ledger import Ledger
from zstream.limits import MAX_INTEGER
from zstream.source import Source

#: Batches under way at once; none is added once so many bytes are under way. What the daemon does
#: not read stands in its memory all the same.
WINDOW: Final = 64
WINDOW_BYTES: Final = 8 << 20
#: Seconds without progress until a watermark is asked for; the shorter one as long as no
#: confirmation was ever heard, because the first ones may come before the subscription is there.
ASK_S: Final = 0.5
ASK_FIRST_S: Final = 0.05
#: Seconds without progress until a probe goes out: doubling from the first to the last.
PROBE_S: Final = (2.0, 5.0)
#: Seconds in which one gap causes no more than one resend: doubling from the first to the last.
REWIND_S: Final = (0.5, 5.0)
#: Numbers of probes. Each has its own, so that a late answer is not taken for another's.
PROBES: Final = range(MAX_INTEGER, MAX_INTEGER - 1024, -1)
#: Runs that are remembered.
_RUNS: Final = 8


class Lane:
    """The state of one lane. One thread uses it; times are seconds of a monotonic clock.

    Args:
        source: Where the batches come from.

    Attributes:
        producer: The 16 bytes that name the producer.
        ledger: The batches that are kept, and what became of the others.
        restarts: How often the lane became a new producer.
        resent: Batches that were sent again.
        is_over: The source does not go on.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.ledger = Ledger()
        self.restarts = self.resent = 0
        self.is_over = False
        self._is_connected = self._is_probing = self._heard = False
        self._runs: deque[int] = deque(maxlen=_RUNS)
        self._expects_run = True
        self._probe_count = 0
        self._begin(source.first - 1, source.resumes)

    def _begin(self, confirmed_n: int, resumes: bool) -> None:
        self.producer, self.epoch = self._source.producer, self._source.epoch
        self.ledger.begin(self.producer, self.epoch, confirmed_n)
        self._at = 0  # the place of the batch to be sent next; those before it are under way
        self._sent_n = confirmed_n
        self._is_resuming = self._resumes = resumes
        self._probes: dict[int, int] = {}  # the number of each to that of the last batch before it
        self._probe_at, self._probe_gap = 0.0, PROBE_S[0]
        self._rewound_n, self._rewind_at, self._rewind_gap = -1, 0.0, REWIND_S[0]
        self._asked: Ask | None = None
        self._ask_at: float | None = 0.0 if resumes else None
        self._ask_gap = ASK_FIRST_S

    # ------------------------------------------------------------ batches out

    def offer(self, now: float) -> list[bytes] | None:
        """The frames that are to be sent next, or None.

        The same may be offered again until ``taken`` says that the socket took them.
        """
        if not self._is_connected or self._is_resuming or self.is_over:
            return None
        self._is_probing = self._at > 0 and now >= self._probe_at
        if self._is_probing:
            return wire.encode_batch(self.producer, self.epoch, self._probe_n, [])
        kept = self.ledger.kept
        return kept[self._at].frames if self._at < len(kept) or self._take() else None

    def taken(self, now: float) -> None:
        """The socket took what was offered last."""
        ledger = self.ledger
        if self._is_probing:
            self._probes[self._probe_n] = ledger.confirmed_n + self._at
            self._probe_count += 1
            self._probe_gap = min(self._probe_gap * 2, PROBE_S[1])
            self._probe_at = now + self._probe_gap
            return
        kept = ledger.kept[self._at]
        self._at += 1
        self._sent_n = max(self._sent_n, ledger.confirmed_n + self._at)
        if kept.was_sent:
            self.resent += 1
        else:
            kept.was_sent = True
            ledger.sent += kept.batch.size
        if self._at == 1:
            self._wait(now)

    @property
    def _probe_n(self) -> int:
        return PROBES[self._probe_count % len(PROBES)]

    def _take(self) -> bool:
        ledger = self.ledger
        while len(ledger.kept) < WINDOW and ledger.kept_bytes < WINDOW_BYTES:
            if (batch := self._source.take()) is None:
                break
            if ledger.add(batch):
                return True
            self._source.settled(ledger.confirmed_n)
        return False

    def _wait(self, now: float) -> None:
        self._ask_at = now + self._ask_gap
        self._probe_at = now + self._probe_gap

    # ------------------------------------------------------------ the connection

    def connected(self) -> None:
        """The socket has a connection: send again what may have gone with the last one."""
        self._is_connected = self._expects_run = True
        self._rewind_all()

    def disconnected(self) -> None:
        """The socket lost its connection, and perhaps what it held."""
        self._is_connected = self._heard = False

    def _hear(self, run: int) -> None:
        self._heard = True
        if run not in self._runs:
            self._runs.append(run)
            if not self._expects_run:
                self._rewind_all()  # the daemon is another one, though the connection held
        if run == self._runs[-1]:
            self._expects_run = False

    def _rewind_all(self) -> None:
        self._at = 0
        self._probes.clear()
        self._probe_gap, self._rewound_n = PROBE_S[0], -1

    # ------------------------------------------------------------ confirmations

    def acknowledge(self, last: int, refused: int, run: int, now: float) -> None:
        """An ACK came for this producer."""
        self._hear(run)
        ledger = self.ledger
        if ledger.confirmed_n <= last <= max(ledger.confirmed_n, ledger.ahead_n):
            return
        if ledger.confirmed_n < last <= self._sent_n and refused == ledger.refused_seen:
            self._settle(last, refused, now)
        else:
            self._ask_at = now  # the watermark has the details, and is the truth

    def reject(self, nack: Nack, now: float) -> None:
        """A NACK came for this producer."""
        self._hear(nack.run)
        last, confirmed_n = nack.last, self.ledger.confirmed_n
        if nack.epoch > self.epoch or last != confirmed_n:
            self._ask_at = now
        if nack.code == "fenced" or not confirmed_n <= last <= self._sent_n:
            return
        if nack.n in PROBES:
            if last < self._probes.pop(nack.n, 0):
                self._rewind(last, now)
        elif nack.n > last or not nack.n:
            if nack.code == "bad_batch":
                self.ledger.fail(nack.n, nack.message or nack.code)
            self._rewind(last, now)

    def _rewind(self, last: int, now: float) -> None:
        """Send again what is behind ``last``, once: each batch behind a gap draws a NACK."""
        place = last - self.ledger.confirmed_n
        if self._at <= place or (last <= self._rewound_n and now < self._rewind_at):
            return
        is_new = last > self._rewound_n
        self._rewind_gap = REWIND_S[0] if is_new else min(self._rewind_gap * 2, REWIND_S[1])
        self._rewound_n, self._rewind_at = last, now + self._rewind_gap
        self._at = place
        if place:
            self._probe_at = now + self._probe_gap

    # ------------------------------------------------------------ watermarks

    def ask(self, now: float) -> Ask | None:
        """Say whether the producer's watermark is wanted now; ``answer`` must follow."""
        if self._asked is not None or self._ask_at is None or now < self._ask_at or self.is_over:
            return None
        self._asked = Ask(self.producer, self.ledger.confirmed_n)
        return self._asked

    def answer(self, ask: Ask, watermark: Watermark | None, now: float) -> None:
        """The answer to an ask came; None if it failed."""
        if ask is not self._asked:
            return  # it was asked for a producer that is history
        self._asked = None
        if watermark is None:
            self._ask_at = now + ASK_S
            return
        self._hear(watermark.run)
        epoch, last, refused, refusals, _ = watermark
        if self._is_resuming:
            self.ledger.resume(refused, refusals)
        self._is_resuming = False
        is_known = ask.confirmed_n <= last and (self._resumes or last <= self._sent_n)
        if is_known and last > max(self.ledger.confirmed_n, self.ledger.ahead_n):
            self._settle(last, refused, now, watermark)
        else:
            self._ask_gap = min(self._ask_gap * 2, ASK_S)
            self._ask_at = now + self._ask_gap if self._at else None
        if epoch > self.epoch:
            self.ledger.lose()
            self._source.settled(self.ledger.confirmed_n)
        if epoch > self.epoch or not is_known:
            self._restart()

    def _settle(
        self, last: int, refused: int, now: float, watermark: Watermark | None = None
    ) -> None:
        ledger = self.ledger
        before = ledger.confirmed_n
        ledger.settle(last, refused, watermark.refusals if watermark else ())
        self._at = max(0, self._at - (ledger.confirmed_n - before))
        self._ask_gap = ASK_S if self._heard else ASK_FIRST_S
        self._probe_gap = PROBE_S[0]
        self._wait(now)
        if not self._at:
            self._ask_at = None
        self._source.settled(ledger.confirmed_n)

    def _restart(self) -> None:
        self.restarts += 1
        self.is_over = not self._source.restart()
        if not self.is_over:
            self._begin(0, self._source.resumes)

    def wake_at(self) -> float | None:
        """When ``ask`` or ``offer`` may have something to say without any other input."""
        times = []
        if self._ask_at is not None and self._asked is None and not self.is_over:
            times.append(self._ask_at)
        if self._is_connected and self._at:
            times.append(self._probe_at)
        return min(times, default=None)
