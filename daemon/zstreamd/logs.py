"""The daemon's log: lines on stderr, as text or as JSON.

Whoever logs passes what a machine may want to read as ``extra``::

    log.info("ready: …", extra={"event": "ready", "pid": 17})

Text shows the message alone; JSON has ``time``, ``level``, ``event``, ``message`` and the rest
of ``extra``.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

_STDERR: Final = 2
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def write_line(line: str) -> None:
    """Write a line to stderr, past Python's buffers; into the void if nobody reads there.

    A reader that went away must neither end the daemon nor change its exit code, and what a
    buffer still holds at the end would do the latter.
    """
    data = (line + "\n").encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(_STDERR, data) :]
    except OSError:
        return


@contextmanager
def logging_to_stderr(level: str, style: str, hide: Mapping[str, str]) -> Iterator[None]:
    """Send the log to stderr for as long as the block runs.

    Args:
        level: The least level that is logged, of zstream's own; of other libraries only
            warnings and errors are.
        style: ``text`` or ``json``.
        hide: Texts that must not be shown, and what to show in their place.
    """
    root, own = logging.getLogger(), [logging.getLogger(name) for name in ("zstreamd", "zstream")]
    before = [logger.level for logger in (root, *own)]
    handler = _Stderr()
    handler.setFormatter(_Json(hide) if style == "json" else _Text(hide))
    wanted = logging.getLevelNamesMapping()[level.upper()]
    levels = (max(wanted, logging.WARNING), wanted, wanted)
    root.addHandler(handler)
    for logger, value in zip((root, *own), levels, strict=True):
        logger.setLevel(value)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for logger, value in zip((root, *own), before, strict=True):
            logger.setLevel(value)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.format(record))


class _Formatter(logging.Formatter):
    def __init__(self, hide: Mapping[str, str]) -> None:
        super().__init__()
        self._hide: dict[str, str] = {}
        for secret, shown in hide.items():
            if secret != shown:
                # As it is, and as repr and JSON write its quotes and backslashes.
                for form in (secret, repr(secret)[1:-1]):
                    self._hide |= {form: shown, json.dumps(form)[1:-1]: shown}

    def clean(self, text: str) -> str:
        for secret, shown in self._hide.items():
            text = text.replace(secret, shown)
        return text

    @staticmethod
    def time(record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # One record is one line, whatever an event or a filter smuggles into the message.
        message = _CONTROL.sub(lambda found: repr(found[0])[1:-1], record.getMessage())
        line = f"{self.time(record)} {record.levelname.lower()} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return self.clean(line)


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.time(record),
            "level": record.levelname.lower(),
            "event": "log",
            "message": record.getMessage(),
            "logger": record.name,
        }
        entry.update((k, v) for k, v in vars(record).items() if k not in _STANDARD)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return self.clean(json.dumps(entry, default=str))
