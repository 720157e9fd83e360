"""The commands for a store: reindex, check, backup, restore."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zstream import errors
from zstream.backends import open_backend
from zstream.backends.base import Backend
from zstreamd.cli.app import config_option, with_settings
from zstreamd.cli.exits import Exit, exit_code, explain
from zstreamd.cli.progress import Progress
from zstreamd.logs import write_line
from zstreamd.settings import Settings, load

_Command = Callable[..., None]


def _on_a_store(command: _Command) -> _Command:
    return config_option(with_settings(command, ("store",)))


@click.command(short_help="Change the keys of a store, or make its index anew.")
@click.option(
    "--keys", metavar="NAMES",
    help="The keys that it is to have, separated by commas; the values of those that it had not"
    " are read from the stored events.  [default: the same]",
)  # fmt: skip
@_on_a_store
def reindex(config: Path | None, **flags: Any) -> None:
    """Change the keys of a store, or without --keys make its index anew.

    No daemon may have it open. It may be interrupted: the store then has its old keys, and the same
    command goes on from there.
    """

    def job(backend: Backend, settings: Settings, progress: Progress) -> str:
        # Late, so that --help loads no msgspec.
        from zstreamd.extract import extract

        backend.reindex(settings.keys, extract, progress)
        keys = f" and has the keys {','.join(settings.keys)}" if settings.keys else ""
        return f"{settings.store_name} is indexed anew{keys}"

    _do(job, config, flags)


@click.command(short_help="Read all of a store and compare it with itself.")
@_on_a_store
def check(config: Path | None, **flags: Any) -> None:
    """Read all of a store and compare it with itself and its index.

    No daemon may have it open. Exit code 3 says that something is wrong, a line each.
    """

    def job(backend: Backend, settings: Settings, progress: Progress) -> str:
        wrong = backend.check(progress)
        if wrong:
            progress.clear()
            for text in wrong:
                click.echo(text)
            raise SystemExit(Exit.STORE)
        return f"{settings.store_name} is in order"

    _do(job, config, flags)


@click.command(short_help="Copy a store, also while a daemon writes to it.")
@click.argument("path", type=click.Path(dir_okay=False))
@_on_a_store
def backup(path: str, config: Path | None, **flags: Any) -> None:
    """Copy a store to PATH, a file that is not there yet, also while a daemon writes to it.

    The copy is the store as it was at one moment. It appears under its name when it is complete and
    on disk; it opens as a store, and `zstreamd restore` puts it back.
    """

    def job(backend: Backend, settings: Settings, progress: Progress) -> str:
        last = backend.backup(path, progress)
        return f"{path} has {settings.store_name} up to event {last}"

    _do(job, config, flags)


@click.command(short_help="Put a copy in the place of a store.")
@click.argument("path", type=click.Path(dir_okay=False))
@_on_a_store
def restore(path: str, config: Path | None, **flags: Any) -> None:
    """Put PATH, a copy made by `zstreamd backup`, in the place of a store.

    No daemon may have it open. What was there stays beside it under another name, and the copy
    stays where it is.
    """

    def job(backend: Backend, settings: Settings, progress: Progress) -> str:
        last = backend.restore(path, progress)
        return f"{settings.store_name} is {path}, up to event {last}"

    _do(job, config, flags)


def _do(
    job: Callable[[Backend, Settings, Progress], str], config: Path | None, flags: dict[str, Any]
) -> None:
    logging.basicConfig(format="zstreamd: %(message)s", level=logging.ERROR)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings()
    try:
        settings = load(flags, os.environ, config)
        with Progress() as progress:
            said = job(open_backend(settings.store), settings, progress)
        click.echo(said)
    except KeyboardInterrupt:
        write_line("zstreamd: interrupted")
        raise SystemExit(Exit.FORCED) from None
    except errors.Error as error:
        code = exit_code(error)
        message = explain(error, code, settings.store_name)
        write_line(f"zstreamd: {message.replace(settings.store, settings.store_name)}")
        raise SystemExit(code) from None
    finally:
        signal.signal(signal.SIGTERM, before)
