"""The lines of one file as the source of a lane: each is stored once, however often it is read.

The producer of a file derives from its bytes and from the options that change what is inserted,
and batches are cut by the lines alone: so many lines, or so many bytes of them, good or bad. So
the n-th batch has the same events in each run, and a run passes over those that the daemon has.
Nothing that a clock or a load decides may come into it. `CUT` changes when the cut does, or what
a line becomes.

A pipe has no such name. Its producer is random, and its batches are cut when the link wants one,
so that a line goes out as soon as it comes.
"""

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from zstream.confirmation import Report
from zstream.ledger import Ledger
from zstream.source import ELEMENT_OVERHEAD, Batch, pack_body

#: The version of what is cut how. Another one stores every file again.
CUT: Final = 1
#: Lines of a batch, and bytes of them, beyond which the next line begins another.
BATCH_LINES: Final = 1_000
BATCH_LINE_BYTES: Final = 256 << 10
#: Bytes that wait for confirmation: enough to keep the daemon busy, little enough to wait for.
HELD_BYTES: Final = 16 << 20
#: What a batch takes in memory beside its events, about.
_BATCH_OVERHEAD: Final = 1_000


def producer_of(digest: bytes, options: Mapping[str, Any]) -> bytes:
    """The producer of a file.

    Args:
        digest: Of its bytes.
        options: Whatever changes the events that are made of them; JSON can write it.
    """
    told = json.dumps([CUT, digest.hex(), options], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=16, person=b"zstream import").digest()


class Account(NamedTuple):
    """How far a lane came; events, but for ``confirmed_n``.

    Attributes:
        confirmed_n: The number of the last batch that is dealt with.
        settled: Whose fate is known.
        stored: On disk, in whatever run they came there.
        found: Of these, those that an earlier run, or another one at the same time, had sent.
        lost: Of which nothing is known any more.
    """

    confirmed_n: int = 0
    settled: int = 0
    stored: int = 0
    found: int = 0
    lost: int = 0


class LineSource:
    """See `zstream.source.Source`; the link's thread calls that part and ``tell``.

    Args:
        producer: Of a file; None for a pipe.

    Attributes:
        added: Events that were added.
        account: What became of them.
        has_failed: The daemon forgot, or gave away, what it had confirmed: there is no going on.
    """

    def __init__(self, producer: bytes | None) -> None:
        self.is_file = self.resumes = producer is not None
        self.producer = producer or os.urandom(16)
        self.epoch = self.first = 1
        self.is_over = self.has_failed = False
        self.added = 0
        self.account = Account()
        self._changed = threading.Condition()
        self._open: list[tuple[bytes, int]] = []
        self._lines = self._line_bytes = 0
        self._ready: deque[Batch] = deque()
        self._taken: deque[int] = deque()  # what each batch on its way holds
        self._taken_n = self._settled_n = self._held = 0
        self._is_closed = False
        self._reports: list[Report] = []

    # ------------------------------------------------------------ the link's thread

    def take(self) -> Batch | None:
        """As in `Source`."""
        with self._changed:
            if not self._ready and self._open and not self.is_file:
                self._cut()
            if not self._ready:
                return None
            batch = self._ready.popleft()
            self._taken.append(_weight(batch))
            self._taken_n += 1
            return batch

    def settled(self, n: int) -> None:
        """As in `Source`."""
        with self._changed:
            while self._settled_n < n:
                self._held -= self._taken.popleft()
                self._settled_n += 1
            self._end()

    def restart(self) -> bool:
        """As in `Source`: which lines the daemon still has, only another run can ask."""
        with self._changed:
            self.has_failed = self.is_over = True
            self._changed.notify_all()
            return False

    def tell(self, ledger: Ledger, reports: list[Report]) -> None:
        """Hear what became of the batches."""
        stored = ledger.stored
        with self._changed:
            self._reports += reports
            self.account = Account(
                ledger.confirmed_n, ledger.settled, stored, min(max(0, ledger.found), stored),
                ledger.lost,
            )  # fmt: skip
            self._changed.notify_all()

    # ------------------------------------------------------------ the thread that reads

    @property
    def has_room(self) -> bool:
        """Whether a line may be added."""
        return self._held < HELD_BYTES and not self.has_failed

    @property
    def unsettled(self) -> int:
        """Events whose fate is not known."""
        return max(0, self.added - self.account.settled)

    @property
    def is_settled(self) -> bool:
        """Whether all is told, once it is closed."""
        with self._changed:
            return self.account.confirmed_n >= self._taken_n + len(self._ready)

    def add(self, line: int, size: int, element: bytes | None) -> bool:
        """Add a line.

        Args:
            line: Its number.
            size: Its bytes in the file.
            element: The event that was made of it; None if there is none.

        Returns:
            Whether there is something new to be sent.
        """
        with self._changed:
            is_new = self._lines >= BATCH_LINES or self._line_bytes >= BATCH_LINE_BYTES
            if is_new:
                self._cut()
            self._lines += 1
            self._line_bytes += size
            if element is not None:
                self._open.append((element, line))
                self.added += 1
            return is_new or (not self.is_file and len(self._open) == 1)

    def close(self) -> None:
        """That was the last line."""
        with self._changed:
            if self._lines:
                self._cut()
            self._is_closed = True
            self._end()

    def abandon(self) -> None:
        """The lines end before their end: a batch of a file that is not full is not sent."""
        with self._changed:
            if self.is_file and not self._is_closed:
                self.added -= len(self._open)
                self._open, self._lines = [], 0
        self.close()

    def wait(self, seconds: float) -> None:
        """Wait until something changed."""
        with self._changed:
            self._changed.wait(seconds)

    def take_reports(self) -> list[Report]:
        """What was refused since the last call; a tag has the numbers of the batch's lines."""
        with self._changed:
            reports, self._reports = self._reports, []
            return reports

    def _cut(self) -> None:
        # An interrupt may come between any two of these: no event may then be in two batches.
        elements, self._open = self._open, []
        self._lines = self._line_bytes = 0
        if elements or self.is_file:
            body = pack_body(element for element, _ in elements)
            batch = Batch(len(elements), body, [line for _, line in elements])
            self._held += _weight(batch)
            self._ready.append(batch)

    def _end(self) -> None:
        if self._is_closed and not self._ready and self._settled_n == self._taken_n:
            self.is_over = True
        self._changed.notify_all()


def _weight(batch: Batch) -> int:
    return len(batch.body) + ELEMENT_OVERHEAD * batch.size + _BATCH_OVERHEAD
