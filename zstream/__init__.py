"""zstream: a ZeroMQ stream server's client.

::

    from zstream import Client

    c = Client()
    c.insert({"kind": "friend", "user": 23, "friend": 291})
    c.flush()
    c.items(kind="friend", user=[23, 291])
"""

from zstream.client import Client
from zstream.endpoints import Endpoints
from zstream.errors import (
    BadFilter,
    BadRequest,
    BadTime,
    BufferFull,
    Busy,
    Closed,
    ConfigError,
    CursorLost,
    DecodeError,
    Error,
    EventError,
    FlushError,
    Forbidden,
    InternalError,
    Refused,
    TimedOut,
    TooLarge,
    Trimmed,
    Unavailable,
    VersionMismatch,
)
from zstream.event import Event, Page
from zstream.follower import Tail

__version__ = "0.1.0"

__all__ = [
    "BadFilter",
    "BadRequest",
    "BadTime",
    "BufferFull",
    "Busy",
    "Client",
    "Closed",
    "ConfigError",
    "CursorLost",
    "DecodeError",
    "Endpoints",
    "Error",
    "Event",
    "EventError",
    "FlushError",
    "Forbidden",
    "InternalError",
    "Page",
    "Refused",
    "Tail",
    "TimedOut",
    "TooLarge",
    "Trimmed",
    "Unavailable",
    "VersionMismatch",
]
