"""The group of commands, the options that are settings, and the command that serves."""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from zstream import __version__, errors
from zstreamd.cli.exits import Exit
from zstreamd.cli.serve import hold_standard_files, serve
from zstreamd.logs import logging_to_stderr, write_line
from zstreamd.settings import (
    PREFIX,
    all_settings,
    default_text,
    flag,
    load,
    misspelt,
)

log = logging.getLogger("zstreamd.cli")


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
                f"{cmd_name!r} is no command; there are {', '.join(self.list_commands(ctx))}, of"
                " which 'run' need not be said, and options begin with --, as in: zstreamd"
                " --store sqlite:///events.db"
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


def with_settings(
    command: Callable[..., None], names: Iterable[str] | None = None
) -> Callable[..., None]:
    """Give a command the options of settings: of all, or of those with these names."""
    chosen = None if names is None else set(names)
    for each in reversed(all_settings()):
        if chosen is not None and each.name not in chosen:
            continue
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


def config_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``--config``."""
    return click.option(
        "--config", type=click.Path(path_type=Path), envvar=PREFIX + "CONFIG", metavar="PATH",
        help="A TOML file of settings, with the names of these options and _ for -.",
    )(command)  # fmt: skip


@main.command()
@config_option
@with_settings
def run(config: Path | None, **flags: Any) -> None:
    """Run the daemon until it is told to stop; what `zstreamd` alone does."""
    hold_standard_files()
    try:
        settings = load(flags, os.environ, config)
    except errors.ConfigError as error:
        write_line(f"zstreamd: {error}")
        raise SystemExit(Exit.CONFIG) from None
    hide = {settings.store: settings.store_name}
    with logging_to_stderr(settings.log_level, settings.log_format, hide):
        for warning in misspelt(os.environ):
            log.warning(warning, extra={"event": "misspelt"})
        raise SystemExit(serve(settings))
