"""Whether somebody answers, and speaks our protocol: asked in the background, told once."""

import logging
import time
from collections.abc import Callable
from typing import Final

from zstream import wire
from zstream.errors import Closed, Error, Unavailable, VersionMismatch
from zstream.link.queries import Request

#: Seconds until the log says that nobody is there.
_PING_S: Final = 3.0
#: Seconds until it is asked again, as long as something is wrong.
_AGAIN_S: Final = 2.0

_log = logging.getLogger("zstream")


class Greeting:
    """The ping of one client, in the link's thread.

    Args:
        url: What the log names.
        submit: Sends a request.

    Attributes:
        wake_at: When to ask, by the monotonic clock, or None.
        version: The daemon's version, once it answered.
        problem: Why the daemon cannot be used, as far as is known, or None.
        durability: What its confirmations are worth, as it said last; see
            `zstream.backends.base.Durability`. None before it said so.
    """

    def __init__(self, url: str, submit: Callable[[Request], None]) -> None:
        self._url = url
        self._submit = submit
        self._has_warned = False
        self.wake_at: float | None = 0.0
        self.version: str | None = None
        self.problem: str | None = None
        self.durability: str | None = None

    def hear(self, durability: object) -> None:
        """Note what the daemon said of its durability, if it said anything."""
        if isinstance(durability, str):
            self.durability = durability

    def turn(self, now: float) -> None:
        """Ask if it is time to."""
        if self.wake_at is not None and now >= self.wake_at:
            self.wake_at = None
            self._submit(Request("ping", {}, _PING_S, self._take))

    def _take(self, request: Request) -> None:
        try:
            reply = request.result()
            if reply.get("protocol") != wire.VERSION:
                raise VersionMismatch(f"the daemon speaks protocol {reply.get('protocol')}")
        except Closed:
            return
        except Error as error:
            where = "" if isinstance(error, Unavailable) else f"{self._url}: "
            self.problem = f"{where}{error}"
            self.wake_at = time.monotonic() + _AGAIN_S
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s", self.problem)
        else:
            self.version, self.problem = str(reply.get("version")), None
            self.hear(reply.get("durability"))
