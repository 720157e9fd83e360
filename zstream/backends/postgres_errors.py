"""The one place where errors of PostgreSQL and its driver become zstream's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import errors as pg

from zstream.errors import BackendConflict, BackendCorrupt, BackendError, BackendUnavailable

_UNAVAILABLE: Final = (
    # OperationalError is most of it: no connection, no disk, no memory, shutdown, a lock.
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.InsufficientPrivilege,
    pg.ReadOnlySqlTransaction,
    pg.InternalError_,
)
_CORRUPT: Final = (pg.DataCorrupted, pg.IndexCorrupted)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn whatever the driver raises into a `BackendError`.

    Args:
        name: The store, as it may be shown.
    """
    try:
        yield
    except psycopg.DataError:
        raise  # a value that PostgreSQL cannot hold: the caller's defect, not the store's
    except psycopg.Error as error:
        raise _translate(error, name) from error


def _translate(error: psycopg.Error, name: str) -> BackendError:
    said = " ".join(str(error).split())
    if isinstance(error, _CORRUPT):
        return BackendCorrupt(f"{name}: it is damaged ({said})")
    if isinstance(error, pg.LockNotAvailable):
        return BackendUnavailable(f"{name}: another session holds it locked ({said})")
    if isinstance(error, _UNAVAILABLE):
        return BackendUnavailable(f"{name}: {said}")
    if isinstance(error, psycopg.IntegrityError):
        return BackendConflict(f"{name}: somebody else wrote to it ({said})")
    # What is left are statements that do not fit the tables: somebody changed the schema.
    return BackendCorrupt(f"{name}: it is not as zstream left it ({said})")
