"""How the process ended: exit codes, and which error stands for which."""

from enum import IntEnum

from zstream import errors


class Exit(IntEnum):
    """How the process ended."""

    OK = 0
    #: By a second signal, or by a defect.
    FORCED = 1
    #: The settings cannot work.
    CONFIG = 2
    #: The store cannot be reached, is damaged, or was lost while serving.
    STORE = 3
    #: Another daemon has the store open.
    LOCKED = 4
    #: Somebody else listens on an endpoint.
    PORT = 5
    #: The store has other keys than asked for, or a newer schema.
    MISMATCH = 6


_EXITS: tuple[tuple[type[errors.Error], Exit], ...] = (
    (errors.EndpointTaken, Exit.PORT),
    (errors.ConfigError, Exit.CONFIG),
    (errors.StoreLocked, Exit.LOCKED),
    (errors.StoreMismatch, Exit.MISMATCH),
    (errors.BackendError, Exit.STORE),
)


def exit_code(error: Exception) -> Exit:
    """The exit code that an error stands for."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FORCED)


def explain(error: Exception, code: Exit, store: str) -> str:
    """What to tell an operator of an error.

    Args:
        error, code: As `exit_code` has them.
        store: The store's name.
    """
    message = str(error)
    if code is Exit.STORE:
        return f"the store {store} cannot be used: {message}"
    if code is Exit.LOCKED:
        return f"{message}; stop that one, or name another store with --store"
    return message
