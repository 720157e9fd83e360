"""What an operator does to a store in PostgreSQL that no daemon has open."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from zstream.backends import postgres_link as link
from zstream.backends import postgres_parts as parts
from zstream.backends import postgres_schema as schema
from zstream.backends.base import Backend
from zstream.backends.postgres_check import check
from zstream.backends.postgres_errors import translated
from zstream.backends.postgres_reindex import beside, change_keys
from zstream.backends.upkeep import Extract, Progress, Upkeep
from zstream.errors import ConfigError, StoreLocked
from zstream.keys import check_keys


class PostgresAdmin(Upkeep):
    """The jobs that PostgreSQL's own tools do not do."""

    #: How long an append, or what a page reads, waits for another session's locks, in seconds.
    LOCK_TIMEOUT_S: ClassVar[float] = 5.0
    #: How long to wait for the lock of a daemon that has just died, in seconds.
    OPEN_TIMEOUT_S: ClassVar[float] = 1.0

    name: str

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        self._address = link.address_of(url)
        self.name = self._address.name

    @contextmanager
    def _alone(self) -> Iterator[tuple[link.Connection, tuple[str, ...]]]:
        """A connection to a store that exists and that no daemon has open, and its keys."""
        with translated(self.name):
            db = link.connect(self._address, self.LOCK_TIMEOUT_S)
            try:
                if not link.lock(db, self._address, self.OPEN_TIMEOUT_S):
                    raise StoreLocked(f"{self.name} is open in a daemon")
                if schema.is_new(db, self._address):
                    raise ConfigError(f"there is no store at {self.name}")
                yield db, schema.check_schema(db, self._address)
            finally:
                db.close()

    def check(self, progress: Progress) -> list[str]:
        """Compare the rows with what is noted of them and with their indexes; see the base."""
        with self._alone() as (db, keys):
            return check(db, len(keys), progress)

    def reindex(self, keys: Sequence[str] | None, extract: Extract, progress: Progress) -> None:
        """Change the keys, or make the indexes of all sealed partitions anew; see the base."""
        wanted = None if keys is None else check_keys(keys)
        with self._alone() as (db, stored):
            if wanted is not None and sorted(wanted) != sorted(stored):
                change_keys(db, self._address, self._beside, wanted, extract, progress)
                return
            db.execute(parts.SETTINGS)
            sealed = parts.load(db)[1]
            for number, each in enumerate(sealed):
                progress("indexing partitions", number, len(sealed))
                part = parts.Part(each.run.first, each.run.last)
                parts.rebuild(db, part, len(stored))
            progress("indexing partitions", len(sealed), len(sealed))

    def _beside(self) -> Backend:
        made = type(self)(self.url)
        made._address = beside(self._address)
        assert isinstance(made, Backend)
        return made
