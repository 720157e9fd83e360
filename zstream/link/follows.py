"""Subscriptions over one SUB: what comes under a topic goes to all that follow it.

The channel also has the timers of those who follow, and makes another SUB when one has gone
silent. All of it happens in the link's thread.
"""

import heapq
import itertools
import logging
import time
from collections.abc import Callable
from typing import Final

import zmq

from zstream.link.queries import Request
from zstream.link.sockets import Port

#: Takes the header and the body of a publication. What it gives back is called once all that
#: came has been handed out, once a time: there a thread may be woken.
Sink = Callable[[bytes, bytes], Callable[[], None] | None]

#: Seconds without a word on a topic that beats, three beats, until the SUB is made anew.
SILENCE_S: Final = 15.0
_TURN: Final = 128
#: How often old messages are looked for before a topic is followed.
_OLD_TURNS: Final = 64

_log = logging.getLogger("zstream")


class _Topic:
    """Who follows a topic, how often it was subscribed, and when it was last heard."""

    __slots__ = ("beats", "count", "heard", "sinks")

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.count = 0
        self.beats = False
        self.heard = 0.0


class FollowChannel:
    """The topics of one client.

    Args:
        url: What the log names.
        submit: Sends a request.

    Attributes:
        port: The SUB, once there is one.
        problem: Why nothing is heard of the daemon, or None.
    """

    def __init__(self, url: str, submit: Callable[[Request], None]) -> None:
        self.submit = submit
        self.port: Port | None = None
        self.problem: str | None = None
        self._url = url
        self._topics: dict[bytes, _Topic] = {}
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._is_watching = False

    def begin(self, open: Callable[[], Port], drop: Callable[[Port], None]) -> None:
        """The thread runs: so a SUB is opened, and one that is silent is closed."""
        self._open, self._drop = open, drop

    # ------------------------------------------------------------ topics

    def follow(self, topic: bytes, sink: Sink, *, beats: bool = False) -> None:
        """Follow a topic, whoever else does: each gets a HELLO of its own.

        Args:
            topic: Its bytes.
            sink: Takes what comes.
            beats: It is never silent for long: if it is, the connection is dead.
        """
        for _ in range(_OLD_TURNS):
            # What is there already is older than this wish; its HELLO would start in the past.
            if not self._read(time.monotonic()):
                break
        followed = self._topics.setdefault(topic, _Topic())
        followed.sinks.append(sink)
        followed.beats |= beats
        if followed.count == 0:
            followed.heard = time.monotonic()
        self.subscribe(topic)
        if beats and not self._is_watching:
            self._is_watching = True
            self.call_at(followed.heard + SILENCE_S, self._watch)

    def subscribe(self, topic: bytes) -> None:
        """Subscribe to a topic that is followed, again: the daemon says HELLO again."""
        if self.port is None:
            self.port = self._open()
        if topic in self._topics:
            self._topics[topic].count += 1
            self.port.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def leave(self, topic: bytes, sink: Sink) -> None:
        """Follow it no more; others who do so notice nothing."""
        followed = self._topics.get(topic)
        if followed is None or sink not in followed.sinks:
            return
        followed.sinks.remove(sink)
        if not followed.sinks:
            del self._topics[topic]
            assert self.port is not None
            for _ in range(followed.count):  # libzmq counts too
                self.port.socket.setsockopt(zmq.UNSUBSCRIBE, topic)

    # ------------------------------------------------------------ what comes

    def turn(self, now: float) -> bool:
        """Hand out what came and call what is due; True if there may be more."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        return self._read(now)

    def monitor(self, happened: list[bool]) -> None:
        """The connection came or went."""
        if not happened[-1]:
            self._miss(f"the daemon at {self._url} is away")

    def close(self) -> None:
        """The link stops: tell all who follow, by a publication without a header."""
        for followed in list(self._topics.values()):
            for sink in list(followed.sinks):
                wake = sink(b"", b"")
                if wake is not None:
                    wake()

    def _read(self, now: float) -> bool:
        if self.port is None:
            return False
        receive, topics = self.port.socket.recv_multipart, self._topics
        wakes: dict[Callable[[], None], None] = {}
        has_more = True
        for _ in range(_TURN):
            try:
                frames = receive(zmq.NOBLOCK)
            except zmq.Again:
                has_more = False
                break
            followed = topics.get(frames[0])
            if followed is None or len(frames) != 3:
                continue
            followed.heard = now
            # What is read after the connection broke may have come before: a BYE is no return.
            if self.problem is not None and followed.beats and self.port.is_connected:
                self.problem = None
                _log.info("the daemon at %s is back", self._url)
            for sink in tuple(followed.sinks):
                wake = sink(frames[1], frames[2])
                if wake is not None:
                    wakes[wake] = None
        for wake in wakes:
            wake()
        return has_more

    # ------------------------------------------------------------ time

    def call_at(self, when: float, call: Callable[[float], None]) -> None:
        """Have something called, with the time, when it is time."""
        heapq.heappush(self._timers, (when, next(self._order), call))

    def wake_at(self) -> float | None:
        """When the first of it is due."""
        return self._timers[0][0] if self._timers else None

    def _watch(self, now: float) -> None:
        beating = [each for each in self._topics.values() if each.beats]
        self._is_watching = bool(beating)
        if not beating:
            self.problem = None
            return
        if min(each.heard for each in beating) + SILENCE_S <= now:
            self._rebuild(now)
        self.call_at(min(each.heard for each in beating) + SILENCE_S, self._watch)

    def _rebuild(self, now: float) -> None:
        assert self.port is not None
        self._miss(f"nothing was heard of the daemon at {self._url} for {SILENCE_S:g} s")
        self._drop(self.port)
        self.port = self._open()
        for topic, followed in self._topics.items():
            followed.count, followed.heard = 1, now
            self.port.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def _miss(self, why: str) -> None:
        if self.problem is None and any(each.beats for each in self._topics.values()):
            self.problem = why
            _log.warning("%s; tails wait for it", why)
