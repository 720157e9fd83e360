"""The command that follows: tail."""

import select
import sys
from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Any

import click

from zstream import Client, Tail, errors
from zstream.cli import dates, exits, output, words
from zstream.cli.app import connect, connected, filtered, time_option, zoned
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
@click.option("--after", metavar="ID", callback=_parse_place,
              help="Begin after this event, with its history.")  # fmt: skip
@time_option("--since", "Begin with what arrived since then")
@zoned
@click.option("--meta", is_flag=True, help='Write {"id", "ts", "event"}.')
@connected
def tail(
    filter: tuple[str, ...], limit: int | None, after: int | str | None, since: str | None,
    tz: tzinfo | None, meta: bool,
) -> None:  # fmt: skip
    """Follow a slice as it grows: one line of JSON an event, oldest first, until Ctrl-C.

    \b
    zstream tail kind=friend | jq .user
    """
    if after is not None and since is not None:
        raise click.UsageError("give --after or --since, not both")
    chosen = words.parse_filter(filter)
    moment = dates.parse_time(since, tz, "--since")
    with connect() as client:
        for seen, event in enumerate(_follow(client, chosen, after, moment), 1):
            output.emit(output.line(event, meta=meta))
            output.flush()
            if seen == limit:
                return


def _follow(
    client: Client, filter: dict[str, Any], after: int | str | None, since: datetime | None
) -> Iterator[Event]:
    """Follow for ever, and as long as somebody reads."""
    with client.tail(filter, after=after, since=since) as tail:
        yield from _events(tail)


def _events(tail: Tail) -> Iterator[Event]:
    is_away = False
    while True:
        try:
            event = tail.get(_LOOK_S)
        except errors.TimedOut:
            _check_reader()
        except errors.Unavailable as error:
            if not is_away:
                exits.complain(f"{error}; waiting for it")
            is_away = True
            _check_reader()
        else:
            is_away = False
            yield event


def _check_reader() -> None:
    """Raise BrokenPipeError if nobody reads stdout any more."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    if any(state & (select.POLLERR | select.POLLHUP) for _, state in poller.poll(0)):
        raise BrokenPipeError
