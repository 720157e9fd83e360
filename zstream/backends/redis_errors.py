"""The one place where errors of Redis and its driver become zstream's."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis

from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable

#: How a script says that the store is not the one that was opened: see `Moved`.
MOVED: Final = re.compile(r"ZSTREAM (\S+) (\S+) (\S+) (\S+)")
#: What Redis begins an error with that passes, alone or behind what its Lua makes of it.
_PASSES: Final = re.compile(
    r"\b(OOM|READONLY|MISCONF|LOADING|BUSY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|UNKILLABLE)\b"
)
#: How a server says that its operator forbade a command, or ended a script.
_FORBIDDEN: Final = re.compile(
    r"NOPERM|ACL failure|can't run this command|permissions? to|Script killed", re.IGNORECASE
)
_SAID: Final = {
    "OOM": "the server has no memory left: raise its maxmemory, or keep less",
    "READONLY": "the server is a replica or read-only",
    "MISCONF": "the server cannot write to its disk",
    "LOADING": "the server is starting",
    "BUSY": "the server is busy with somebody's script",
}


class Moved(Exception):
    """A script found another run, or less than there was, and did nothing.

    Attributes:
        run, last: What the store has; None if it has none.
        acts: How much was done to it; see `redis_scripts`.
        word: The last word of its lock, or "-".
    """

    def __init__(self, run: str, last: str, acts: str, word: str) -> None:
        super().__init__(f"the store has the run {run} and the last id {last}")
        self.run = None if run == "-" else int(run)
        self.last = None if last == "-" else int(last)
        self.acts, self.word = int(acts), word


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn whatever the driver raises into a `BackendError`.

    Args:
        name: The store, as it may be shown.
    """
    try:
        yield
    except redis.RedisError as error:
        raise _translate(error, name) from error
    except OSError as error:
        raise BackendUnavailable(f"{name}: {error}") from error


def is_refusal(error: BackendError) -> bool:
    """Whether the server has answered, and declined."""
    return isinstance(error.__cause__, redis.ResponseError)


def is_hang_up(error: BackendError) -> bool:
    """Whether the other end has closed the connection, and was not merely slow."""
    return isinstance(error.__cause__, redis.ConnectionError | OSError)


def _translate(error: redis.RedisError, name: str) -> BackendError | Moved:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, redis.ResponseError):
        if moved := MOVED.search(said):
            return Moved(*moved.groups())
        passes = _PASSES.search(said)
        kind = passes[1] if passes else _KINDS.get(type(error), "")
        if kind:
            return BackendUnavailable(f"{name}: {_SAID.get(kind, said)}")
        if _FORBIDDEN.search(said):
            return BackendUnavailable(f"{name}: the user lacks a right that zstream needs ({said})")
        if "WRONGTYPE" in said or "user_script" in said:
            return BackendCorrupt(f"{name}: it is not as zstream left it ({said})")
    # No connection, no right, no answer in time: what is left may pass.
    return BackendUnavailable(f"{name}: {said}")


#: The driver takes the code off the text of some.
_KINDS: Final[dict[type, str]] = {
    redis.ReadOnlyError: "READONLY",
    redis.OutOfMemoryError: "OOM",
}
