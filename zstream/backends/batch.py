"""What one transaction of the writer brings to a store: events, producers, registered filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zstream.keys import Value


class Producer(NamedTuple):
    """What the store keeps of a producer of numbered batches.

    Attributes:
        id: 16 bytes.
        epoch: The highest epoch seen.
        last: The last batch number that was dealt with.
        refused: How many of its events were refused for good, ever.
        refusals: The newest refusals, packed; opaque to the store.
        seen: When it was last heard of, in microseconds since 1970 UTC.
    """

    id: bytes
    epoch: int
    last: int
    refused: int
    refusals: bytes
    seen: int


class Registration(NamedTuple):
    """A filter that is followed by its name, because it is too long for a topic.

    Attributes:
        name: 16 bytes, made from the text; see `zstream.topics`.
        text: The filter in its canonical form.
        seen: When it was last registered or followed, in microseconds since 1970 UTC.
    """

    name: bytes
    text: str
    seen: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction appends: columns of equal length, and what else it writes.

    It may hold no event at all, to move producers only.

    Attributes:
        first: The id of the first event; the others follow without a gap.
        ts: The events' times.
        bodies: The events, packed; opaque to the store.
        columns: For each key, in the store's order, each event's index value; a list is a
            tuple of two or more distinct texts.
        arrival: When the batch arrived, in microseconds since 1970 UTC; never runs backwards.
        producers: Their new rows, written in the same transaction.
        filters: New rows of registered filters.
        forgotten_producers, forgotten_filters: Ids and names whose rows go; they may not be there.
            None of them is written by the same batch.
    """

    first: int
    ts: Sequence[int]
    bodies: Sequence[bytes]
    columns: Sequence[Sequence[Value]]
    arrival: int
    producers: Sequence[Producer] = ()
    filters: Sequence[Registration] = ()
    forgotten_producers: Sequence[bytes] = ()
    forgotten_filters: Sequence[bytes] = ()

    @property
    def registers(self) -> bool:
        """Whether it writes or forgets more than events and producers, which few batches do."""
        return bool(self.filters or self.forgotten_producers or self.forgotten_filters)


def check_batch(batch: Batch, keys: int) -> None:
    """Refuse a batch whose columns do not fit each other.

    Args:
        batch: What is to be appended.
        keys: How many keys the store has.

    Raises:
        ValueError: Their number or their lengths differ.
    """
    columns = (batch.bodies, *batch.columns)
    if len(batch.columns) != keys or any(len(column) != len(batch.ts) for column in columns):
        raise ValueError(f"a batch of {len(batch.ts)} events needs {keys} columns of that length")
