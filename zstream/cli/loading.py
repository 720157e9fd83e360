"""Lines into a daemon: bare events and envelopes, what is refused and why."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from zstream.cli import dates, jsontext
from zstream.cli.jsontext import BadLine
from zstream.cli.reading import MAX_LINE_BYTES, ReadError
from zstream.limits import MAX_INTEGER

#: Of an export's header line, beside ``zstream``, which is the version of the form.
_HEADER: Final = frozenset(("zstream", "keys", "run", "head"))
#: The version of the export form that this reads and writes.
FORM: Final = 1
#: Line numbers that the summary tells of each reason.
_SHOWN: Final = 5

#: Finds an event's date, in microseconds since 1970 UTC; BadLine if it has none.
FindDate = Callable[[Mapping[str, Any]], int]


class UnknownForm(ReadError):
    """An export that another version of this wrote, and can read."""


class Refusals:
    """What was not stored, by reason.

    Attributes:
        count: How many lines or events.
    """

    count: int

    def __init__(self) -> None:
        self.count = 0
        self._found: dict[str, tuple[int, list[str], str]] = {}

    def add(self, reason: str, place: str, detail: str, *, count: int = 1) -> None:
        """Note one refusal.

        Args:
            reason: The sort of trouble.
            place: The line; the first few of each reason are told.
            detail: What is wrong there; the first of each reason is told.
            count: How many there are.
        """
        self.count += count
        before, places, first = self._found.get(reason, (0, [], detail))
        if place and len(places) < _SHOWN:
            places.append(place)
        self._found[reason] = (before + count, places, first)

    def report(self) -> Iterable[str]:
        """Say what was refused, the most frequent reason first, a line each."""
        if not self.count:
            return
        yield f"refused {self.count:,}:"
        width = len(f"{self.count:,}")
        for reason, (count, places, detail) in sorted(
            self._found.items(), key=lambda item: -item[1][0]
        ):
            where = ", ".join(places) + (", ..." if places and count > len(places) else "")
            what = f" ({detail})" if detail else ""
            yield f"  {count:>{width},}  {reason}{': line ' if places else ''}{where}{what}"


def split_reason(text: str) -> tuple[str, str]:
    """Part an error's text into the sort of trouble and the place in the event.

    Args:
        text: As ``zstream.packing`` and the daemon write it: the place, then the trouble.
    """
    place, found, deep = text.partition(" is nested ")
    if found:
        return found.lstrip() + deep, place
    place, _, reason = text.rpartition(": ")
    return reason, place


class Parser:
    """Lines of one source as events with their dates.

    An export begins with a header, and its lines are envelopes; all else is bare events.
    """

    def __init__(self, *, date: FindDate | None = None, meta: bool = False) -> None:
        """Args:
        date: Finds the date of an event; it goes before the time of an envelope.
        meta: The lines are envelopes even without a header.
        """
        self._date = date
        self._enveloped = meta
        self._begun = False
        #: The keys that the exported store had, from the header.
        self.keys: tuple[str, ...] | None = None

    def parse(self, line: bytes | None) -> tuple[dict[str, Any], datetime | None] | None:
        """Read one line.

        Args:
            line: Its bytes, or None if it was too long.

        Returns:
            The event and its date, if it is to have one; None for a blank line and a header.

        Raises:
            BadLine: It is no event.
            UnknownForm: It is the header of a form that this version does not know.
        """
        if line is None:
            raise BadLine("too large", f"a line has at most {MAX_LINE_BYTES >> 20} MiB")
        if not line or line.isspace():
            return None
        event = jsontext.decode_event(line)
        if "zstream" in event and (not self._begun or self._enveloped) and self._header(event):
            return None
        self._begun = True
        micros = None
        if self._enveloped:
            event, micros = _unwrap(event)
        if self._date is not None:
            micros = self._date(event)
        return event, None if micros is None else dates.from_micros(micros)

    def _header(self, event: dict[str, Any]) -> bool:
        if not event.keys() >= _HEADER or "event" in event:
            return False
        if event["zstream"] != FORM:
            raise UnknownForm(f"an export of form {event['zstream']}; this reads form {FORM}")
        self._enveloped = self._begun = True
        found = event["keys"]
        self.keys = tuple(map(str, found)) if isinstance(found, list) else None
        return True


def _unwrap(envelope: dict[str, Any]) -> tuple[dict[str, Any], int]:
    event, micros = envelope.get("event"), envelope.get("ts")
    if type(event) is not dict or type(micros) is not int:
        raise BadLine("not an envelope", 'it needs {"id": ..., "ts": microseconds, "event": {...}}')
    if not 0 <= micros <= MAX_INTEGER:
        raise BadLine("a bad date", f"ts {str(micros)[:40]} is out of range (1970 to 2255)")
    return event, micros
