"""What a producer hears of its batches, as values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: A refusal as ``watermark`` gives it: batch, position, code, message.
Refusal = tuple[int, int, str, str]


class Watermark(NamedTuple):
    """What the daemon keeps of a producer, as it answers ``watermark``."""

    epoch: int
    last: int
    refused: int
    refusals: Sequence[Refusal] = ()


class Ask(NamedTuple):
    """A watermark that is asked for, and what was known when it was."""

    producer: bytes
    confirmed_n: int
    broken: bool


@dataclass(slots=True)
class Report:
    """Events that were refused for good.

    Attributes:
        count: How many.
        refusals: Those of which the daemon kept the reason.
        elements: The same ones' elements; empty unless the lane keeps them.
    """

    count: int
    refusals: list[Refusal] = field(default_factory=list)
    elements: list[bytes] = field(default_factory=list)

    def add(self, refusal: Refusal, elements: Sequence[bytes] | None) -> None:
        """Add one of the batch with these elements, if they were kept."""
        self.refusals.append(refusal)
        if elements is not None and 0 <= refusal[1] < len(elements):
            self.elements.append(elements[refusal[1]])
