"""What the daemon has counted since it was started."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Events since the daemon was started; received = stored + refused.

    Attributes:
        received: Events, and things that were meant as such, that were read and dealt with.
        stored: Of them, those on disk.
        refused: Of them, those that cannot be stored.
        duplicates: Events of numbered batches that had been stored before.
        nacked: Events of numbered batches that were not taken (a gap, or fenced).
        unindexed: For each key, stored events without an index value.
        commits: Transactions.
        commit_us: How long the newest one took, in microseconds.
    """

    unindexed: list[int]
    received: int = 0
    stored: int = 0
    refused: int = 0
    duplicates: int = 0
    nacked: int = 0
    commits: int = 0
    commit_us: int = 0
