"""The command ``zstream``: the client on the command line."""

from zstream.cli import app, exits, export, live, query, shell, transfer, trim

COMMANDS = (
    query.ping, query.info, transfer.insert, query.items, query.count, live.tail,
    transfer.import_, export.export, trim.trim, shell.shell,
)  # fmt: skip

for _command in COMMANDS:
    app.cli.add_command(_command)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    exits.prepare_process()
    app.cli(prog_name="zstream")
