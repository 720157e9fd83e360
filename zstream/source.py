"""Where a lane gets its batches: the contract, and the queue in memory.

A source cuts events into batches and knows the producer that they belong to. The queue in memory
has those of this process; a spool and an imported file have batches that outlive theirs.
"""

import os
from collections import deque
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from zstream import wire
from zstream.limits import BATCH_BYTES, BATCH_EVENTS

#: What an element takes in memory beside its bytes, about.
ELEMENT_OVERHEAD: Final = 48


class Batch(NamedTuple):
    """Events that are sent together. What it holds never changes again.

    Attributes:
        size: Elements in the body; 0 is a batch too.
        body: A packed array of them, as `docs/protocol.md` has it; at most 4 MiB.
        tag: Whatever the source wants back with what is refused of it.
    """

    size: int
    body: bytes
    tag: object = None


class Source(Protocol):
    """What a lane sends. The lane calls it in the link's thread; only ``restart`` may block.

    Attributes:
        producer: The 16 bytes that name the producer.
        epoch: A higher one fences whoever sends under a lower one.
        first: The number of the first batch that ``take`` gives.
        resumes: Whether the daemon may have batches of this producer from an earlier life. The
            lane then asks before it sends, and passes over what the daemon has.
        is_over: Nothing will be taken any more and all is settled: the lane goes away.
    """

    producer: bytes
    epoch: int
    first: int
    resumes: bool
    is_over: bool

    def take(self) -> Batch | None:
        """The next batch, or None if there is none just now."""

    def settled(self, n: int) -> None:
        """All batches up to n are dealt with for good; they are never asked for again."""

    def restart(self) -> bool:
        """Become a new producer: the daemon no longer knows, or no longer takes, this one.

        ``producer`` is another one then, and batches are counted anew: the first that was taken
        and not settled is 1. The lane keeps these and sends them again; it does not take them
        once more.

        Returns:
            False if there is no going on: the lane ends, and what it kept is not sent.
        """


class Waker(Protocol):
    """What sends: the link."""

    def wake(self) -> None:
        """Wake its thread: a source has something."""

    def send(self, source: Source) -> None:
        """Send what another source has, until it is over; raises Closed."""


class Keeper(Protocol):
    """What keeps a client's events beyond the end of the process: the spool."""

    @property
    def source(self) -> Source:
        """Where they go on from it."""

    @property
    def path(self) -> str:
        """Where they are kept."""

    @property
    def problem(self) -> str | None:
        """Why they cannot be, or None."""

    @property
    def unwritten(self) -> int:
        """Events of the outbox that are not kept yet."""

    def meet(self, link: Waker) -> None:
        """Know the link, before all else."""

    def start(self) -> None:
        """Start its thread, if the interpreter starts any more."""

    def help(self) -> None:
        """Do the thread's work, if it could not be started."""

    def stop(self) -> None:
        """Keep what is left and end; it does not wait."""

    def join(self) -> None:
        """Wait until it has ended, as long as a disk may take."""


class MemoryQueue:
    """The events of this process: batches are cut when the lane has room, so they grow with load.

    See `Source` for the attributes.
    """

    def __init__(self) -> None:
        self.producer = os.urandom(16)
        self.epoch = self.first = 1
        self.resumes = self.is_over = False
        # Each list is in reverse, so that its next elements are taken off its end.
        self._chunks: deque[list[bytes]] = deque()

    def put(self, elements: list[bytes]) -> None:
        """Queue packed elements; the list is the queue's from now on."""
        if elements:
            elements.reverse()
            self._chunks.append(elements)

    def take(self) -> Batch | None:
        """As in `Source`."""
        elements = self._next()
        if not elements:
            return None
        if sum(map(len, elements)) > BATCH_BYTES:
            sizes = accumulate(map(len, elements))
            fit = max(1, sum(size <= BATCH_BYTES for size in sizes))
            if rest := elements[: fit - 1 : -1]:
                self._chunks.appendleft(rest)
            elements = elements[:fit]
        return Batch(len(elements), pack_body(elements))

    def settled(self, n: int) -> None:
        """As in `Source`."""

    def restart(self) -> bool:
        """As in `Source`."""
        self.producer = os.urandom(16)
        return True

    def _next(self) -> list[bytes]:
        taken: list[bytes] = []
        while self._chunks and (room := BATCH_EVENTS - len(taken)):
            chunk = self._chunks[0]
            taken += reversed(chunk[-room:])
            del chunk[-room:]
            if not chunk:
                self._chunks.popleft()
        return taken


def pack_body(elements: Iterable[bytes]) -> bytes:
    """The body of a batch of packed elements."""
    elements = list(elements)
    return b"".join((wire.array_header(len(elements)), *elements))
