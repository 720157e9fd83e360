"""Sources into a daemon, with an account of what became of every line."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from zstream import errors
from zstream.cli import jsontext
from zstream.cli.app import connect
from zstream.cli.jsontext import BadLine
from zstream.cli.loading import Parser, Refusals, split_reason
from zstream.cli.progress import Progress
from zstream.cli.reading import ReadError, Source
from zstream.event import Event

#: Bytes under way to the daemon at once: enough to keep it busy, little enough to wait for.
_BUFFER_BYTES: Final = 16 << 20
#: Seconds between two looks at what was confirmed, where there is nothing else to do.
_LOOK_S: Final = 0.1
#: Lines between two looks at the progress bar.
_STEP: Final = 64


class Loader:
    """One import.

    Args:
        patience_s: Seconds in which the daemon has to confirm something.
        alert: Hears of each refused line at once.

    Attributes:
        client: The client that it uses.
        refusals: What was refused.
        failures: Why not all was read or stored, a sentence each.
    """

    def __init__(
        self, patience_s: float, progress: Progress, alert: Callable[[str], None] | None = None
    ) -> None:
        self.refusals = Refusals()
        self.failures: list[str] = []
        self._patience_s = patience_s
        self._progress = progress
        self._alert = alert
        self._taken = 0
        self._source: Source | None = None
        self._lock = threading.Lock()
        self._heard: list[tuple[list[Event], errors.Refused]] = []
        self.client = connect(on_full="raise", buffer_bytes=_BUFFER_BYTES, on_refused=self._hear)

    # ------------------------------------------------------------ lines in

    def load(self, source: Source, parser: Parser, prefix: str = "") -> None:
        """Insert what a source has; what cannot be inserted is noted.

        Args:
            source: The lines.
            parser: Makes events of them.
            prefix: Stands before a line's number when it is told.

        Raises:
            Unavailable: The daemon confirms nothing any more.
        """
        self._source = source
        try:
            for line in source.lines():
                try:
                    found = parser.parse(line)
                    if found is not None:
                        self._put(*found)
                except BadLine as bad:
                    self._refuse(bad.reason, f"{prefix}{source.line}", bad.detail)
                except (errors.EventError, errors.BadTime) as error:
                    reason, detail = split_reason(str(error))
                    self._refuse(reason, f"{prefix}{source.line}", detail)
                if not source.line % _STEP:
                    self._progress.update(self._taken, source.position, source.size)
        except ReadError as error:
            self.failures.append(f"{source.name}: {error} (after line {source.line:,})")

    def _put(self, event: dict[str, Any], date: datetime | None) -> None:
        self._taken += 1
        try:
            self.client.insert(event, date=date)
        except errors.BufferFull:
            self._put_patiently(event, date)

    def _put_patiently(self, event: dict[str, Any], date: datetime | None) -> None:
        watch = _Watch(self)
        while True:
            self._look()
            try:
                return self.client.insert(event, date=date)
            except errors.BufferFull:
                watch.check()

    def _refuse(self, reason: str, place: str, detail: str) -> None:
        self.refusals.add(reason, place, detail)
        if self._alert is not None:
            self._alert(f"line {place}: {reason}{f' ({detail})' if detail else ''}")

    @property
    def place(self) -> str:
        """How far it came."""
        source = self._source
        if source is None or not source.line:
            return "before the first line"
        return f"at line {source.line:,} of {source.name}"

    # ------------------------------------------------------------ confirmations

    def settle(self) -> None:
        """Wait until it is known what became of every event.

        Raises:
            Unavailable: The daemon confirms nothing any more.
        """
        watch = _Watch(self)
        while self.unsettled:
            self._look()
            watch.check()

    @property
    def unsettled(self) -> int:
        """Events whose fate is not known."""
        stats = self.client.stats()
        return int(stats["queued"] + stats["unconfirmed"])

    def _look(self) -> None:
        try:
            self.client.flush(_LOOK_S)
        except errors.FlushError:
            return  # what is missing is counted by the client, and told in the end

    def _hear(self, events: list[Event], error: errors.Refused) -> None:
        with self._lock:
            self._heard.append((events, error))

    def take_refusals(self) -> None:
        """Count what the daemon refused."""
        with self._lock:
            heard, self._heard = self._heard, []
        for events, error in heard:
            for event, (_, _, _, message) in zip(events, error.refusals, strict=False):
                text = jsontext.encode(event)
                shown = text if len(text) <= 100 else text[:97] + "..."
                reason, place = split_reason(message)
                self.refusals.add(
                    f"by the daemon, {reason}", "", f"{place or 'the event'}: {shown}"
                )
            unknown = error.count - min(len(events), len(error.refusals))
            if unknown:
                self.refusals.add("by the daemon", "", str(error), count=unknown)

    def summary(self) -> list[str]:
        """Say what was stored, what was refused and why, and what is not known."""
        self.take_refusals()
        stats = self.client.stats()
        lines = [self._progress.sum_up("stored", stats["confirmed"]), *self.refusals.report()]
        if stats["lost"]:
            lines.append(f"lost {stats['lost']:,}")
            self.failures.append("events were lost on the way to a daemon that went away")
        if self.unsettled:
            lines.append(f"not confirmed {self.unsettled:,}: they may be stored or not")
        return lines


class _Watch:
    """Patience with a daemon that confirms nothing."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._unsettled = loader.unsettled
        self._until = time.monotonic() + loader._patience_s

    def check(self) -> None:
        """Raise Unavailable if nothing was confirmed for too long."""
        unsettled = self._loader.unsettled
        if unsettled != self._unsettled:
            self._unsettled = unsettled
            self._until = time.monotonic() + self._loader._patience_s
        elif time.monotonic() > self._until:
            client, patience_s = self._loader.client, self._loader._patience_s
            raise errors.Unavailable(
                f"the daemon at {client.url} confirmed nothing for {patience_s:g} s"
            )
