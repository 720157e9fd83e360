"""The command that gives a prompt: shell."""

import code
import importlib
import sys
from typing import Any

import click

from zstream import Client
from zstream.cli.app import connect, connected


@click.command(short_help="Open a Python prompt with a client.")
@connected
def shell() -> None:
    """Open a Python prompt with `c`, a connected client.

    \b
    >>> c.items(kind="friend")
    """
    with connect() as client:
        names: dict[str, Any] = {"c": client, "Client": Client, "__name__": "__console__"}
        _edit_lines(names)
        code.InteractiveConsole(names).interact(banner(client), exitmsg="")


def banner(client: Client) -> str:
    """Make the text above the first prompt."""
    about = client.info()
    example = f'{{"{about["keys"][0]}": "hello"}}'
    return (
        f"Python {sys.version.split()[0]}, zstreamd {about['version']} at {client.url}\n"
        f"{about['store']}, {about['events']:,} events, keys {', '.join(about['keys'])}\n"
        f"c is the client:  c.insert({example})  c.flush()  c.items({example})  help(c)"
    )


def _edit_lines(names: dict[str, Any]) -> None:
    """Complete names with the tab key, where Python was built with readline."""
    try:
        readline = importlib.import_module("readline")
        completer = importlib.import_module("rlcompleter").Completer(names)
    except ImportError:
        return
    readline.set_completer(completer.complete)
    is_editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
