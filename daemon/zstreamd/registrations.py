"""Filters that are too long for a topic: registered once, and followed by their hash."""

from collections.abc import Mapping
from typing import Final

from zstream.backends.base import Registration
from zstream.errors import Busy
from zstreamd.rows import Aged, Rows

#: Bytes of all registered filters as text: the writer has them in memory, and a live one several
#: times over.
MOST_BYTES: Final = 32 << 20
#: A registration that was neither made again nor followed for so long is forgotten.
KEEP_US: Final = 7 * 24 * 3600 * 1_000_000


class Registrations(Rows[Registration]):
    """What is registered, with the changes of the transaction that is being made.

    Args:
        known: The rows of the store.
        most: How many there may be.
    """

    def __init__(self, known: Mapping[bytes, Registration], most: int) -> None:
        super().__init__(known)
        self._most = most
        self._weigh()

    def _weigh(self) -> None:
        self._bytes = sum(len(each.text) for each in self.stored.values())

    def register(self, name: bytes, text: str, now: int) -> None:
        """Take a filter; one that is known is of use again, and nothing is written.

        Args:
            name: The hash of the text.
            text: The filter in its canonical form.
            now: Microseconds since 1970 UTC.

        Raises:
            Busy: There are too many, or they are too long together.
        """
        self.hear(name, now)
        if name in self.stored or name in self._changed:
            return
        if len(self.stored) + len(self._changed) >= self._most:
            raise Busy(f"{self._most} filters are registered already; no more are taken", retry_s=5)
        if self._bytes + len(text) > MOST_BYTES:
            raise Busy(f"the registered filters have {MOST_BYTES} bytes already", retry_s=5)
        self._bytes += len(text)
        self._changed[name] = Registration(name, text, now)

    def settle(self, aged: Aged[Registration]) -> None:
        """The store has done what ``age`` found."""
        super().settle(aged)
        self._weigh()
