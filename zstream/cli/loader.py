"""Sources into a daemon, with an account of what became of every line."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from zstream import errors, wire
from zstream.cli import jsontext
from zstream.cli.app import connect
from zstream.cli.jsontext import BadLine
from zstream.cli.lines import LineSource, producer_of
from zstream.cli.loading import Parser, Refusals, UnknownForm, split_reason
from zstream.cli.progress import Progress
from zstream.cli.reading import ReadError, Source
from zstream.confirmation import Report
from zstream.packing import Packer

#: Seconds between two looks at what was confirmed, where there is nothing else to do.
_LOOK_S: Final = 0.1
#: Lines between two looks at the progress bar.
_STEP: Final = 64


class StoreReplaced(errors.Error):
    """The daemon does not know what it confirmed: which lines it has, another run can ask."""


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
        self._pack = Packer().element
        self._source: Source | None = None
        self._lane: LineSource | None = None
        self._prefix = ""
        self._stored = self._found = self._lost = self._left = 0
        self.client = connect()

    # ------------------------------------------------------------ lines in

    def load(
        self, source: Source, parser: Parser, options: Mapping[str, Any], prefix: str = ""
    ) -> None:
        """Insert what a source has, once; what cannot be inserted is noted.

        Args:
            source: The lines.
            parser: Makes events of them.
            options: Whatever changes the events that it makes.
            prefix: Stands before a line's number when it is told.

        Raises:
            Unavailable: The daemon confirms nothing any more.
            StoreReplaced: It has another store.
        """
        digest = source.digest
        lane = LineSource(None if digest is None else producer_of(digest, options))
        self._source, self._lane, self._prefix = source, lane, prefix
        self.client._link.send(lane, lane.tell)
        try:
            try:
                self._read(source, parser, lane)
            except UnknownForm:
                raise  # another version finds more in these bytes: no batch may end here
            except ReadError as error:
                self._fail(source, error)
            source.check()
            lane.close()
        except ReadError as error:
            self._fail(source, error)
            lane.abandon()
        self.settle()

    def _read(self, source: Source, parser: Parser, lane: LineSource) -> None:
        for line in source.lines():
            element = self._element(parser, line, source.line)
            if not lane.has_room:
                self._wait(lane, lambda: lane.has_room)
            if lane.add(source.line, len(line or b""), element):
                self.client._link.wake()
            if not source.line % _STEP:
                self._progress.update(self._taken, source.position, source.size)

    def _element(self, parser: Parser, line: bytes | None, number: int) -> bytes | None:
        try:
            found = parser.parse(line)
            return None if found is None else self._pack(*found)
        except BadLine as bad:
            self._refuse(bad.reason, number, bad.detail)
        except (errors.EventError, errors.BadTime) as error:
            reason, detail = split_reason(str(error))
            self._refuse(reason, number, detail)
        return None

    def _refuse(self, reason: str, line: int, detail: str) -> None:
        place = f"{self._prefix}{line}"
        self.refusals.add(reason, place, detail)
        if self._alert is not None:
            self._alert(f"line {place}: {reason}{f' ({detail})' if detail else ''}")

    def _fail(self, source: Source, error: ReadError) -> None:
        failure = f"{source.name}: {error} (after line {source.line:,})"
        self.failures.append(failure)

    @property
    def _taken(self) -> int:
        return self._stored + self._found + (self._lane.added if self._lane is not None else 0)

    @property
    def place(self) -> str:
        """How far it came."""
        source = self._source
        if source is None or not source.line:
            return "before the first line"
        return f"at line {source.line:,} of {source.name}"

    # ------------------------------------------------------------ confirmations

    def stop(self) -> None:
        """Read no more."""
        if self._lane is not None:
            self._lane.abandon()
            self.client._link.wake()

    def settle(self) -> None:
        """Wait until it is known what became of every line that was read.

        Raises:
            Unavailable: The daemon confirms nothing any more.
            StoreReplaced: It has another store.
        """
        lane = self._lane
        if lane is None:
            return
        self.client._link.wake()
        self._wait(lane, lambda: lane.is_settled)
        self._sum_up(lane)
        self._lane = None

    @property
    def unsettled(self) -> int:
        """Events whose fate is not known."""
        return self._left + (self._lane.unsettled if self._lane is not None else 0)

    def _wait(self, lane: LineSource, is_done: Callable[[], bool]) -> None:
        told, until = lane.account, time.monotonic() + self._patience_s
        while lane.has_failed or not is_done():
            if lane.has_failed:
                raise StoreReplaced(
                    "the daemon does not know what it confirmed: its store was replaced. Run it"
                    " again, and what the store lacks is inserted"
                )
            if lane.account != told:
                told, until = lane.account, time.monotonic() + self._patience_s
            elif time.monotonic() > until:
                raise errors.Unavailable(
                    f"the daemon at {self.client.url} confirmed nothing for {self._patience_s:g} s"
                )
            lane.wait(_LOOK_S)

    def _sum_up(self, lane: LineSource) -> None:
        account = lane.account
        self._stored += account.stored - account.found
        self._found += account.found
        self._lost += account.lost
        self._left += lane.unsettled
        for report in lane.take_reports():
            self._count(report)

    def _count(self, report: Report) -> None:
        for refusal, element, tag in zip(
            report.refusals, report.elements, report.tags, strict=True
        ):
            _, position, _, message = refusal
            reason, place = split_reason(message)
            lines = tag if isinstance(tag, list) else []
            line = f"{self._prefix}{lines[position]}" if position < len(lines) else ""
            detail = f"{place or 'the event'}: {_shown(element)}"
            self.refusals.add(f"by the daemon, {reason}", line, detail)
        if unknown := report.count - len(report.refusals):
            detail = "it remembers which ones only of the newest 100"
            self.refusals.add("by the daemon", "", detail, count=unknown)

    def summary(self) -> list[str]:
        """Say what was stored, what was refused and why, and what is not known."""
        is_file = self._lane is not None and self._lane.is_file
        if self._lane is not None:
            self._sum_up(self._lane)
            self._lane = None
        lines = [self._progress.sum_up("stored", self._stored)]
        if self._found:
            events = "1 event was" if self._found == 1 else f"{self._found:,} events were"
            lines.append(f"{events} stored before, by another import of the same lines")
        lines += self.refusals.report()
        if self._lost:
            lines.append(f"lost {self._lost:,}")
            self.failures.append("another program took over; it knows what became of them")
        if self._left:
            rest = "run it again, and they are" if is_file else "they may be stored or not"
            lines.append(f"not confirmed {self._left:,}: {rest}")
        return lines


def _shown(element: bytes) -> str:
    value = wire.unpack(element) if element else {}
    text = jsontext.encode(value[1] if isinstance(value, list) else value)
    return text if len(text) <= 100 else text[:97] + "..."
