"""Telling the callers what became of their events."""

import logging
from collections.abc import Callable

from zstream import wire
from zstream.confirmation import Report
from zstream.errors import Refused
from zstream.event import Event
from zstream.ledger import Ledger
from zstream.outbox import Outbox, Progress
from zstream.outcome import refused_error

#: Called with the events that were refused, as far as they are known, and the error.
OnRefused = Callable[[list[Event], Refused], None]

_log = logging.getLogger("zstream")


class Telling:
    """What one client's lanes tell, in the link's thread.

    Args:
        outbox: Where ``flush`` waits, and where the client's own events came from.
        on_refused: Hears of refused events.
    """

    def __init__(self, outbox: Outbox, on_refused: OnRefused | None) -> None:
        self._outbox = outbox
        self._on_refused = on_refused
        self._has_warned = False
        self._released = 0

    def memory(self, ledger: Ledger, reports: list[Report]) -> None:
        """Of events that were kept in memory until now."""
        released, self._released = ledger.released - self._released, ledger.released
        self._tell(ledger, reports, released)

    def spooled(self, ledger: Ledger, reports: list[Report]) -> None:
        """Of events of the outbox that are kept elsewhere; `Outbox.release` told it so."""
        self._tell(ledger, reports, 0)

    def adopted(self, ledger: Ledger, reports: list[Report]) -> None:
        """Of events that another process had inserted."""
        for report in reports:
            self._report(report)

    def _tell(self, ledger: Ledger, reports: list[Report], released: int) -> None:
        progress = Progress(ledger.settled, ledger.sent, ledger.stored, ledger.refused, ledger.lost)
        refusals = [refusal for report in reports for refusal in report.refusals]
        self._outbox.tell(progress, refusals, released)
        for report in reports:
            self._report(report)

    def _report(self, report: Report) -> None:
        error = refused_error(report.count, tuple(report.refusals))
        if self._on_refused is None:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s; flush() and stats() tell of more", error)
            return
        try:
            self._on_refused([_event(element) for element in report.elements if element], error)
        except Exception:  # noqa: BLE001 - the caller's code must not end the client's thread
            _log.exception("on_refused failed")


def _event(element: bytes) -> Event:
    value = wire.unpack(element)
    date, fields = value if isinstance(value, list) else (0, value)
    return Event(fields, 0, date)
