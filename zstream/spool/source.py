"""A lane file as the source of a lane: the link takes from memory, the spool refills that."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from zstream import times
from zstream.errors import BackendError, BackendUnavailable
from zstream.limits import MAX_SILENCE_US
from zstream.source import Batch
from zstream.spool.lanefile import LaneFile, Row

#: Bytes of batches that wait in memory for the link, beside those that its lane keeps.
READY_BYTES: Final = 4 << 20
#: Seconds that a note of the contact with the daemon lasts.
_CONTACT_S: Final = 3_600.0
#: Seconds until one that failed is tried again.
_CONTACT_AGAIN_S: Final = 5.0

_log = logging.getLogger("zstream")


class FileSource:
    """See `zstream.source.Source`; the link's thread calls that part, the spool's the rest.

    Args:
        file: The lane file that was adopted; None for a new lane, whose file comes by ``attach``.
        ring: Wakes the spool's thread; takes no lock.
    """

    def __init__(self, file: LaneFile | None, ring: Callable[[], None]) -> None:
        self.file = file
        self._ring = ring
        self.resumes = file is not None
        self.is_over = False
        self.producer, self.epoch, self.first, self._base = os.urandom(16), 1, 1, 0
        if file is not None:
            self.producer, self.epoch, self._base = file.producer, file.epoch, file.base
            self.first = file.first - file.base
        self._ready: deque[Row] = deque()
        self._settled = self._fed = self._base + self.first - 1  # these are seqs
        self._fed_bytes = self._taken_bytes = 0
        self._is_hungry = self._has_settled = False
        self._contact_until = -1.0
        self._lock = threading.Lock()  # a restart, and the file that comes

    # ------------------------------------------------------------ the link's thread

    def take(self) -> Batch | None:
        """As in `Source`: nothing before the file says that the daemon is about to be reached."""
        if time.monotonic() >= self._contact_until:
            self._ask_for_more()
            return None
        try:
            row = self._ready.popleft()
        except IndexError:
            self._ask_for_more()
            return None
        self._taken_bytes += len(row.body)
        if self._fed_bytes - self._taken_bytes < READY_BYTES // 2:
            self._ask_for_more()
        return Batch(row.events, row.body)

    def settled(self, n: int) -> None:
        """As in `Source`."""
        self._settled = self._base + n
        assert self.file is not None
        self.is_over = self.resumes and self._settled >= self.file.last
        if not self._has_settled:
            self._has_settled = True
            self._ring()

    def restart(self) -> bool:
        """As in `Source`."""
        with self._lock:
            if self.file is None:
                self.producer = os.urandom(16)
                return True
            self._base = self._settled
            try:
                self.file.restart(self._settled)
            except BackendError as error:
                # A process that takes over before it is noted comes to the same name.
                _log.warning("a new producer could not be noted yet: %s", error)
            self.producer, self.epoch = self.file.producer, self.file.epoch
            return True

    def _ask_for_more(self) -> None:
        if not self._is_hungry and self.file is not None:
            has_more = self._fed < self.file.last or self._ready
            if has_more:
                self._is_hungry = True
                self._ring()

    # ------------------------------------------------------------ the spool's thread

    @property
    def has_settled(self) -> bool:
        """Whether there is something to ``sweep``."""
        return self._has_settled

    @property
    def is_hungry(self) -> bool:
        """Whether the link waits for ``feed``."""
        return self._is_hungry

    def attach(self, make: Callable[[bytes], LaneFile]) -> LaneFile:
        """Have the file of a new lane made, for this producer."""
        with self._lock:
            self.file = make(self.producer)
            return self.file

    def offer(self, rows: Sequence[Row]) -> bool:
        """These rows were written: hand them over, if those before them were and there is room."""
        fed = self._fed
        for row in rows:
            if self._fed != row.seq - 1 or self._fed_bytes - self._taken_bytes >= READY_BYTES:
                break
            self._hand(row)
        return self._fed != fed

    def give_up(self) -> None:
        """Nothing of it is sent any more."""
        self.is_over = True
        self._ready.clear()

    def feed(self) -> bool:
        """Refill what the link takes from, if it waits for that; it is to be woken then.

        Raises:
            BackendUnavailable, BackendCorrupt: The file cannot be read or written.
        """
        assert self.file is not None
        if not self._is_hungry:
            return False
        room = READY_BYTES - (self._fed_bytes - self._taken_bytes)
        if self._fed < self.file.last and room > 0:
            for row in self.file.read(self._fed, room):
                self._hand(row)
        if time.monotonic() >= self._contact_until:
            self._note_contact(self.file)
        # The link may have taken all of it meanwhile, and asked for more in vain: let it ask again.
        self._is_hungry = False
        return True

    @property
    def is_expired(self) -> bool:
        """Whether the daemon may have forgotten what it has of an adopted lane."""
        contact = self.file.contact if self.file is not None and self.resumes else None
        return contact is not None and contact < times.now() - MAX_SILENCE_US

    def sweep(self) -> None:
        """Delete what is settled.

        Raises:
            BackendUnavailable, BackendCorrupt: The file cannot be written.
        """
        self._has_settled = False
        if self.file is not None:
            self.file.forget(min(self._settled, self.file.last))

    def _note_contact(self, file: LaneFile) -> None:
        lasts_s = _CONTACT_S
        try:
            file.note_contact()
            file.sync()
        except BackendUnavailable as error:
            # On a full disk what is sent and confirmed makes room. The note serves after weeks.
            _log.debug("the contact with the daemon is not noted yet: %s", error)
            lasts_s = _CONTACT_AGAIN_S
        self._contact_until = time.monotonic() + lasts_s

    def _hand(self, row: Row) -> None:
        self._fed = row.seq
        self._fed_bytes += len(row.body)
        self._ready.append(row)
