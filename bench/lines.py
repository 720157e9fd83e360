"""What the scripts printed: lines of JSON, and what a figure is that they are to reach."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Results:
    """What the scripts printed in the last run of each.

    Args:
        folder: Holds a file of JSON lines for each stage.
    """

    def __init__(self, folder: Path) -> None:
        self._lines = {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(folder.glob("*.jsonl"))
        }
        path = folder / "machine.json"
        self.machine: Line = json.loads(path.read_text()) if path.exists() else {}

    def all(self, stage: str, **wanted: Any) -> list[Line]:
        """The lines of a stage whose fields have these values."""
        return [
            line
            for line in self._lines.get(stage, [])
            if all(line.get(name) == value for name, value in wanted.items())
        ]

    def one(self, stage: str, **wanted: Any) -> Line:
        """The first such line.

        Raises:
            LookupError: There is none: it was not measured.
        """
        for line in self.all(stage, **wanted):
            return line
        raise LookupError(f"{stage}: {wanted}")

    def failures(self) -> Iterator[str]:
        """The stages that did not end well, and how they ended."""
        for stage, lines in self._lines.items():
            for line in lines:
                if "failed" in line:
                    yield f"{stage}: {line['failed']}"


class Figure(NamedTuple):
    """One of the figures: in words, whether it is met, and the command that measured it."""

    measured: str
    met: bool
    command: str


def ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}"


def millions(line: Line) -> str:
    return f"{line['events'] / 1e6:g} M"
