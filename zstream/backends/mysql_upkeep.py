"""What an operator does to a MySQL store: check it, change its keys.

Copies are the business of the server's own tools.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final

from zstream.backends import mysql_link as link
from zstream.backends import mysql_schema as schema
from zstream.backends.mysql_errors import translated
from zstream.backends.mysql_reindex import Change, forget_change
from zstream.backends.upkeep import Extract, Progress, Upkeep
from zstream.errors import ConfigError
from zstream.keys import check_keys

#: Ids that one statement of a check looks at.
_SLICE: Final = 50_000


class MySQLUpkeep(Upkeep):
    """The jobs of `Upkeep` that zstream can do here. None of them begins a run."""

    name: str
    _address: link.Address
    LOCK_S: ClassVar[int]

    @contextmanager
    def _locked(self) -> Iterator[link.Session]:
        """A session with the lock, for as long as a job takes."""
        with translated(self.name):
            db = link.Session(self._address, None)
            try:
                link.check_server(db, self.name)
                link.lock(db, self.name, self.LOCK_S)
                if not schema.is_complete(db, self.name):
                    raise ConfigError(f"there is no store at {self.name}")
                yield db
                link.unlock(db)
            finally:
                db.close()

    def reindex(self, keys: Sequence[str] | None, extract: Extract, progress: Progress) -> None:
        """Change the keys, or make the index anew; see the base class."""
        wanted = None if keys is None else check_keys(keys)
        with self._locked() as db:
            present = schema.stored_keys(db, self.name)
            if wanted is None or sorted(wanted) == sorted(present):
                forget_change(db)
                progress("building the indexes anew", 0, 0)
                db.run("ALTER TABLE events FORCE")
                db.run("ALTER TABLE lists FORCE")
                return
            change = Change(db, self.name, present, wanted, extract)
            change.run(progress)

    def check(self, progress: Progress) -> list[str]:
        """Have the server check the tables, and look for what is missing; see the base class."""
        with self._locked() as db:
            wrong = []
            for table in schema.names():
                progress(f"the server checks {table}", 0, 0)
                for _, _, kind, text in db.rows(f"CHECK TABLE {table}"):
                    if kind.lower() in (b"error", b"warning"):
                        wrong.append(f"table {table}: {text.decode(errors='replace')}")
            return wrong or [*_check_rows(db, progress), *_check_lists(db)]


def _check_rows(db: link.Session, progress: Progress) -> Iterator[str]:
    last, floor = db.row("SELECT last, floor FROM head")
    for begin in range(floor, last, _SLICE):
        progress("looking at events", begin - floor, last - floor)
        end = min(begin + _SLICE, last)
        found, odd = db.row(
            "SELECT COUNT(*), COALESCE(SUM(LENGTH(body) <> size), 0) FROM events"
            f" WHERE id > {begin} AND id <= {end}"
        )
        if found < end - begin:
            yield f"{end - begin - found} of the events {begin + 1} to {end} are missing"
        if odd:
            yield f"{odd} of the events {begin + 1} to {end} have another size than is noted"
    progress("looking at events", last - floor, last - floor)
    if beyond := db.row(f"SELECT COUNT(*) FROM events WHERE id > {last}")[0]:
        yield f"{beyond} events have an id above the last one, {last}"
    if not db.row("SELECT COUNT(*) FROM runs")[0]:
        yield "no run is noted"


def _check_lists(db: link.Session) -> Iterator[str]:
    bits, floor = db.row("SELECT lists, floor FROM head")
    for (key,) in db.rows("SELECT DISTINCT k FROM lists"):
        if not bits >> key & 1:
            yield f"key {key} has lists, and head says that it has none"
    stray = db.row(
        "SELECT COUNT(*) FROM lists l LEFT JOIN events e ON e.id = l.id AND e.ts = l.ts"
        f" WHERE e.id IS NULL AND l.id > {floor}"
    )[0]
    if stray:
        yield f"{stray} rows of lists belong to no event"
