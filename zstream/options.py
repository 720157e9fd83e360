"""What a client can be told, checked once for all kinds of clients."""

import os
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from zstream.endpoints import DEFAULT_QUERY, Endpoints, derive
from zstream.errors import ConfigError
from zstream.link.telling import OnRefused
from zstream.outbox import OnFull
from zstream.packing import Default

_ON_FULL: Final = ("drop", "block", "raise")


@dataclass(frozen=True, slots=True)
class Options:
    """The checked arguments of ``Client``; see there.

    Raises:
        ConfigError: One of them cannot work.
    """

    timeout: float
    buffer_bytes: int
    on_full: OnFull
    spool: str | os.PathLike[str] | None
    default: Default | None
    tz: tzinfo | None
    on_refused: OnRefused | None

    def __post_init__(self) -> None:
        if self.spool is not None:
            raise ConfigError("this version of zstream has no spool yet; leave out spool=")
        if self.on_full not in _ON_FULL:
            raise ConfigError(f"on_full is one of {', '.join(_ON_FULL)}, not {self.on_full!r}")
        if type(self.buffer_bytes) is not int or self.buffer_bytes < 1:
            raise ConfigError(f"buffer_bytes is a number of bytes, not {self.buffer_bytes!r}")
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < 1e9:
            raise ConfigError(f"timeout is a number of seconds above 0, not {self.timeout!r}")
        for name in ("default", "on_refused"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ConfigError(f"{name} is a function, not {getattr(self, name)!r}")
        if self.tz is not None and not isinstance(self.tz, tzinfo):
            raise ConfigError(f"tz is a zone such as zoneinfo.ZoneInfo('UTC'), not {self.tz!r}")


def find_endpoints(url: str | Endpoints | None) -> Endpoints:
    """The endpoints of a client: those given, of ``$ZSTREAM_URL``, or the default ones.

    Raises:
        ConfigError: They are none to connect to.
    """
    if url is None:
        url = os.environ.get("ZSTREAM_URL") or DEFAULT_QUERY
    return derive(*url) if isinstance(url, tuple) else derive(url)
