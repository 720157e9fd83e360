"""How far a long job is: a bar on a terminal, else a line now and then."""

import sys
import time
from typing import Final, Self

from zstreamd.logs import write_line

_BAR: Final = 24
#: Seconds between two drawings of the bar, and between two lines.
_REDRAW_S: Final = 0.1
_LINE_S: Final = 5.0


class Progress:
    """Called with what is done, how much of it, and of how much; see `zstream.backends.upkeep`.

    What is of nothing (0 of 0) is a message, and stays.
    """

    def __init__(self) -> None:
        self._draws = sys.stderr is not None and sys.stderr.isatty()
        self._what = ""
        self._began = self._due = time.monotonic()
        self._drawn = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell it, if it is time to."""
        now = time.monotonic()
        if not total:
            self.clear()
            write_line(what)
            return
        is_new = what != self._what
        if is_new:
            self._what, self._began = what, now
        if not is_new and now < self._due:
            return
        self._due = now + (_REDRAW_S if self._draws else _LINE_S)
        if self._draws:
            sys.stderr.write("\r\x1b[K" + draw(what, done, total, now - self._began))
            sys.stderr.flush()
            self._drawn = True
        else:
            write_line(f"{what}: {done:,} of {total:,}")

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def draw(what: str, done: int, total: int, elapsed_s: float) -> str:
    """Make the text of the bar."""
    part = min(done / total, 1.0)
    bar = "#" * round(part * _BAR)
    left = elapsed_s * (1 - part) / part if part > 0 else 0.0
    eta = f"  {round(left) // 60}:{round(left) % 60:02d} left" if part > 0 else ""
    return f"{what} {part:4.0%} [{bar:-<{_BAR}}] {done:,} of {total:,}{eta}"
