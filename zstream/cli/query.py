"""The commands that ask: ping, info, items, count."""

import sys
from collections.abc import Iterator
from datetime import tzinfo
from typing import Any

import click

from zstream import Client
from zstream.cli import dates, jsontext, output, words
from zstream.cli.app import connect, connected, filtered, time_option, zoned
from zstream.cursor import parse_token
from zstream.errors import BadRequest
from zstream.event import Event, Page
from zstream.limits import MAX_END, PAGE_EVENTS


@click.command(short_help="Ask the daemon for a sign of life.")
@connected
def ping() -> None:
    """Ask the daemon for a sign of life, and wait for it up to --timeout seconds."""
    with connect() as client:
        milliseconds = client.ping() * 1000
        version = client.info()["version"]
        output.emit(f"zstreamd {version} at {client.url} answered in {milliseconds:.1f} ms\n")


@click.command(short_help="Show store, keys, head and counters.")
@click.option(
    "--format", type=click.Choice(("jsonl", "table")),
    help="[default: table on a terminal, else jsonl]",
)  # fmt: skip
@connected
def info(format: str | None) -> None:
    """Show what the daemon knows of itself: store, keys, head, counters."""
    with connect() as client:
        fields = client.info()
    if (format or output.default_format()) == "jsonl":
        output.emit(f"{jsontext.encode(fields)}\n")
    else:
        output.emit(output.mapping(fields))


@click.command()
@filtered
@time_option("--since", "Only events at or after this time")
@time_option("--until", "Only events before this time")
@zoned
@connected
def count(filter: tuple[str, ...], since: str | None, until: str | None, tz: tzinfo | None) -> None:
    """Count the events of a slice.

    \b
    zstream count kind=friend --since 1d
    """
    chosen = words.parse_filter(filter)
    between = _between(since, until, tz)
    with connect() as client:
        output.emit(f"{client.count(chosen, **between)}\n")


def _check_token(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return str(parse_token(value))
    except BadRequest:
        raise click.BadParameter(f"{value[:60]!r} is no token as --next writes one") from None


@click.command()
@filtered
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20,
              metavar="N", show_default=True,
              help="Events at the most.")  # fmt: skip
@click.option("--start", type=click.IntRange(0, MAX_END - 1), default=0, metavar="N",
              help="Pass over so many of the newest.")  # fmt: skip
@time_option("--since", "Only events at or after this time")
@time_option("--until", "Only events before this time")
@click.option(
    "--before", metavar="TOKEN", callback=_check_token, help="Go on where another page ended."
)
@click.option("--next", "next_file", type=click.Path(dir_okay=False), metavar="FILE",
              help="Write the token for --before to FILE, or nothing at the end.")  # fmt: skip
@zoned
@click.option("--format", type=click.Choice(output.FORMATS),
              help="[default: table on a terminal, else jsonl]")  # fmt: skip
@click.option("--meta", is_flag=True, help="Show ids and times: {id, ts, event} in jsonl.")
@connected
def items(
    filter: tuple[str, ...], limit: int, start: int, since: str | None, until: str | None,
    before: str | None, next_file: str | None, tz: tzinfo | None, format: str | None, meta: bool,
) -> None:  # fmt: skip
    """Show the newest events of a slice, newest first.

    \b
    zstream items kind=friend user=23 user=291
    zstream items kind=friend user=@ids.txt -n 1000 --format csv
    """
    chosen = words.parse_filter(filter)
    options = {**_between(since, until, tz), "before": before}
    form = format or output.default_format()
    with connect() as client:
        walk = Walk(client, chosen, start, limit, options)
        if form == "jsonl":
            for page in walk:
                output.emit("".join(output.line(event, meta=meta) for event in page))
                output.flush()
        else:
            events = [event for page in walk for event in page]
            output.emit(_shaped(client, events, form, meta))
    if next_file is not None:
        with click.open_file(next_file, "w") as file:
            file.write(f"{walk.next}\n" if walk.next else "")
    _tell_of_more(walk, form)


class Walk:
    """The pages of ``items`` up to a number of events, however large.

    Attributes:
        next: The token where it ended, or None if there is nothing older.
        seen: Events given out.
    """

    next: str | None
    seen: int

    def __init__(
        self, client: Client, filter: dict[str, Any], start: int, limit: int,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._client = client
        self._filter = filter
        self._start = start
        self._limit = limit
        self._options = options
        self.next = None
        self.seen = 0

    def __iter__(self) -> Iterator[Page]:
        start, before = self._start, self._options.pop("before")
        while True:
            wanted = min(self._limit - self.seen, PAGE_EVENTS, MAX_END - start)
            page = self._client.items(
                self._filter, start=start, end=start + wanted, before=before, **self._options
            )
            self.seen += len(page)
            self.next = before = page.next
            yield page
            if before is None or self.seen >= self._limit:
                return
            start = 0


def _between(since: str | None, until: str | None, tz: tzinfo | None) -> dict[str, Any]:
    return {
        "since": dates.parse_time(since, tz, "--since"),
        "until": dates.parse_time(until, tz, "--until"),
    }


def _shaped(client: Client, events: list[Event], form: str, meta: bool) -> str:
    if form == "csv":
        return output.csv_text(events, meta=meta)
    return output.table(
        events, client.info()["keys"] if events else (), width=output.terminal_width(),
        colour=output.in_colour(sys.stdout),
    )  # fmt: skip


def _tell_of_more(walk: Walk, form: str) -> None:
    if not output.is_terminal(sys.stderr) or form != "table":
        return
    if not walk.seen:
        output.note("no events")
    elif walk.next is not None:
        output.note(f"more: --before {walk.next}")
