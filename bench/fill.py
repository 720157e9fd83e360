"""What does a store of ten million events weigh: resident memory of the daemon, bytes on disk?

With ``--folder`` the store stays there for the scripts that ask it.
"""

from common import arguments, report
from filling import filled


def main() -> None:
    options = arguments(__doc__, events=(10_000_000, 20_000), body=0, late=0)
    with filled(
        options.folder, options.events, body_bytes=options.body, late=bool(options.late)
    ) as (_, figures):
        report("fill", **figures)


if __name__ == "__main__":
    main()
