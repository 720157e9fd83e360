"""The command that follows: tail."""

import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from types import FrameType
from typing import Any

import click

from zstream import Client, Tail, errors
from zstream.cli import dates, exits, output, words
from zstream.cli.app import connect, connected, filtered, time_option, zoned
from zstream.cli.cursorfile import CursorFile
from zstream.cursor import parse_cursor
from zstream.event import Event

#: How often a tail without events looks whether its reader is still there, in seconds.
_LOOK_S = 0.5


def _parse_place(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is None or (value.isascii() and value.isdigit() and len(value) < 20):
        return None if value is None else int(value)
    try:
        return str(parse_cursor(value))
    except errors.BadRequest:
        raise click.BadParameter(f"{value[:60]!r} is neither an id nor a cursor") from None


@click.command(short_help="Follow a slice as it grows.")
@filtered
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N",
              help="Stop after so many events.")  # fmt: skip
@click.option("--after", metavar="ID|CURSOR", callback=_parse_place,
              help="Begin after this event, with its history; 0 is the oldest.")  # fmt: skip
@time_option("--since", "Begin with what arrived since then")
@zoned
@click.option("--cursor-file", metavar="FILE", type=click.Path(dir_okay=False),
              help="Keep the place in FILE, and begin there if it exists.")  # fmt: skip
@click.option("--meta", is_flag=True, help='Write {"id", "ts", "event"}.')
@connected
def tail(
    filter: tuple[str, ...], limit: int | None, after: int | str | None, since: str | None,
    tz: tzinfo | None, cursor_file: str | None, meta: bool,
) -> None:  # fmt: skip
    """Follow a slice as it grows: one line of JSON an event, oldest first, until Ctrl-C.

    \b
    zstream tail kind=friend | jq .user
    zstream tail kind=friend --cursor-file place >> friends.jsonl
    """
    if after is not None and since is not None:
        raise click.UsageError("give --after or --since, not both")
    chosen = words.parse_filter(filter)
    start: dict[str, Any] = {"after": after, "since": dates.parse_time(since, tz, "--since")}
    kept = None if cursor_file is None else CursorFile(Path(cursor_file))
    if kept is not None and kept.start is not None:
        start = {"after": kept.start}
    with _told(kept), connect() as client, client.tail(chosen, **start) as tail:
        if kept is not None:
            # An id may be none of this store's yet; the first page of history will tell.
            kept.begin(tail.cursor, start["after"])
        _Printer(client, tail, kept, meta=meta).run(limit)


@contextmanager
def _told(kept: CursorFile | None) -> Iterator[None]:
    """Say what to do about a cursor file that is of no use any more."""
    try:
        yield
    except (errors.CursorLost, errors.Trimmed) as error:
        if kept is None or kept.start is None:
            raise
        raise type(error)(
            f"{error}; the cursor is that of {kept.path}: remove the file to begin anew, with"
            " --after 0 from the oldest event that is kept"
        ) from error


class _Printer:
    """Writes events as they come, as long as somebody reads.

    An interrupt waits until a line that has been begun is written and its place is kept, so that
    the cursor file is exact; a second one does not wait.
    """

    def __init__(self, client: Client, tail: Tail, kept: CursorFile | None, *, meta: bool) -> None:
        self._client, self._tail, self._kept, self._meta = client, tail, kept, meta
        self._is_writing = self._is_interrupted = self._is_away = False

    def run(self, limit: int | None) -> None:
        """Write so many events, None for ever."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            seen = 0
            while limit is None or seen < limit:
                seen += self._look()
        finally:
            self._is_writing = True
            if self._kept is not None:
                self._kept.write()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look(self) -> bool:
        """Wait for an event for a while and write it; whether there was one."""
        event = None
        try:
            event = self._tail.get(_LOOK_S)
        except errors.TimedOut:
            _await_reader(select.POLLERR)
        if event is None or self._is_away:
            self._tell()
        if event is not None:
            _await_reader(select.POLLOUT)
            self._write(event)
        elif self._kept is not None:
            self._kept.keep(self._tail.cursor)
        if self._kept is not None:
            self._kept.write_if_due()
        return event is not None

    def _write(self, event: Event) -> None:
        self._is_writing = True
        try:
            output.emit(output.line(event, meta=self._meta))
            output.flush()
            if self._kept is not None:
                self._kept.keep(self._tail.cursor)
        finally:
            self._is_writing = False
        if self._is_interrupted:
            raise KeyboardInterrupt

    def _tell(self) -> None:
        problem = self._client.stats()["problem"]
        if problem is not None and not self._is_away:
            exits.complain(f"{problem}; waiting for it")
        elif problem is None and self._is_away:
            exits.complain("the daemon is back")
        self._is_away = problem is not None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._is_writing or self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True


def _await_reader(what: int) -> None:
    """Wait for room in stdout if that is asked for; BrokenPipeError if nobody reads any more."""
    if sys.stdout is None:
        return  # it will be told
    poller = select.poll()
    poller.register(sys.stdout.fileno(), what)
    for _, state in poller.poll(None if what & select.POLLOUT else 0):
        if state & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError
