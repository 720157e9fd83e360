"""The command ``zstreamd``: options, the life of the process, exit codes."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from zstream import __version__, errors
from zstreamd.logs import logging_to_stderr, write_line
from zstreamd.notify import notify
from zstreamd.settings import (
    PREFIX,
    Settings,
    all_settings,
    default_text,
    flag,
    load,
    misspelt,
)

if TYPE_CHECKING:
    from zstreamd.server import Server

log = logging.getLogger(__name__)

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Exit(IntEnum):
    """How the process ended."""

    OK = 0
    #: By a second signal, or by a defect.
    FORCED = 1
    #: The settings cannot work.
    CONFIG = 2
    #: The store cannot be reached, is damaged, or was lost while serving.
    STORE = 3
    #: Another daemon has the store open.
    LOCKED = 4
    #: Somebody else listens on an endpoint.
    PORT = 5
    #: The store has other keys than asked for, or a newer schema.
    MISMATCH = 6


_EXITS: tuple[tuple[type[errors.Error], Exit], ...] = (
    (errors.EndpointTaken, Exit.PORT),
    (errors.ConfigError, Exit.CONFIG),
    (errors.StoreLocked, Exit.LOCKED),
    (errors.StoreMismatch, Exit.MISMATCH),
    (errors.BackendError, Exit.STORE),
)


class _Group(click.Group):
    """A group that runs the daemon unless told otherwise, and whose help shows how."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for each in self.get_params(ctx) for name in each.opts}
        if args[0][:1] == "-" and args[0] not in own if args else not ctx.resilient_parsing:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing:
            ctx.fail(
                f"{cmd_name!r} is no command; there is 'run', which need not be said, and options "
                "begin with --, as in: zstreamd --store sqlite:///events.db"
            )
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = [each for each in run.params if isinstance(each, click.Option)]
        records = [each.get_help_record(ctx) for each in (*params, *self.get_params(ctx))]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])
        self.format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete) + run.shell_complete(ctx, incomplete)
        return list({item.value: item for item in found}.values())


@click.group(
    cls=_Group,
    options_metavar="",
    subcommand_metavar="[run] [OPTIONS]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="zstreamd %(version)s")
def main() -> None:
    """Run the zstream stream server; with no arguments it serves ./zstream.db.

    Every option may also be an environment variable (ZSTREAMD_QUERY_THREADS=8) or stand in the
    config file (query_threads = 8). An option wins over the environment, and that over the file.
    Stop it with SIGTERM or Ctrl-C: what was read is stored first.
    """


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    for each in reversed(all_settings()):
        kind, name = each.metadata["kind"], flag(each.name)
        switch = each.type is bool
        command = click.option(
            f"{name}/--no-{name[2:]}" if switch else name,
            each.name,
            default=None,
            type=bool if switch else str,
            metavar=None if switch else kind.metavar,
            help=f"{each.metadata['help']}  [default: {default_text(each)}]",
        )(command)
    return command


@main.command()
@click.option(
    "--config", type=click.Path(path_type=Path), envvar=PREFIX + "CONFIG", metavar="PATH",
    help="A TOML file of settings, with the names of these options and _ for -.",
)  # fmt: skip
@_with_settings
def run(config: Path | None, **flags: Any) -> None:
    """Run the daemon until it is told to stop; what `zstreamd` alone does."""
    _hold_standard_files()
    try:
        settings = load(flags, os.environ, config)
    except errors.ConfigError as error:
        write_line(f"zstreamd: {error}")
        raise SystemExit(Exit.CONFIG) from None
    hide = {settings.store: settings.store_name}
    with logging_to_stderr(settings.log_level, settings.log_format, hide):
        for warning in misspelt(os.environ):
            log.warning(warning, extra={"event": "misspelt"})
        raise SystemExit(_serve(settings))


def _serve(settings: Settings) -> Exit:
    # Late, so that --help and --version load no server.
    from zstreamd.server import Server

    try:
        server = Server(settings)
        with closing(server), _stop_on_signals(server.stop, server.stop_fd):
            server.open()
            _say_ready(settings, server)
            try:
                server.run()
            finally:
                notify("STOPPING=1")
                try:
                    server.close()
                finally:
                    _say_stopped(server)
    except Exception as error:  # The last place where it can be logged.
        code = _exit_code(error)
        if code is Exit.FORCED:
            log.critical("a defect ended zstreamd: %r", error, exc_info=True)
        else:
            message = str(error)
            if code is Exit.STORE:
                message = f"the store {settings.store_name} cannot be used: {message}"
            elif code is Exit.LOCKED:
                message += "; stop that one, or name another store with --store"
            log.error("%s", message, extra={"event": "failed", "exit": int(code)})
        return code
    return Exit.OK


def _exit_code(error: Exception) -> Exit:
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FORCED)


def _say_ready(settings: Settings, server: "Server") -> None:
    query, insert, publish = server.endpoints
    keys = list(server.head.keys)
    log.info(
        "zstreamd %s ready: query %s insert %s publish %s store %s keys %s",
        __version__, query, insert, publish, settings.store_name, ",".join(keys),
        extra={
            "event": "ready", "query": query, "insert": insert, "publish": publish,
            "store": settings.store_name, "keys": keys, "version": __version__,
            "pid": os.getpid(),
        },
    )  # fmt: skip
    notify(f"READY=1\nSTATUS=Serving {query}")


def _say_stopped(server: "Server") -> None:
    counters = server.counters
    received, stored, refused = counters.received, counters.stored, counters.refused
    lost = received - stored - refused
    log.log(
        logging.ERROR if lost else logging.INFO,
        "stopped: received %d = stored %d + refused %d%s",
        received, stored, refused, f" + not known to be stored {lost}" if lost else "",
        extra={
            "event": "stopped", "received": received, "stored": stored, "refused": refused,
            "lost": lost,
        },
    )  # fmt: skip


@contextmanager
def _stop_on_signals(stop: Callable[[], None], stop_fd: int = -1) -> Iterator[None]:
    """Call ``stop`` at the first signal that asks for it; at the second leave at once.

    Args:
        stop_fd: Gets a byte the moment a signal comes. ``handle`` runs between two bytecodes of
            the main thread only: a signal that meets it on its way into ``poll()``, or that the
            kernel gives to another thread, would not be noticed before ``poll()`` returns.
    """
    told = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(Exit.FORCED)
        told = True
        stop()

    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handle)
    before_fd = signal.set_wakeup_fd(stop_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)


def _hold_standard_files() -> None:
    """Open what of stdin, stdout and stderr the parent closed.

    The next file opened would take the free descriptor, and a log line would go into a socket.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
