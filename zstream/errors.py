"""Every error that zstream raises.

::

    Error
    ├── BadRequest          bad_request   a request that the daemon cannot read
    │   └── BadTime                       a date, an age or a time range
    ├── EventError          bad_event     an event that cannot be stored
    ├── BadFilter           bad_filter    a filter that is none, or a key that is not indexed
    ├── TooLarge            too_large     over one of the limits
    ├── Forbidden           forbidden
    ├── CursorLost          cursor_lost   a cursor or token of another store or another life of it
    ├── Trimmed             trimmed       older than what the store keeps
    ├── Busy                busy          too much at once; retry
    ├── TimedOut            timeout       no answer in time: the outcome is unknown
    ├── Unavailable         unavailable   nobody there, or the store is down; retry
    ├── InternalError       internal      a defect of the daemon; its log says more
    ├── VersionMismatch     version       the two ends speak different protocols
    ├── BufferFull                        the client's buffer, with ``on_full="raise"``
    ├── FlushError                        not everything is on disk
    ├── Refused                           the daemon refused events for good
    ├── Closed                            the client or the tail is closed
    ├── DecodeError                       bytes that break the protocol
    ├── ConfigError                       settings that cannot work
    │   └── EndpointTaken                 somebody else listens there
    └── BackendError
        ├── BackendUnavailable            transient: retry
        ├── BackendConflict               another writer was here: stop
        ├── BackendCorrupt                the store is damaged: stop
        ├── StoreRewound                  it lost what it had while it was open: open it anew
        ├── StoreLocked                   another daemon has it open
        └── StoreMismatch                 other keys, or a newer schema
"""

from typing import ClassVar


class Error(Exception):
    """Base of everything that zstream raises on purpose."""

    #: The wire code, or ``""`` for an error that never crosses the wire.
    code: ClassVar[str] = ""


class BadRequest(Error, ValueError):
    """The request is not one that the daemon understands."""

    code = "bad_request"


class BadTime(BadRequest):
    """A date, an age or a time range that cannot be used."""


class EventError(Error, ValueError):
    """The event cannot be stored; the message names the place in it."""

    code = "bad_event"


class BadFilter(Error, ValueError):
    """The filter is not one, or names a key that is not indexed."""

    code = "bad_filter"


class TooLarge(Error, ValueError):
    """Over one of the limits in ``zstream.limits``."""

    code = "too_large"


class Forbidden(Error):
    """Not allowed."""

    code = "forbidden"


class CursorLost(Error):
    """The cursor or page token does not belong to this life of the store."""

    code = "cursor_lost"


class Trimmed(Error):
    """The cursor is older than what the store keeps."""

    code = "trimmed"


class _Retryable(Error):
    #: When to try again, in seconds.
    retry_s: float

    def __init__(self, message: str = "", *, retry_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Busy(_Retryable):
    """The daemon has too much to do; try again after ``retry_s`` seconds."""

    code = "busy"


class TimedOut(Error, TimeoutError):
    """No answer in time. What was asked for may or may not have happened."""

    code = "timeout"


class Unavailable(_Retryable, ConnectionError):
    """No daemon is there, or its store is down; try again after ``retry_s`` seconds."""

    code = "unavailable"


class InternalError(Error):
    """A defect in the daemon. Its log has the details."""

    code = "internal"


class VersionMismatch(Error):
    """The other end speaks another version of the protocol."""

    code = "version"


class BufferFull(Error):
    """The client's buffer is full and ``on_full="raise"`` was asked for."""


class FlushError(Error):
    """Not everything that was inserted is known to be on disk.

    Attributes:
        pending: How many events are not confirmed.
    """

    def __init__(self, message: str, *, pending: int) -> None:
        super().__init__(message)
        self.pending = pending


class Refused(Error):
    """The daemon refused events for good.

    Attributes:
        refusals: What was refused, ``(batch, position, code, message)`` each, as far as the
            daemon kept it.
        count: How many events were refused.
    """

    def __init__(
        self, message: str, *, count: int, refusals: tuple[tuple[int, int, str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.count = count
        self.refusals = refusals


class Closed(Error):
    """The client or the tail was closed."""


class DecodeError(Error, ValueError):
    """The peer sent bytes that break the protocol."""


class ConfigError(Error):
    """The settings cannot work."""


class EndpointTaken(ConfigError):
    """Somebody else listens on the endpoint."""


class BackendError(Error):
    """The store failed."""


class BackendUnavailable(BackendError):
    """The store cannot be reached or written just now; what was asked may have happened."""


class BackendConflict(BackendError):
    """Somebody else wrote to the store: stop."""


class BackendCorrupt(BackendError):
    """The store is damaged: stop."""


class StoreRewound(BackendError):
    """The store went back to an earlier state, or was emptied, while it was open.

    Ids that it lost will be given again, so a new run must begin: close the store and open it.
    """


class StoreLocked(BackendError):
    """Another daemon has the store open."""


class StoreMismatch(BackendError):
    """The store has other keys than asked for, or a schema that this version cannot read."""


#: One exception class a wire code.
BY_CODE: dict[str, type[Error]] = {
    cls.code: cls
    for cls in (
        BadRequest, EventError, BadFilter, TooLarge, Forbidden, CursorLost, Trimmed,
        Busy, TimedOut, Unavailable, InternalError, VersionMismatch,
    )
}  # fmt: skip


def from_wire(code: str, message: str, retry_ms: int | None = None) -> Error:
    """Make the exception that a daemon's error reply stands for.

    Args:
        code: The reply's error code; an unknown one gives :class:`InternalError`.
        message: The reply's text.
        retry_ms: When to try again, in milliseconds, if the reply says so.
    """
    cls = BY_CODE.get(code, InternalError)
    if issubclass(cls, _Retryable):
        return cls(message, retry_s=1.0 if retry_ms is None else retry_ms / 1000)
    return cls(message if code in BY_CODE else f"{code}: {message}")
