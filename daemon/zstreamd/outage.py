"""Whether the store is there, as those see it who use it; told to the log with one voice."""

import logging
import threading
import time
from typing import Final, Literal

from zstream.errors import BackendError

#: Who found that the store cannot be used: the watch, by its probes, or the thread that writes.
Finder = Literal["probe", "append"]

#: When to ask again, in seconds.
RETRY_S: Final = 0.5

_log = logging.getLogger("zstreamd.outage")


class Outage:
    """What is known of the store's absence. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[Finder, BackendError] = {}
        self._since_s = 0.0
        self._changed = threading.Event()

    @property
    def down(self) -> BackendError | None:
        """Why the store cannot be written just now, or None."""
        return next(iter(self._found.copy().values()), None)

    @property
    def away(self) -> BackendError | None:
        """Why it cannot even be asked, or None."""
        return self._found.get("probe")

    def note(self, who: Finder, error: BackendError) -> None:
        """Somebody found that the store cannot be used."""
        with self._lock:
            is_news = not self._found
            self._found[who] = error
        if is_news:
            self._since_s = time.monotonic()
            _log.error(
                "the store cannot be used, inserts wait: %s", error, extra={"event": "store_away"}
            )

    def answers(self) -> None:
        """The store gave a sign of life; whether it can be written, the writing will show."""
        self._clear("probe")

    def over(self) -> None:
        """Something was written, so that the store is there."""
        self._clear("probe", "append")

    def _clear(self, *finders: Finder) -> None:
        if not self._found:
            return
        with self._lock:
            found = [self._found.pop(each, None) for each in finders]
            is_news = any(found) and not self._found
        self._changed.set()
        if is_news:
            away_s = time.monotonic() - self._since_s
            _log.warning(
                "the store can be used again, after %.1f s", away_s,
                extra={"event": "store_back", "away_s": round(away_s, 1)},
            )  # fmt: skip

    def wait(self, timeout_s: float) -> None:
        """Wait for so long, or until it may be worth while to try again."""
        self._changed.wait(timeout_s)
        self._changed.clear()

    def wake(self) -> None:
        """End a `wait`."""
        self._changed.set()
