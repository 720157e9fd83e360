"""What a client can be told, checked once for all kinds of clients."""

import os
from dataclasses import dataclass
from datetime import tzinfo
from inspect import iscoroutinefunction
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
    spool_sync: float
    spool_bytes: int
    default: Default | None
    tz: tzinfo | None
    on_refused: OnRefused | None

    def __post_init__(self) -> None:
        if self.on_full not in _ON_FULL:
            raise ConfigError(f"on_full is one of {', '.join(_ON_FULL)}, not {self.on_full!r}")
        for name in ("buffer_bytes", "spool_bytes"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ConfigError(f"{name} is a number of bytes, not {size!r}")
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < 1e9:
            raise ConfigError(f"timeout is a number of seconds above 0, not {self.timeout!r}")
        if not isinstance(self.spool_sync, int | float) or not 0 <= self.spool_sync <= 60:
            raise ConfigError(
                f"spool_sync is a number of seconds from 0 to 60, not {self.spool_sync!r}"
            )
        for name in ("default", "on_refused"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise ConfigError(f"{name} is a function, not {function!r}")
            if iscoroutinefunction(function):  # called from a thread, it would never run
                raise ConfigError(f"{name} is a plain function, not an async one")
        if self.tz is not None and not isinstance(self.tz, tzinfo):
            raise ConfigError(f"tz is a zone such as zoneinfo.ZoneInfo('UTC'), not {self.tz!r}")
        if self.spool is not None:
            object.__setattr__(self, "spool", _prepare_folder(self.spool))


def find_endpoints(url: str | Endpoints | None) -> Endpoints:
    """The endpoints of a client: those given, of ``$ZSTREAM_URL``, or the default ones.

    Raises:
        ConfigError: They are none to connect to.
    """
    if url is None:
        url = os.environ.get("ZSTREAM_URL") or DEFAULT_QUERY
    return derive(*url) if isinstance(url, tuple) else derive(url)


def _prepare_folder(path: str | os.PathLike[str]) -> str:
    """Make the folder of a spool if it is not there; its absolute path."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise ConfigError(f"spool is the path of a folder, not {path!r}") from None
    if not text:
        raise ConfigError("spool is the path of a folder; leave it out, or None, for no spool")
    folder = os.path.abspath(os.path.expanduser(text))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"spool={text!r} is no folder and cannot be made one ({error}); make it, writable for"
            " the user of this process, or name another"
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(
            f"spool={text!r} is not writable for this process; give the folder to its user, as by"
            f" chown {os.geteuid()}, or name another"
        )
    return folder
