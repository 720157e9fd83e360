"""How a command ends: exit codes, one clear line for an error, and quiet where none is due."""

import logging
import os
import signal
import sys
from types import FrameType
from typing import Any, Final, NoReturn

import click

from zstream import errors
from zstream.cli import output

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130

_CODES: Final[tuple[tuple[type[errors.Error], int], ...]] = (
    (errors.Unavailable, UNREACHABLE),
    (errors.TimedOut, UNREACHABLE),
    (errors.EventError, REFUSED),
    (errors.TooLarge, REFUSED),
    (errors.Refused, REFUSED),
    (errors.BadFilter, USAGE),
    (errors.BadRequest, USAGE),
    (errors.ConfigError, USAGE),
)


def code_of(error: errors.Error) -> int:
    """The exit code that an error stands for."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILURE)


def complain(message: str) -> None:
    """Write one line about trouble to stderr."""
    name = click.style("zstream:", fg="red") if output.in_colour(sys.stderr) else "zstream:"
    output.note(f"{name} {' '.join(message.split())}")


class Commands(click.Group):
    """A group whose commands end with a documented exit code and never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            code = super().invoke(ctx)
            output.flush()
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            forget_stdout()
            ctx.exit(OK)
        except errors.Error as error:
            complain(str(error) or type(error).__name__)
            ctx.exit(code_of(error))
        except OSError as error:
            forget_stdout()
            name = f": {error.filename}" if error.filename else ""
            complain(f"{error.strerror or error}{name}")
            ctx.exit(FAILURE)
        ctx.exit(code or OK)


def prepare_process() -> None:
    """Let SIGTERM end a command as Ctrl-C does, and the client's warnings be lines on stderr."""
    signal.signal(signal.SIGTERM, _interrupt)
    # What the client warns of, the commands find out and tell themselves.
    logging.basicConfig(format="zstream: %(message)s", level=logging.ERROR)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def forget_stdout() -> None:
    """Keep the interpreter from complaining once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
