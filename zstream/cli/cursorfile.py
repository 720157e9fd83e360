"""The file in which a tail keeps its place."""

import errno
import os
import stat
import time
from pathlib import Path
from typing import Final

from zstream.cursor import parse_cursor
from zstream.errors import BadRequest, Error

#: Seconds between two writings.
_WRITE_S: Final = 0.25
#: Bytes that are read of it: no cursor is longer.
_MOST: Final = 4096


class CursorFile:
    """A file that holds a cursor, and is at any moment whole.

    Args:
        path: Its name; it need not be there yet.

    Attributes:
        start: The cursor that it held, or None if there is no such file.

    Raises:
        Error: It holds no cursor.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = path.resolve()
        self.start = self._read()
        self._place = self._written = self.start
        self._next = 0.0

    def _read(self) -> str | None:
        if not self._target.exists():
            if not self._target.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            return None
        if not self._target.is_file():
            raise Error(f"{self.path} is no regular file, and so no cursor file")
        with self._target.open("rb") as file:
            text = file.read(_MOST).decode("ascii", "replace").strip()
        try:
            return str(parse_cursor(text))
        except BadRequest:
            raise Error(
                f"{self.path} holds no cursor; give another --cursor-file, or remove it and say"
                " with --after or --since where to begin"
            ) from None

    def begin(self, cursor: str, after: int | str | None) -> None:
        """The tail has started.

        Args:
            cursor: Where it stands; it may have gone on since the start.
            after: Where it was told to begin. The store may not know that place, so only a later
                one is written.
        """
        self._place = cursor
        told = parse_cursor(after).ids.values() if isinstance(after, str) else (after,)
        if set(told) == set(parse_cursor(cursor).ids.values()):
            self._written = cursor
        self.write()

    def keep(self, cursor: str) -> None:
        """Everything in front of this cursor has been handed on."""
        self._place = cursor

    def write_if_due(self) -> None:
        """Write the cursor, unless that was done just now."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write the cursor if it has changed; under its name stands the old or the new one."""
        if self._place is None or self._place == self._written:
            return
        place = self._place
        part = self._target.with_name(f".{self._target.name}.part")
        try:
            with os.fdopen(
                os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb"
            ) as raw:
                if self._target.exists():
                    os.fchmod(raw.fileno(), stat.S_IMODE(self._target.stat().st_mode))
                raw.write(f"{place}\n".encode())
                raw.flush()
                os.fsync(raw.fileno())
            os.replace(part, self._target)
        except OSError as error:
            part.unlink(missing_ok=True)
            error.filename, error.filename2 = str(self.path), None
            raise
        self._written = place
        self._next = time.monotonic() + _WRITE_S
