"""The commands that move events in: insert and import."""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

import click

from zstream import errors, times
from zstream.cli import dates, exits, output, words
from zstream.cli.app import connect, connected, time_option, timeout_s, zoned
from zstream.cli.loader import Loader, StoreReplaced
from zstream.cli.loading import FindDate, Parser
from zstream.cli.progress import Progress
from zstream.cli.reading import ReadError, opened

#: Bad lines that ``insert`` tells of at once; the rest is in the summary.
_ALERTS = 20


@click.command(short_help="Insert an event, or JSON Lines from stdin.")
@click.argument("words_", nargs=-1, metavar="[KEY=TEXT | KEY:=JSON]...")
@time_option("--date", "When it happened")
@zoned
@connected
def insert(words_: tuple[str, ...], date: str | None, tz: tzinfo | None) -> int:
    """Insert one event from words and print its id, or JSON Lines from stdin.

    When it ends with exit code 0, all of it is on disk.

    \b
    zstream insert kind=friend user:=23
    producer | zstream insert
    """
    moment = dates.parse_time(date, tz, "--date")
    if words_:
        event = words.parse_event(words_)
        with connect() as client:
            output.emit(f"{client.insert(event, date=moment, wait=True)}\n")
        return exits.OK
    if output.is_terminal(sys.stdin):
        output.note("reading JSON Lines from the terminal; Ctrl-D ends")
    date_of = _fixed(moment)
    return _load_all(["-"], lambda: Parser(date=date_of), {}, alert=_alerts(), show=False)


@click.command("import", short_help="Insert exports and JSON Lines.")
@click.argument(
    "files", nargs=-1, metavar="[FILE]...",
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
)  # fmt: skip
@click.option(
    "--date", "field", metavar="FIELD",
    help="Take each event's date from this field, as created_at or meta.time.",
)  # fmt: skip
@click.option(
    "--date-unit", "unit", type=click.Choice(dates.UNITS), default="auto", show_default=True,
    help="Of the dates; auto: text is ISO 8601, numbers are seconds.",
)  # fmt: skip
@zoned
@click.option("--meta", is_flag=True, help="The lines are {id, ts, event}, as --meta writes them.")
@connected
def import_(
    files: tuple[str, ...], field: str | None, unit: str, tz: tzinfo | None, meta: bool
) -> int:
    """Insert the events of exports and of JSON Lines, plain or gzip; `-` is stdin.

    An export gets its times back, and new ids. A bad line does not keep the others from being
    stored; the summary says which and why. When it ends with exit code 0, all is on disk. Each line
    of a file is stored once, however often the import is interrupted or repeated, as long as
    neither the file nor the options change.

    \b
    zstream import events.jsonl.gz --date created_at
    """
    if not files and output.is_terminal(sys.stdin):
        raise click.UsageError("name a file, or - for stdin")
    if field is None and unit != "auto":
        raise click.UsageError("--date-unit goes with --date FIELD")
    date = None if field is None else dates.field_date(field, unit, tz)
    options: dict[str, str | bool | None] = {"meta": meta}
    if field is not None:
        options |= {"date": field, "unit": unit, "tz": None if tz is None else str(tz)}
    return _load_all(list(files) or ["-"], lambda: Parser(date=date, meta=meta), options)


def _load_all(
    names: Sequence[str], make_parser: Callable[[], Parser], options: Mapping[str, Any], *,
    alert: Callable[[str], None] | None = None, show: bool = True,
) -> int:  # fmt: skip
    with Progress(show=show) as progress:
        loader = Loader(timeout_s(), progress, alert)
        with loader.client as client:
            indexed = client.info()["keys"]  # nothing is read for a daemon that is not there
            code = _attempt(
                loader, lambda: _load_each(loader, names, make_parser, options, indexed)
            )
            progress.clear()
            _report(loader)
    return code or _code(loader)


def _attempt(loader: Loader, work: Callable[[], None]) -> int:
    """Do the work and wait for the confirmations; the second interrupt ends that too."""
    try:
        code = exits.OK
        try:
            work()
        except KeyboardInterrupt:
            code = exits.INTERRUPTED
            loader.stop()
            left = loader.unsettled
            rest = f"; waiting for {left:,} to be confirmed" if left else ""
            exits.complain(f"interrupted {loader.place}{rest}")
        loader.settle()
    except errors.Unavailable as error:
        loader.failures.append(str(error))
        return code or exits.UNREACHABLE
    except StoreReplaced as error:
        loader.failures.append(str(error))
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    return code


def _report(loader: Loader) -> None:
    for line in loader.summary():
        output.note(line)
    for failure in loader.failures:
        exits.complain(failure)


def _code(loader: Loader) -> int:
    if loader.failures:
        return exits.FAILURE
    return exits.REFUSED if loader.refusals.count else exits.OK


def _load_each(
    loader: Loader, names: Sequence[str], make_parser: Callable[[], Parser],
    options: Mapping[str, Any], indexed: Sequence[str],
) -> None:  # fmt: skip
    for file in names:
        parser = make_parser()
        name = "stdin" if file == "-" else file
        try:
            with opened(file) as source:
                loader.load(source, parser, options, "" if len(names) == 1 else f"{name}:")
        except ReadError as error:
            loader.failures.append(f"{name}: {error}")
        missing = [key for key in parser.keys or () if key not in indexed]
        if missing:
            output.note(f"{name}: its store indexed {', '.join(missing)}; this one does not")


def _fixed(moment: datetime | None) -> FindDate | None:
    if moment is None:
        return None
    ts = times.micros(moment)
    return lambda event: ts


def _alerts() -> Callable[[str], None]:
    left = itertools.count(_ALERTS - 1, -1)

    def alert(text: str) -> None:
        if (more := next(left)) >= 0:
            exits.complain(text if more else f"{text}; further bad lines are only counted")

    return alert
