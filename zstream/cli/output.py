"""Events as JSON Lines, CSV or a table."""

import csv
import errno
import io
import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from zstream import keys
from zstream.cli import jsontext
from zstream.event import Event

FORMATS: Final = ("jsonl", "csv", "table")
#: Columns of a terminal that one key of a table takes at the most.
_KEY_WIDTH: Final = 30
#: What would move the cursor, turn the reading direction or end the line.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def is_terminal(stream: Any) -> bool:
    """Say whether a stream shows on a terminal that obeys control sequences."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def in_colour(stream: Any) -> bool:
    """Say whether to write colour: on a terminal, unless NO_COLOR is set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def default_format() -> str:
    """Choose the format where none is asked for: a table on a terminal, else JSON Lines."""
    return "table" if is_terminal(sys.stdout) else "jsonl"


def emit(text: str) -> None:
    """Write to stdout, in UTF-8 whatever the locale; BrokenPipeError if nobody reads."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))


def flush() -> None:
    """Hand on what was emitted."""
    if sys.stdout is not None:
        sys.stdout.buffer.flush()


def note(text: str) -> None:
    """Write a line to stderr."""
    click.echo(text, err=True)


# ---------------------------------------------------------------- JSON Lines


def line(event: Event, *, meta: bool) -> str:
    """Write one event as a line of JSON.

    Args:
        event: The event.
        meta: Write ``{"id", "ts", "event"}``; ``ts`` is microseconds since 1970 UTC.
    """
    text = jsontext.encode(event)
    return f'{{"id":{event.id},"ts":{event.ts},"event":{text}}}\n' if meta else text + "\n"


# ---------------------------------------------------------------- CSV


def csv_text(events: Sequence[Event], *, meta: bool) -> str:
    """Write events as CSV: a header, and one column for each top-level field of any of them.

    Text stands as it is; a missing field and null are empty; all else is JSON.

    Args:
        events: The events; of none there is no CSV, not even a header.
        meta: Put ``@id`` and ``@ts`` in front.
    """
    if not events:
        return ""
    columns = list(dict.fromkeys(name for event in events for name in event))
    rows = [(["@id", "@ts"] if meta else []) + columns]
    for event in events:
        cells = [_csv_cell(event.get(name)) for name in columns]
        rows.append(([str(event.id), str(event.ts)] if meta else []) + cells)
    return "".join(map(_csv_row, rows))


def _csv_row(cells: Sequence[str]) -> str:
    # csv quotes a lone carriage return only where one ends the lines.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2] + "\n"


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else jsontext.encode(value)


# ---------------------------------------------------------------- tables


def table(
    events: Sequence[Event], indexed: Sequence[str], *, width: int | None, colour: bool = False
) -> str:
    """Write events as a table: id, date, the store's keys, and the rest as JSON.

    Args:
        events: The events; of none there is no table.
        indexed: The store's keys. One that no event has gets no column.
        width: Columns of the terminal, where longer lines are cut; None cuts nothing.
        colour: Write the header in bold.
    """
    if not events:
        return ""
    found = {key: [keys.getter(key)(event) for event in events] for key in indexed}
    shown = [key for key, values in found.items() if any(value is not None for value in values)]
    rows = [["id", "date", *shown, "event"]]
    for at, event in enumerate(events):
        rest = {name: value for name, value in event.items() if name not in shown}
        cells = [_cell(found[key][at]) for key in shown]
        cells = cells if width is None else [cut(cell, _KEY_WIDTH) for cell in cells]
        rows.append([str(event.id), date_text(event), *cells, _cell(rest) if rest else ""])
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    lines = [_row(row, widths, width) for row in rows]
    if colour:
        lines[0] = click.style(lines[0], bold=True)
    return "".join(text + "\n" for text in lines)


def terminal_width() -> int | None:
    """The columns of the terminal that stdout is, or None if it is none."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def date_text(event: Event) -> str:
    """Write an event's time as ISO 8601 in UTC, as ``--since`` takes it."""
    return event.date.isoformat().replace("+00:00", "Z")


def mapping(fields: dict[str, Any]) -> str:
    """Write names and values one below the other."""
    width = max(map(len, fields), default=0)
    return "".join(f"{name:<{width}}  {_cell(value)}\n" for name, value in fields.items())


def columns_of(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def cut(text: str, width: int) -> str:
    """Shorten a text to so many columns of a terminal; ``…`` at the end says so."""
    if columns_of(text) <= width:
        return text
    used = 0
    for at, character in enumerate(text):
        used += _columns(character)
        if used >= width:
            return text[:at] + "…"
    return text


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _row(cells: Iterable[str], widths: Sequence[int], limit: int | None) -> str:
    *front, last = cells
    padded = [
        cell + " " * (width - columns_of(cell)) for cell, width in zip(front, widths, strict=False)
    ]
    text = "  ".join([*padded, last]).rstrip()
    return text if limit is None else cut(text, limit)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else jsontext.encode(value)
    return _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], text)
