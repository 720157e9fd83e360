"""What an operator does to a store in Redis: check it, change its keys.

Copies are the business of the server's own tools.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from zstream.backends import redis_link as link
from zstream.backends import redis_scripts, redis_server
from zstream.backends.redis_check import check
from zstream.backends.redis_newest import Newest
from zstream.backends.redis_open import Opening, take_store
from zstream.backends.redis_read import Reader
from zstream.backends.redis_reindex import Change
from zstream.backends.redis_times import Chunks
from zstream.backends.redis_writer import Lock
from zstream.backends.upkeep import Extract, Progress, Upkeep
from zstream.keys import check_keys

#: The work of one page is not bounded: nobody else waits.
_BUDGET = 1 << 40


class Taken(NamedTuple):
    """A store that no daemon has open.

    Attributes:
        session: Has its lock.
        opening: What it says of itself.
    """

    session: link.Session
    opening: Opening

    def run(self, script: link.Script, *args: Any) -> Any:
        """Execute a script that checks the run and the head first."""
        return self.opening.opened.ask(self.session, script, *args)


class RedisUpkeep(Upkeep):
    """The jobs of `Upkeep` that zstream can do here. None of them begins a run."""

    name: str
    _address: link.Address
    LOCK_S: ClassVar[float]
    SEAL_ROWS: ClassVar[int]
    SEAL_BYTES: ClassVar[int]
    #: How long an answer may take, in seconds.
    UPKEEP_S: ClassVar[float] = 60.0

    @contextmanager
    def _taken(self) -> Iterator[Taken]:
        """The store with its lock, for as long as a job takes."""
        session = link.Session(self._address, self.UPKEEP_S)
        try:
            life = redis_server.look(session).id
            lock = Lock(self.name)
            yield Taken(session, take_store(session, self._address, lock, life, self.LOCK_S))
            session.run(redis_scripts.UNLOCK, lock.held)
        finally:
            session.close()

    def _reader(self, taken: Taken) -> Reader:
        opening = taken.opening
        newest = Newest(
            self._address, opening.opened, opening.stored, len(opening.head.keys), self.SEAL_ROWS,
            self.SEAL_BYTES, self.UPKEEP_S,
        )  # fmt: skip
        return Reader(taken.session, opening.opened, newest.view, newest.layouts, Chunks(), _BUDGET)

    def reindex(self, keys: Sequence[str] | None, extract: Extract, progress: Progress) -> None:
        """Change the keys, or make the index anew; see the base class."""
        wanted = None if keys is None else check_keys(keys)
        with self._taken() as taken:
            head = taken.opening.head
            change = Change(
                taken.run, self._reader(taken), taken.opening.stored, head.keys if wanted is None
                or sorted(wanted) == sorted(head.keys) else wanted, extract, self.SEAL_ROWS,
            )  # fmt: skip
            change.make(head.floor, head.id, progress)

    def check(self, progress: Progress) -> list[str]:
        """Read all of the store and compare it with itself; see the base class."""
        with self._taken() as taken:
            return check(taken.session, self._address.prefix, taken.opening, progress)
