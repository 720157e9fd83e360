"""A tail under way, between the link's thread and a reader who may wait however he likes.

The rules are in `zstream.tail`. Here their requests are made and repeated, subscriptions too, and
a reader is woken. Nothing in here waits.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from zstream import topics, wire
from zstream.errors import Busy, Closed, DecodeError, Error, TimedOut, Unavailable, VersionMismatch
from zstream.event import Event
from zstream.link.queries import Request, unavailable
from zstream.link.thread import Link
from zstream.tail import State, TailCore, err
from zstream.wire import BEAT, ERR, HELLO

#: Bytes of a filter that is followed as its own text; a longer one is registered.
TEXT_BYTES: Final = 1 << 10
#: Seconds within which all who miss something at one moment ask for it.
JITTER_S: Final = 0.5
#: Seconds until a subscription without HELLO is made again, and until a request that failed is
#: made again: from the first, doubling to the last.
HELLO_S: Final = (1.0, 5.0)
RETRY_S: Final = (0.1, 5.0)

#: Errors of a daemon that is away, or just has no time.
_PASSING: Final = (Unavailable, Busy, TimedOut)


class Following:
    """One tail.

    Args:
        link: Of the client.
        core: Its rules.
        filter: As the daemon takes it.
        timeout: Seconds that a request may take.
        wake: Called in the link's thread when there may be something for the reader: events, the
            start, the end. It must not wait.

    Attributes:
        is_closed: Whether it was closed, by its reader or with the client.
    """

    def __init__(
        self, link: Link, core: TailCore, filter: Mapping[str, Any], timeout: float,
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self.is_closed = False
        self._link, self._follows, self._core, self._timeout = link, link.follows, core, timeout
        self._wake = wake
        self._pid = os.getpid()
        self._filter = {"filter": wire.pack(filter)}
        self._topic = topics.encode(filter)
        self._is_long = len(self._topic) > TEXT_BYTES
        if self._is_long:
            self._topic = b""
        self._request: Request | None = None
        self._registering: Request | None = None
        #: When to do what, by the monotonic clock, in the link's thread; None is never, or at once.
        self._hello_at: float | None = None
        self._ask_at: float | None = None
        self._due: float | None = None
        self._hello_s, self._retry_s = HELLO_S[0], RETRY_S[0]
        self._waits_for_room = False

    # ------------------------------------------------------------ the reader

    @property
    def cursor(self) -> str:
        """Where to resume; see `Tail.cursor`."""
        return self._core.cursor

    def has_started(self) -> bool:
        """Whether it is known where it begins; raises the error why it never will, and Closed."""
        if self._core.has_started:
            return True
        if self._core.error is not None:
            raise self._core.error
        if self.is_closed:
            raise Closed("the client is closed")
        return False

    def start(self) -> None:
        """Subscribe; raises Closed, and RuntimeError in the link's own thread."""
        self._link.check()
        self._link.do(self._begin)

    def take(self) -> Iterator[Event] | None:
        """The next events, at least one, or None if there are none yet: `wake` will be called.

        Raises:
            Closed: It was closed.
            Error: The tail ended, and why: CursorLost, Trimmed, BadFilter.
        """
        if self._pid != os.getpid():
            raise Closed("the tail belongs to the process that this one was forked from")
        if self.is_closed:
            raise Closed("the tail is closed")
        events = self._core.take()
        if self._waits_for_room and self._core.has_room:
            self._waits_for_room = False
            self._link.hand(self._go_on)
        return events

    def no_start(self) -> Error:
        """The error that says that it did not start in time."""
        if not self._link.is_connected:
            return unavailable(self._link.url)
        return TimedOut(f"tail: the daemon did not answer within {self._timeout:g} s")

    def close(self) -> None:
        """Stop; from any thread, and a second time. The reader is woken, and gets Closed."""
        if self.abandon():
            self._wake()

    def abandon(self) -> bool:
        """Stop, without a lock and without waking anybody: nobody reads it any more."""
        if self.is_closed or self._pid != os.getpid():
            return False
        self.is_closed = True
        self._link.hand(self._leave)
        return True

    # ------------------------------------------------------------ the link's thread

    def _begin(self) -> None:
        if self.is_closed:
            return
        if self._is_long:
            self._register()
        else:
            self._subscribe(time.monotonic())

    def _leave(self) -> None:
        self._follows.leave(self._topic, self._publication)
        for request in (self._request, self._registering):
            if request is not None:
                request.is_cancelled = True

    def _subscribe(self, now: float) -> None:
        if self._hello_at is None:
            self._follows.follow(self._topic, self._publication, beats=True)
        else:
            self._follows.subscribe(self._topic)
        self._hello_at = now + self._hello_s
        self._hello_s = min(2 * self._hello_s, HELLO_S[1])
        self._schedule(self._hello_at)

    def _publication(self, frame: bytes, body: bytes) -> Callable[[], None] | None:
        if not frame:  # the link stops
            self.is_closed = True
            return self._wake
        try:
            header = wire.decode_header(frame)
        except (DecodeError, VersionMismatch) as error:
            self._core.fail(error)
            return self._wake
        if header.type == ERR and self._cures(err(body)):
            return None
        if header.type == HELLO:
            self._hello_s = HELLO_S[0]
            self._hello_at = float("inf")
        self._core.publication(header, body)
        if self._core.state is State.REPLAYING:
            self._go_on()
        return None if header.type == BEAT else self._wake

    def _cures(self, error: Error) -> bool:
        """Whether a subscription that was refused may be taken yet; then it is made again."""
        now = time.monotonic()
        if isinstance(error, Busy) and self._core.has_started:
            self._hello_at = now + self._hello_s
            self._hello_s = min(2 * self._hello_s, HELLO_S[1])
            self._schedule(self._hello_at)
            return True
        if self._is_long and not isinstance(error, Busy):
            self._register()  # its answer says whether the filter is good
            return True
        return False

    # ------------------------------------------------------------ requests

    def _go_on(self) -> None:
        """Ask for the page that is wanted, if there is room for it."""
        core = self._core
        if self._request is not None or self.is_closed or core.error is not None:
            return
        if core.state is not State.REPLAYING:
            return
        core.resume()
        self._wake()  # whoever had us go on may sleep by now
        while not core.wants_page and core.state is State.REPLAYING:
            self._waits_for_room = True
            if not core.has_room or not self._waits_for_room:
                return
            self._waits_for_room = False  # the reader was quicker
            core.resume()
            self._wake()
        if core.wants_page:
            self._ask()

    def _ask(self) -> None:
        now = time.monotonic()
        if self._ask_at is None:
            self._ask_at = now + random.random() * JITTER_S if self._core.is_sudden else now
        if now < self._ask_at:
            self._schedule(self._ask_at)
            return
        self._ask_at = None
        self._request = Request(
            "replay", self._core.ask(), self._timeout, self._take_page, self._filter
        )
        self._follows.submit(self._request)

    def _take_page(self, request: Request) -> None:
        self._request = None
        try:
            fields, packed = request.split("events")
            self._core.page(*_place(fields), packed)
            self._retry_s = RETRY_S[0]
        except _PASSING as error:
            self._ask_at = self._retry_at(error)
        except Closed:
            self.is_closed = True
        except Error as error:
            self._core.fail(error)
        self._go_on()
        self._wake()

    def _register(self) -> None:
        if self._registering is None:
            self._registering = Request("filter", {}, self._timeout, self._take_topic, self._filter)
            self._follows.submit(self._registering)

    def _take_topic(self, request: Request) -> None:
        self._registering = None
        try:
            topic = request.result().get("topic")
            if not isinstance(topic, str):
                raise DecodeError("the daemon answered with no topic")
        except _PASSING as error:
            self._hello_at = self._retry_at(error)
            self._schedule(self._hello_at)
        except Closed:
            self.is_closed = True
            self._wake()
        except Error as error:
            self._core.fail(error)
            self._wake()
        else:
            self._topic = topic.encode()
            self._subscribe(time.monotonic())

    def _retry_at(self, error: Error) -> float:
        """When to try again; not all at once."""
        delay = max(self._retry_s * random.uniform(0.5, 1.0), getattr(error, "retry_s", 0.0))
        self._retry_s = min(2 * self._retry_s, RETRY_S[1])
        return time.monotonic() + min(delay, RETRY_S[1])

    # ------------------------------------------------------------ time

    def _schedule(self, when: float) -> None:
        if self._due is None or when < self._due:
            self._due = when
            self._follows.call_at(when, self._turn)

    def _turn(self, now: float) -> None:
        self._due = None
        if self.is_closed or self._core.error is not None:
            return
        if self._hello_at is not None and now >= self._hello_at:
            if self._topic:
                self._subscribe(now)
            else:
                self._register()
        elif self._hello_at is not None and self._hello_at != float("inf"):
            self._schedule(self._hello_at)
        self._go_on()


def _place(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    run, upto, head = fields.get("run"), fields.get("upto"), fields.get("head")
    if not (isinstance(run, int) and isinstance(upto, int) and isinstance(head, int)):
        raise DecodeError("the daemon's page does not say where it is")
    return run, upto, head
