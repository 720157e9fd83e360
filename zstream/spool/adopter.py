"""Lanes of dead processes: looked for, and sent one after the other.

Nothing here is a thread; `zstream.spool.thread` calls it.
"""

import logging
from collections.abc import Callable
from typing import Final

from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable
from zstream.spool.folder import Folder, set_aside_damaged, set_aside_expired
from zstream.spool.lanefile import LaneFile
from zstream.spool.source import FileSource
from zstream.spool.writer import RETRY_S, SWEEP_S

#: Seconds between looks for orphans.
SCAN_S: Final = 10.0

_log = logging.getLogger("zstream")


class Adopter:
    """The lane that one client has adopted, in the spool's thread.

    Args:
        folder: Where orphans are looked for.
        ring: Wakes the spool's thread.
        send: Has the link send a source until it is over.

    Attributes:
        source: The lane, or None.
        others: Bytes of all lanes in the folder but the client's own, at the last look.
    """

    def __init__(
        self, folder: Folder, ring: Callable[[], None], send: Callable[[FileSource], None]
    ) -> None:
        self._folder, self._ring, self._send = folder, ring, send
        self.source: FileSource | None = None
        self.others = 0
        self._scan_at = self._retry_at = 0.0
        self._sweep_at: float | None = None

    def wake_at(self) -> float:
        """When ``turn`` has something to do without being rung for."""
        times = [self._scan_at]
        if self.source is not None:
            if self._sweep_at is not None:
                times.append(max(self._sweep_at, self._retry_at))
            if self.source.is_hungry:
                times.append(self._retry_at)
        return min(times)

    def turn(self, own: str | None, now: float) -> bool:
        """Do whatever there is to do; True if the link has something new.

        Args:
            own: The path of the client's own lane file.
            now: Seconds of the monotonic clock.
        """
        is_new = False
        try:
            if self.source is not None and now >= self._retry_at:
                is_new = self._tend(self.source, now)
            if now >= self._scan_at:
                self._scan_at = now + SCAN_S
                self.others = self._folder.size(but=own)
                if self.source is None:
                    self._adopt()
        except BackendUnavailable as error:
            self._retry_at = now + RETRY_S
            _log.debug("an orphan in the spool is tried again: %s", error)
        return is_new

    def finish(self) -> None:
        """Give the lane back to whoever comes next."""
        if self.source is None:
            return
        file = self._file(self.source)
        try:
            self.source.sweep()
        except BackendError as error:
            _log.debug("a lane is left as it is: %s", error)
        file.leave()

    def _adopt(self) -> None:
        file = self._folder.adopt()
        if file is None:
            return
        self.source = FileSource(file, self._ring)
        _log.info("%d events that a process left in %s are sent", file.events, file.path)
        self._send(self.source)

    def _tend(self, source: FileSource, now: float) -> bool:
        file = self._file(source)
        try:
            if source.is_over:
                file.remove()
                self._drop(now)
            elif source.is_hungry and source.is_expired:
                source.give_up()
                set_aside_expired(file)
                self._drop(now)
            else:
                self._sweep(source, now)
                return source.feed()
        except BackendCorrupt as error:
            source.give_up()
            file.close()
            set_aside_damaged(file.path, error)
            self._drop(now)
        return False

    def _sweep(self, source: FileSource, now: float) -> None:
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP_S if source.has_settled else None
        elif now >= self._sweep_at:
            source.sweep()
            self._sweep_at = None

    def _drop(self, now: float) -> None:
        self.source = self._sweep_at = None
        self._scan_at = now  # there may be another

    def _file(self, source: FileSource) -> LaneFile:
        assert source.file is not None
        return source.file
