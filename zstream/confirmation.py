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
    run: int = 0


class Nack(NamedTuple):
    """A batch that was not taken.

    Attributes:
        n: Its number; 0 if the daemon did not say.
        epoch: The highest of the producer.
        last: The highest number that was dealt with, when all that came before the batch had been.
        code, message: Why.
        run: Of the store.
    """

    n: int
    epoch: int
    last: int
    code: str
    message: str = ""
    run: int = 0


class Ask(NamedTuple):
    """A watermark that is asked for, and what was known when it was."""

    producer: bytes
    confirmed_n: int


@dataclass(slots=True)
class Report:
    """Events that were refused for good.

    Attributes:
        count: How many.
        refusals: Those of which the reason is known.
        elements: The same ones, packed; empty bytes for one that cannot be found.
        tags: The tags of the batches that they were in.
    """

    count: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    elements: list[bytes] = field(default_factory=list)
    tags: list[object] = field(default_factory=list)

    def add(self, refusal: Refusal, elements: Sequence[bytes], tag: object) -> None:
        """Add one of the batch with these elements."""
        self.refusals.append(refusal)
        self.elements.append(elements[refusal[1]] if 0 <= refusal[1] < len(elements) else b"")
        self.tags.append(tag)
