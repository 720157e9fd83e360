"""A spool folder: its lane files made, found, adopted, and set aside.

A folder belongs to the clients of one daemon, in any number of processes.
"""

import logging
import os
from contextlib import suppress
from typing import Final

from zstream import times
from zstream.errors import (
    BackendCorrupt,
    BackendError,
    BackendUnavailable,
    StoreLocked,
    StoreMismatch,
)
from zstream.limits import MAX_SILENCE_US
from zstream.spool.connection import connect, disconnect, flush_folder, guarded
from zstream.spool.lanefile import LaneFile

EXPIRED: Final = ".expired"
DAMAGED: Final = ".damaged"

_log = logging.getLogger("zstream")


class Folder:
    """A spool folder as the clients of one daemon see it. One thread uses it.

    Args:
        path: Of the folder, which exists.
        url: The daemon's query endpoint; the lanes of another are left alone.
    """

    def __init__(self, path: str, url: str) -> None:
        self.path = os.path.abspath(path)
        self._url = url
        self._told: set[str] = set()

    def create(self, producer: bytes) -> LaneFile:
        """Make a new lane file.

        Raises:
            BackendUnavailable: It cannot be written.
        """
        for _ in range(10):
            path = os.path.join(self.path, f"lane-{os.urandom(16).hex()}.db")
            with suppress(StoreLocked), guarded(path):
                return self._create(path, producer)
        raise BackendUnavailable(f"{self.path}: each new lane file is taken away")

    def _create(self, path: str, producer: bytes) -> LaneFile:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        made = os.fstat(descriptor).st_ino
        os.close(descriptor)
        try:
            file = LaneFile(path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise
        try:
            file.begin(self._url, producer)
            # Whoever looked for orphans between the making and the locking may have removed it.
            if not os.path.exists(path) or os.stat(path).st_ino != made:
                raise StoreLocked(f"{path} was taken for an orphan")
            file.sync()
            flush_folder(path)
        except BaseException:
            with suppress(BackendError):
                file.remove()
            raise
        return file

    def size(self, but: str | None = None) -> int:
        """Bytes of all lane files, their logs included, but of one."""
        total = 0
        for name in self._names():
            if os.path.join(self.path, name.removesuffix("-wal")) != but:
                with suppress(FileNotFoundError):
                    total += os.stat(os.path.join(self.path, name)).st_size
        return total

    def adopt(self) -> LaneFile | None:
        """Find a lane whose process is dead, and make it this process's; None if there is none.

        Lanes that cannot be sent are set aside, and empty ones removed.

        Raises:
            BackendUnavailable: The folder cannot be read.
        """
        names = self._names()
        for name in names:
            path = os.path.join(self.path, name)
            if name.endswith(".db"):
                try:
                    file = self._try(path)
                except StoreLocked:
                    continue
                except BackendCorrupt as error:
                    set_aside_damaged(path, error)
                except (StoreMismatch, BackendUnavailable) as error:
                    self._tell("%s; it is left alone", error)
                else:
                    if file is not None:
                        return file
            elif path.removesuffix("-wal") not in {os.path.join(self.path, each) for each in names}:
                _tidy(path)
        return None

    def _names(self) -> list[str]:
        with guarded(self.path):
            return sorted(
                name
                for name in os.listdir(self.path)
                if name.startswith("lane-") and name.endswith((".db", ".db-wal"))
            )

    def _try(self, path: str) -> LaneFile | None:
        file = LaneFile.open(path)
        try:
            if not file.events:
                file.remove()
                return None
            if file.url != self._url:
                raise StoreMismatch(f"{path} is for the daemon at {file.url}, not {self._url}")
            if file.contact is not None and file.contact < times.now() - MAX_SILENCE_US:
                set_aside_expired(file)
                return None
            file.raise_epoch()
        except BaseException:
            file.close()
            raise
        return file

    def _tell(self, message: str, error: Exception) -> None:
        if str(error) not in self._told:
            self._told.add(str(error))
            _log.warning(message, error)


def set_aside_expired(file: LaneFile) -> None:
    """Rename a lane that must not be sent, and close it.

    Whoever gives it its old name back has it sent: it then counts as never sent before.

    Raises:
        BackendUnavailable, BackendCorrupt: It cannot be done.
    """
    path, aside = file.path, file.path + EXPIRED
    with guarded(path):
        file.checkpoint()  # the log does not go with it
        os.rename(path, aside)
        file.close()
        with suppress(FileNotFoundError):
            os.unlink(f"{path}-wal")
    with guarded(aside):
        db = connect(aside)
        try:
            db.execute("UPDATE meta SET contact = NULL")
        finally:
            disconnect(db)
    _log.error(
        "%d events in %s are not sent: the daemon was last reached so long ago that it may not"
        " know any more which of them it has. They are kept in %s; rename that back to send them"
        " all, perhaps some for the second time", file.events, path, aside,
    )  # fmt: skip


def set_aside_damaged(path: str, why: Exception) -> None:
    """Rename a file that cannot be read, and its log.

    Raises:
        BackendUnavailable: It cannot be done.
    """
    aside = path + DAMAGED
    with guarded(path):
        for rest in ("", "-wal"):
            with suppress(FileNotFoundError):
                os.rename(path + rest, aside + rest)
    _log.error("%s; it is kept as %s, and `sqlite3` may recover events from it", why, aside)


def _tidy(log: str) -> None:
    """Deal with a log whose file was removed or renamed by a process that died at that."""
    path = log.removesuffix("-wal")
    with guarded(log), suppress(FileNotFoundError):
        if os.path.exists(path):
            return
        if os.path.exists(path + DAMAGED):
            os.rename(log, f"{path}{DAMAGED}-wal")
        else:
            os.unlink(log)
