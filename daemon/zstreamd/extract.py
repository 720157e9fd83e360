"""Index values of events that are stored already, by the rules by which they were admitted."""

from collections.abc import Sequence
from typing import Final

from zstream.keys import Value
from zstream.limits import MAX_INTEGER
from zstreamd.validate import Validator

#: Events that are read at once.
_CHUNK: Final = 500


def extract(bodies: Sequence[bytes], keys: Sequence[str]) -> list[list[Value]]:
    """Find the values of keys in events.

    Args:
        bodies: The events, packed, as a store has them.
        keys: Any keys.

    Returns:
        For each key a column with a value an event; None where it has none.
    """
    validator = Validator(keys)
    columns: list[list[Value]] = [[] for _ in keys]
    for start in range(0, len(bodies), _CHUNK):
        admitted = validator.admit(bodies[start : start + _CHUNK], MAX_INTEGER)
        for column, found in zip(columns, admitted.columns, strict=True):
            # An event that an older version took and this one would not has no value.
            values = iter(found)
            column += [next(values) if accepted else None for accepted in admitted.accepted]
    return columns
