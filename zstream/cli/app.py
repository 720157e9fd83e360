"""The group of commands and what they share: the connection and its options."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from zstream import Client, __version__
from zstream.cli import dates
from zstream.cli.exits import Commands

_Command = TypeVar("_Command", bound=Callable[..., Any])

_URL_HELP = "Where the daemon is: tcp://host:port or ipc://path."
_TIMEOUT_HELP = "Seconds to wait for an answer."


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        ctx.ensure_object(dict)[param.name] = value


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 unreachable, 4 some events refused, 130"
    " interrupted.",
)
@click.option(
    "--url", metavar="URL", envvar="ZSTREAM_URL", show_envvar=True, callback=_keep,
    expose_value=False, help=f"{_URL_HELP}  [default: tcp://127.0.0.1:5570]",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", callback=_keep,
    expose_value=False, help=f"{_TIMEOUT_HELP}  [default: 5]",
)  # fmt: skip
@click.version_option(__version__, message="zstream %(version)s")
def cli() -> None:
    """Insert events into a zstream daemon, query them, and follow them as they come."""


def connected(command: _Command) -> _Command:
    """Let a command take ``--url`` and ``--timeout`` behind its name too."""
    url = click.option("--url", metavar="URL", callback=_keep, expose_value=False, help=_URL_HELP)
    timeout = click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
        callback=_keep, expose_value=False, help=_TIMEOUT_HELP,
    )  # fmt: skip
    return url(timeout(command))


def filtered(command: _Command) -> _Command:
    """Give a command the words of a filter, as the parameter ``filter``."""
    return click.argument("filter", nargs=-1, metavar="[KEY=VALUE]...")(command)


def zoned(command: _Command) -> _Command:
    """Give a command the option ``--tz``."""
    return click.option(
        "--tz", metavar="ZONE", callback=dates.parse_zone,
        help="The zone of times that name none, as UTC or Europe/Berlin.",
    )(command)  # fmt: skip


def time_option(name: str, text: str) -> Callable[[_Command], _Command]:
    """Make an option that takes a time; the help begins with ``text``."""
    return click.option(
        name, metavar="TIME", help=f"{text}: ISO 8601, an age like 1h, or seconds since 1970."
    )


def connect(**options: Any) -> Client:
    """Make the client that the command line asks for.

    Args:
        options: More of the client's settings.
    """
    given = click.get_current_context().ensure_object(dict)
    return Client(given.get("url"), timeout=timeout_s(), **options)


def timeout_s() -> float:
    """The seconds to wait for an answer that the command line asks for."""
    return float(click.get_current_context().ensure_object(dict).get("timeout", 5.0))
