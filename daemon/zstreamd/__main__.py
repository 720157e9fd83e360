"""``python -m zstreamd`` is the command ``zstreamd``."""

from zstreamd.cli import main

main(prog_name="zstreamd")
