"""What the writer and the query threads hand to the I/O thread: replies and publications."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

_FRAME_BYTES: Final = 100

Message = Sequence[bytes]


class Outbox:
    """Two queues to the I/O thread and a descriptor that is readable when one is not empty.

    Replies are bounded by the requests under way. Publications are bounded in bytes here: what
    does not fit is dropped and counted, and a follower sees the hole by ``prev``.

    Args:
        limit_bytes: Publications that may wait.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._replies: deque[tuple[Message, int]] = deque()
        self._publications: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._rung = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self.dropped = 0

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader

    def reply(self, message: Message, request_bytes: int) -> None:
        """Queue a reply, envelope first; the size of its request comes back with it."""
        with self._lock:
            self._replies.append((message, request_bytes))
        self.ring()

    def publish(self, messages: Sequence[Message]) -> None:
        """Queue publications, in their order."""
        if not messages:
            return
        with self._lock:
            for message in messages:
                size = sum(map(len, message)) + _FRAME_BYTES
                if self._bytes + size > self._limit and self._publications:
                    self.dropped += 1
                    continue
                self._bytes += size
                self._publications.append((message, size))
        self.ring()

    def ring(self) -> None:
        """Make the descriptor readable; cheap if it is."""
        if not self._rung:
            self._rung = True
            try:
                os.write(self._writer, b"!")
            except BlockingIOError:
                self._rung = True  # the pipe is full of unread rings: readable it is

    def take(self) -> tuple[list[tuple[Message, int]], list[Message]]:
        """Take all replies and all publications that wait."""
        # First the ring, then the queues: what comes in between rings again.
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        self._rung = False
        with self._lock:
            replies, self._replies = list(self._replies), deque()
            publications = [message for message, _ in self._publications]
            self._publications.clear()
            self._bytes = 0
        return replies, publications

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._reader)
        os.close(self._writer)
