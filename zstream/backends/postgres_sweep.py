"""What was trimmed from the PostgreSQL store is freed, a small part at a time."""

import time
from typing import Final

from psycopg import errors as pg

from zstream.backends import postgres_link as link
from zstream.backends import postgres_parts as parts
from zstream.backends.postgres_rows import Rows

#: How long what frees space waits for others, in milliseconds: no append comes meanwhile.
_WAIT_MS: Final = 20
#: How long until it is tried again at the latest, in seconds.
_RETRY_S: Final = 30.0


class Sweeper:
    """Drops partitions that were trimmed, and deletes rows; gives way to who reads.

    Args:
        rows: What readers see.
        slice_rows: Rows that are deleted with one transaction.
        retry_s: How long to wait at first where somebody is in the way, in seconds.

    Attributes:
        swept: What was trimmed is freed up to this id.
    """

    def __init__(self, rows: Rows, slice_rows: int, retry_s: float) -> None:
        self._rows, self._slice_rows, self._retry_s = rows, slice_rows, retry_s
        self._at = 0.0
        self._wait_s = retry_s
        self.swept = 0

    def is_due(self) -> bool:
        """Whether there is something to do, and nobody was in the way just now."""
        return self.swept < self._rows.snapshot.view.floor and time.monotonic() >= self._at

    def step(self, db: link.Connection) -> bool:
        """Do a part of it; return whether that went well."""
        try:
            self._free(db, self._rows.snapshot.view.floor)
        except pg.LockNotAvailable:
            # Somebody reads, which may take hours, or the partition is being sealed.
            self._at = time.monotonic() + self._wait_s
            self._wait_s = min(2 * self._wait_s, _RETRY_S)
            return False
        self._wait_s = self._retry_s
        return True

    def _free(self, db: link.Connection, floor: int) -> None:
        now = self._rows.snapshot
        for part in now.all_parts():
            if part.last <= floor:
                parts.drop(db, part, _WAIT_MS)
                self._rows.drop(part)
                return
            if part.first <= floor:
                start = max(self.swept, part.first - 1)
                upto = min(start + self._slice_rows, floor)
                parts.sweep(db, part.first, now.several(part), upto, _WAIT_MS)
                self.swept = upto
                return
        self.swept = floor
