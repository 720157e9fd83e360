"""A line on the terminal that says how far long work has come."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from zstream.cli.output import is_terminal

_REDRAW_S: Final = 0.1
_BAR: Final = 24
_RATED: Final = 1000


class Progress:
    """A progress bar with count and rate on stderr; silent where stderr is no terminal."""

    def __init__(self, *, show: bool = True) -> None:
        """Args:
        show: Draw it if stderr is a terminal.
        """
        self._shown = show and is_terminal(sys.stderr)
        self._begun = time.monotonic()
        self._due = self._begun + _REDRAW_S
        self._drawn = False

    def update(self, count: int, done: int, total: int | None) -> None:
        """Draw again, if a tenth of a second has passed.

        Args:
            count: Events so far.
            done: Of the work, in any unit.
            total: All of the work in that unit, or None if unknown.
        """
        now = time.monotonic()
        if not self._shown or now < self._due:
            return
        self._due = now + _REDRAW_S
        self._drawn = True
        sys.stderr.write("\r\x1b[K" + draw(count, done, total, now - self._begun))
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line off the terminal, so that another can be written."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def sum_up(self, done: str, count: int) -> str:
        """Say what was done and how fast; the rate only where there was enough for one.

        Args:
            done: As in "stored".
            count: Events.
        """
        elapsed_s = time.monotonic() - self._begun
        text = f"{done} {count:,} event{'' if count == 1 else 's'}"
        if count < _RATED:
            return text
        return f"{text} in {elapsed_s:.1f} s ({rate_text(count, elapsed_s)})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()


def draw(count: int, done: int, total: int | None, elapsed_s: float) -> str:
    """Make the text of the line.

    Args:
        count, done, total: As for ``update``.
        elapsed_s: Seconds since the beginning.
    """
    rate = f"{count:,} events  {rate_text(count, elapsed_s)}"
    if not total:
        return rate
    part = min(done / total, 1.0)
    bar = "#" * round(part * _BAR)
    left = elapsed_s * (1 - part) / part if part > 0 else 0.0
    eta = f"  {round(left) // 60}:{round(left) % 60:02d} left" if part > 0 else ""
    return f"{part:4.0%} [{bar:-<{_BAR}}]  {rate}{eta}"


def rate_text(count: int, elapsed_s: float) -> str:
    """Say how many events a second that is."""
    return f"{count / max(elapsed_s, 1e-3):,.0f}/s"
