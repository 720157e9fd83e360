"""The command that forgets: trim."""

import sys
from datetime import datetime, tzinfo
from typing import Any

import click

from zstream import Client
from zstream.cli import dates, exits, output
from zstream.cli.app import connect, connected, time_option, zoned
from zstream.limits import MAX_INTEGER


@click.command(short_help="Forget the oldest events for good.")
@time_option("--before", "Forget what arrived before this time")
@click.option("--upto", type=click.IntRange(0, MAX_INTEGER), metavar="ID",
              help="Forget all up to this id.")  # fmt: skip
@zoned
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where nobody can be asked.")
@connected
def trim(before: str | None, upto: int | None, tz: tzinfo | None, yes: bool) -> int:
    """Forget the oldest events for good, whatever they are.

    \b
    zstream trim --before 30d
    """
    if (before is None) is (upto is None):
        raise click.UsageError("give --before TIME or --upto ID")
    moment = dates.parse_time(before, tz, "--before")
    if not yes and not output.is_terminal(sys.stdin):
        raise click.UsageError("this cannot be undone, and nobody can be asked here: give --yes")
    place: dict[str, Any] = {"upto": upto} if moment is None else {"before": moment}
    with connect() as client:
        if not yes and not click.confirm(_question(client, moment, upto), err=True):
            output.note("nothing was forgotten")
            return exits.FAILURE
        count = client.trim(**place)
    output.emit(f"forgot {count:,} event{'' if count == 1 else 's'}\n")
    return exits.OK


def _question(client: Client, moment: datetime | None, upto: int | None) -> str:
    about = client.info()
    if moment is not None:
        what = f"all events that arrived before {moment:%Y-%m-%dT%H:%M:%SZ}"
    else:
        what = f"{max(0, min(upto or 0, about['head']) - about['floor']):,} events, up to id {upto}"
    return f"Forget {what}, of {about['events']:,} in {about['store']}? It cannot be undone."
