"""The one place where errors of MySQL, MariaDB and their driver become zstream's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pymysql import err
from pymysql.constants import CR, ER

from zstream.errors import BackendConflict, BackendCorrupt, BackendError, BackendUnavailable

#: What the driver raises.
DriverError = err.Error

#: The session is over: the next one may succeed.
_LOST: Final = {
    CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_COMMANDS_OUT_OF_SYNC,
    ER.SERVER_SHUTDOWN,
    1927,  # it was killed
    4031,  # it was idle for too long
    0,  # the driver's own: the socket is closed
}  # fmt: skip
_CORRUPT: Final = {
    ER.NOT_KEYFILE, ER.CRASHED_ON_USAGE, ER.CRASHED_ON_REPAIR,
    1712,  # an index is damaged
    1932,  # the table's file is gone
}  # fmt: skip
#: Statements that do not fit the tables: somebody changed them.
_CHANGED: Final = {
    ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.KEY_DOES_NOT_EXITS, ER.WRONG_VALUE_COUNT,
    ER.WRONG_VALUE_COUNT_ON_ROW, ER.NO_DEFAULT_FOR_FIELD, ER.PARSE_ERROR, ER.NON_UNIQ_ERROR,
    1471,  # it is a view now
}  # fmt: skip
_SAID: Final = {
    ER.LOCK_WAIT_TIMEOUT: "another session holds it locked",
    ER.BAD_DB_ERROR: "there is no such database: make it with CREATE DATABASE",
    ER.DISK_FULL: "the disk is full",
    ER.RECORD_FILE_FULL: "the table or the disk is full",
    ER.OPTION_PREVENTS_STATEMENT: "the server is read-only",
}


def code_of(error: BaseException | None) -> int | None:
    """The server's or driver's number of an error, or None for another kind of error."""
    if isinstance(error, err.Error) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return None


def is_lost(error: BackendError) -> bool:
    """Whether the session is gone, and not merely a statement that failed."""
    return code_of(error.__cause__) in _LOST or isinstance(error.__cause__, OSError)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn whatever the driver raises into a `BackendError`.

    Args:
        name: The store, as it may be shown.
    """
    try:
        yield
    except err.DataError:
        raise  # a value that no column can hold: the caller's defect, not the store's
    except err.Error as error:
        raise _translate(error, name) from error
    except OSError as error:
        raise BackendUnavailable(f"{name}: {error.strerror or error}") from error


def _translate(error: err.Error, name: str) -> BackendError:
    code = code_of(error)
    said = " ".join(str(arg) for arg in error.args).strip() or type(error).__name__
    if isinstance(error, err.IntegrityError) and code == ER.DUP_ENTRY:
        return BackendConflict(f"{name}: somebody else wrote to it ({said})")
    if code in _CORRUPT:
        return BackendCorrupt(f"{name}: it is damaged ({said})")
    if code in _CHANGED:
        return BackendCorrupt(f"{name}: it is not as zstream left it ({said})")
    if code in _LOST:
        return BackendUnavailable(f"{name}: the connection is lost ({said})")
    if code in _SAID:
        return BackendUnavailable(f"{name}: {_SAID[code]} ({said})")
    # No connection, no right, no memory, a shutdown, a deadlock: what is left may pass.
    return BackendUnavailable(f"{name}: {said}")
