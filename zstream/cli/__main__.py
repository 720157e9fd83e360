"""``python -m zstream.cli``, where the script ``zstream`` is not installed."""

from zstream.cli import main

main()
