"""What an operator does to a store that no daemon has open: reindex, check, back up, restore.

A store that is kept by a server of its own leaves most of it to that server's tools, and says so.
"""

from collections.abc import Callable, Sequence
from typing import NoReturn

from zstream.errors import ConfigError
from zstream.keys import Value

#: Is told now and then how far a long job is: what it does, how much is done, of how much. What
#: it raises ends the job, which can be begun again and goes on from about there.
Progress = Callable[[str, int, int], None]

#: From events, packed, to the index values of some keys: for each key a column.
Extract = Callable[[Sequence[bytes], Sequence[str]], Sequence[Sequence[Value]]]


class Upkeep:
    """The jobs; a backend overrides those that it offers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def reindex(self, keys: Sequence[str] | None, extract: Extract, progress: Progress) -> None:
        """Change the keys of a store, or make its index anew from its rows.

        Nothing of it is seen before it is complete: a daemon that opens the store after an
        interruption finds the old keys, and another call goes on where this one ended.

        Args:
            keys: The keys that the store is to have; None keeps them and rebuilds the index.
            extract: Index values of the stored events.
            progress: See `Progress`.

        Raises:
            StoreLocked: A daemon has it open.
            ConfigError: There is no such store.
            BackendUnavailable, BackendCorrupt: As everywhere.
        """
        self._decline("reindex")

    def check(self, progress: Progress) -> list[str]:
        """Read all of a store and compare it with itself and its index.

        Returns:
            What is wrong, a sentence each; empty if nothing is.
        """
        self._decline("check")

    def backup(self, path: str, progress: Progress) -> int:
        """Copy the store as it is at one moment; a daemon may be writing to it meanwhile.

        Args:
            path: A file that does not exist yet.

        Returns:
            The last id in the copy.

        Raises:
            ConfigError: Something is there already.
        """
        self._decline("back up")

    def restore(self, path: str, progress: Progress) -> int:
        """Put a copy made by ``backup`` in the place of the store; return its last id.

        What was there before stays beside it under another name, which is told by ``progress``.

        Raises:
            StoreLocked: A daemon has the store open.
            BackendCorrupt: The copy is not a whole store of zstream.
        """
        self._decline("restore")

    def _decline(self, what: str) -> NoReturn:
        scheme = self.url.partition(":")[0]
        raise ConfigError(f"zstreamd cannot {what} a store of {scheme}: use its own tools")
