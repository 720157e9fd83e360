"""The command ``zstreamd``: the daemon, and what is done to a store that it does not serve."""

from zstreamd.cli.app import main
from zstreamd.cli.exits import Exit
from zstreamd.cli.upkeep import backup, check, reindex, restore

__all__ = ["Exit", "main"]

for _command in (reindex, check, backup, restore):
    main.add_command(_command)
