"""Copies of a SQLite store: taken while a daemon writes to it, and put back in its place.

A copy is one file of rows, which opens as a store; the index beside it is derived, and made anew
where it is missing. Rows are never changed once they are there, so they are copied a slice at a
time, each in a read transaction of its own: one that lasted as long as the copy would keep the
write-ahead log from being begun anew, and it would grow all the while.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from zstream.backends import sqlite_file, sqlite_index, sqlite_schema
from zstream.backends.sqlite_check import check_rows, interruptible
from zstream.backends.upkeep import Progress
from zstream.errors import BackendConflict, BackendCorrupt, BackendUnavailable, ConfigError

#: Tables that are copied whole, together with the head that the copy has; as far as they are there.
_WHOLE: Final = ("meta", "head", "runs", "producers", "marks", "filters")
#: How long the copying of one slice may take, in seconds, its rows at the most, and the first's.
_SLICE_S: Final = 0.1
_SLICE_ROWS: Final = 200_000
_FIRST_ROWS: Final = 1_000
#: Pages that are copied between two looks at whether to go on.
_PAGES: Final = 8_192


# ---------------------------------------------------------------- backup


def backup(path: str, copy: str, busy_s: float, progress: Progress) -> int:
    """Copy the rows of a store to a new file; see `Upkeep.backup`."""
    if os.path.lexists(copy):
        raise ConfigError(f"{copy} is there already: name a file that is not")
    partial = f"{copy}-partial"
    with _temporary(partial):
        with closing(sqlite_file.connect(partial, "rwc", busy_s)) as db, interruptible(db):
            last = _fill(db, path, progress)
        _sync(partial)
        try:
            os.link(partial, copy)  # unlike a renaming it never replaces what is there
        except FileExistsError:
            raise ConfigError(f"{copy} is there already: name a file that is not") from None
        except OSError:  # a file system without hard links
            os.rename(partial, copy)
    _sync(os.path.dirname(os.path.abspath(copy)))
    return last


def _fill(db: sqlite3.Connection, path: str, progress: Progress) -> int:
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -16384")
    db.execute("ATTACH ? AS live", (sqlite_file.uri(path, "rw"),))
    version, application = (
        db.execute(f"PRAGMA live.{name}").fetchone()[0]
        for name in ("user_version", "application_id")
    )
    if application != sqlite_schema.APPLICATION_ID:
        raise BackendCorrupt(f"{path} is an SQLite database, but not a store of zstream")
    if version != sqlite_schema.SCHEMA:
        raise ConfigError(
            f"{path} has schema {version}, and only {sqlite_schema.SCHEMA} can be backed up: let"
            " this version of zstreamd open it once"
        )
    schema = _schema(db)
    db.execute("BEGIN")
    for name, statement in _statements(db):
        db.execute(statement)
        if name in _WHOLE:
            db.execute(f"INSERT INTO main.{name} SELECT * FROM live.{name}")
    db.execute("DELETE FROM main.meta WHERE name = 'reindex'")
    last, floor = db.execute("SELECT last, floor FROM main.head").fetchone()
    db.execute("COMMIT")
    _fill_rows(db, last, floor, path, progress, schema)
    _finish(db, last, path)
    db.execute(f"PRAGMA main.application_id = {application}")
    db.execute(f"PRAGMA main.user_version = {version}")
    return int(last)


def _statements(db: sqlite3.Connection) -> list[tuple[str, str]]:
    names = ",".join(f"'{name}'" for name in (*_WHOLE, "events", "stream"))
    return db.execute(
        f"SELECT name, sql FROM live.sqlite_master WHERE name IN ({names}) ORDER BY type"
    ).fetchall()


def _schema(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA live.schema_version").fetchone()[0])


def _fill_rows(
    db: sqlite3.Connection, last: int, floor: int, path: str, progress: Progress, schema: int
) -> None:
    done, rows = floor, _FIRST_ROWS
    while done < last:
        progress("copying events", done - floor, last - floor)
        began = time.monotonic()
        upto = min(done + rows, last)
        db.execute("BEGIN")
        db.execute(
            "INSERT INTO main.events SELECT * FROM live.events WHERE id BETWEEN ? AND ?",
            (done + 1, upto),
        )
        if _schema(db) != schema:
            raise BackendConflict(f"{path}: its keys were changed meanwhile")
        db.execute("COMMIT")
        done = upto
        share = _SLICE_S / max(time.monotonic() - began, 1e-4)
        rows = max(1, min(int(rows * min(share, 4.0)), _SLICE_ROWS))
    progress("copying events", last - floor, last - floor)


def _finish(db: sqlite3.Connection, last: int, path: str) -> None:
    """Leave out what was trimmed meanwhile, and see that nothing else is missing."""
    (floor,) = db.execute("SELECT min(floor, ?) FROM live.head", (last,)).fetchone()
    db.execute("BEGIN")
    db.execute("UPDATE main.head SET floor = ?", (floor,))
    db.execute("DELETE FROM main.events WHERE id <= ?", (floor,))
    db.execute("COMMIT")
    (count,) = db.execute("SELECT count(*) FROM main.events").fetchone()
    if count != last - floor:
        raise BackendCorrupt(
            f"{path} should have {last - floor} events above {floor}, but {count} were found"
        )


# ---------------------------------------------------------------- restore


def restore(path: str, copy: str, busy_s: float, progress: Progress) -> int:
    """Put a copy in the place of a store that is locked; see `Upkeep.restore`."""
    if not os.path.isfile(copy):
        raise ConfigError(f"there is no file {copy}")
    real = os.path.realpath(path)
    if os.path.realpath(copy) == real:
        raise ConfigError(f"{copy} is the store itself")
    sqlite_schema.check_file(copy)
    fresh = f"{real}-restoring"
    with _temporary(fresh):
        last = _take_over(fresh, copy, busy_s, progress)
        if os.path.exists(real):
            give_owner(fresh, real)
        _sync(fresh)
        old = _aside(real)
        # The index goes first: a store without one is whole, and one with another's is not.
        sqlite_index.remove(path)
        if old is not None and os.path.lexists(real):
            _set_aside(real, old, busy_s, progress)
        _sync(os.path.dirname(real))
        os.rename(fresh, real)
    _sync(os.path.dirname(real))
    return last


def _take_over(fresh: str, copy: str, busy_s: float, progress: Progress) -> int:
    """Copy the copy, with what may stand in a log beside it, and check it."""
    with (
        closing(sqlite_file.connect(copy, "rw", busy_s)) as source,
        closing(sqlite_file.connect(fresh, "rwc", busy_s)) as db,
    ):
        sqlite_schema.check_schema(source, copy)
        source.backup(
            db, pages=_PAGES,
            progress=lambda _, left, total: progress("copying pages", total - left, total),
        )  # fmt: skip
        db.execute("PRAGMA journal_mode = DELETE")
        with interruptible(db):
            wrong = check_rows(db, progress)
        if wrong:
            raise BackendCorrupt(f"{copy} is not a whole store: {'; '.join(wrong[:3])}")
        return int(db.execute("SELECT last FROM head").fetchone()[0])


def _aside(real: str) -> str | None:
    """A name for what is there now, which nothing has; None if nothing is there."""
    if not os.path.lexists(real):
        return None
    name = f"{real}-replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    taken, number = name, 1
    while os.path.lexists(taken):
        number += 1
        taken = f"{name}-{number}"
    return taken


def _set_aside(real: str, old: str, busy_s: float, progress: Progress) -> None:
    """Give the present store another name too, so that one renaming is all that is left to do."""
    if _settle(real, busy_s):
        try:
            os.link(real, old)
        except OSError:  # a file system without hard links: for a moment nothing is there
            os.rename(real, old)
    else:
        # It is damaged, and its log belongs to it as it is.
        os.rename(real, old)
        for suffix in ("-wal", "-journal"):
            with suppress(FileNotFoundError):
                os.rename(real + suffix, old + suffix)
        with suppress(FileNotFoundError):
            os.unlink(f"{real}-shm")
    progress(f"the store that was there is now {old}", 0, 0)


def _settle(real: str, busy_s: float) -> bool:
    """Write a store's log back and remove it, so that one file is all of it; False if it cannot."""
    try:
        sqlite_schema.check_file(real)
        with closing(sqlite_file.connect(real, "rw", busy_s)) as db:
            mode = db.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    except BackendCorrupt:
        return False
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in sqlite_file.DAMAGED:
            return False
        raise
    if mode != "delete":
        raise BackendUnavailable(f"{real}: another program has it open")
    return True


# ---------------------------------------------------------------- files


def give_owner(path: str, like: str) -> None:
    """Give a file the owner and the mode of another: root works for a daemon that is not."""
    model = os.stat(like)
    if os.geteuid() == 0:
        os.chown(path, model.st_uid, model.st_gid)
    os.chmod(path, stat.S_IMODE(model.st_mode))


@contextmanager
def _temporary(path: str) -> Iterator[None]:
    """A file that is gone afterwards, unless it was given its name; and what was left of one."""

    def remove() -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(path + suffix).unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
