"""Rejects: what cannot be stored and has no sender to tell is counted, logged and kept."""

import base64
import contextlib
import json
import logging
import os
import time
from datetime import UTC, datetime
from typing import IO, Final

from zstream.errors import ConfigError, Error

#: Bytes of the reject file before it becomes ``FILE.1``; an older ``FILE.1`` goes.
FILE_BYTES: Final = 16 << 20
#: Bytes of one reject that are kept.
KEPT_BYTES: Final = 64 << 10
#: Characters of a reason that are kept.
KEPT_REASON: Final = 1_000
#: Seconds between two log lines about rejects.
LOG_EVERY_S: Final = 5.0

_log = logging.getLogger("zstreamd.rejects")


class Rejects:
    """The reject file and its counter. One thread uses it.

    A line a reject: ``at`` (ISO 8601), ``code``, ``reason``, ``size`` (bytes), ``data``
    (base64, the first 64 KiB).

    Args:
        path: The file, made at the first reject; None to count and log only.

    Raises:
        ConfigError: Its folder does not exist.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._file_bytes = 0
        self._logged_s = float("-inf")
        self._unlogged = 0
        self.count = 0
        if path is not None and not os.path.isdir(os.path.dirname(path) or "."):
            raise ConfigError(f"the folder of the reject file {path} does not exist")
        if path is not None and os.path.isdir(path):
            raise ConfigError(f"the reject file {path} is a folder")

    def keep(self, error: Error, data: bytes) -> None:
        """Count a reject and keep it with its reason."""
        self.count += 1
        self._unlogged += 1
        self._report(error)
        if self._path is None:
            return
        line = json.dumps({
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "code": error.code or "bad_request",
            "reason": str(error)[:KEPT_REASON],
            "size": len(data),
            "data": base64.b64encode(data[:KEPT_BYTES]).decode("ascii"),
        })  # fmt: skip
        try:
            if self._file is None:
                self._file = open(self._path, "a", encoding="ascii")  # noqa: SIM115
                self._file_bytes = os.fstat(self._file.fileno()).st_size
            self._file_bytes += self._file.write(line + "\n")
            if self._file_bytes > FILE_BYTES:
                self._file.close()
                self._file = None
                os.replace(self._path, self._path + ".1")
        except OSError as failure:
            self._failed(failure)

    def flush(self) -> None:
        """Hand what was kept to the operating system."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as failure:
                self._failed(failure)

    def close(self) -> None:
        """Log what was not logged yet, and close the file."""
        if self._unlogged:
            _log.warning("%d more rejects", self._unlogged)
            self._unlogged = 0
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _failed(self, failure: OSError) -> None:
        # A full disk must not stop the daemon for the sake of its rejects; they stay counted.
        _log.error("the reject file %s cannot be written: %s", self._path, failure)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file, self._path = None, None

    def _report(self, error: Error) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s < LOG_EVERY_S:
            return
        where = f"; kept in {self._path}" if self._path else ""
        _log.warning(
            "refused %d since the last such line, %d in all; the newest: %s%s",
            self._unlogged, self.count, str(error)[:300], where,
        )  # fmt: skip
        self._logged_s, self._unlogged = now_s, 0


class NoRejects:
    """Takes what is kept already."""

    def keep(self, error: Error, data: bytes) -> None:
        """Do nothing."""
