"""What is forgotten with time beside events: producers, and registered filters.

A row goes when nobody was heard of for long *by every clock there is*. The time of day may jump,
and a producer that is forgotten too early stores its batches under way twice. So the age of a row
is measured by the time of day at the start of the daemon plus the seconds since, or by the time of
day if that is less: a jump ahead ages nothing before the next start. After the start nothing goes
for an hour, in which everybody who is there is heard of, whatever the clock says.
"""

import logging
from typing import Final

from zstream.backends.base import Backend, Batch
from zstream.errors import BackendUnavailable
from zstreamd.follow import Followers
from zstreamd.producers import Producers
from zstreamd.registrations import KEEP_US, Registrations

#: Seconds from the start to the first look, and from one to the next.
EVERY_S: Final = 3600.0
#: Rows that one transaction looks at.
SLICE: Final = 1_000
#: What was heard of is noted in the store if that is so much newer than what it has; by this and
#: by the time between two looks a row may be of use for longer than it says.
STALE_US: Final = 12 * 3600 * 1_000_000
_SLACK_US: Final = 24 * 3600 * 1_000_000

_log = logging.getLogger("zstreamd.expiry")


class Expiry:
    """Looks now and then what is to be forgotten, a slice at a time; the writer's thread.

    Args:
        backend: The store, open.
        keys: How many keys it has.
        producers, registrations: The rows.
        followers: Who knows which filters are live.
        producer_keep_us: For how long a producer is kept; None is for ever.
        now_s, now: When the daemon started: by the monotonic clock in seconds, and by the time
            of day in microseconds since 1970 UTC.
    """

    def __init__(
        self, backend: Backend, keys: int, producers: Producers, registrations: Registrations,
        followers: Followers, producer_keep_us: int | None, now_s: float, now: int,
    ) -> None:  # fmt: skip
        self._backend, self._keys = backend, keys
        self._producers, self._registrations = producers, registrations
        self._followers = followers
        self._producer_keep = None if producer_keep_us is None else producer_keep_us + _SLACK_US
        self._started_s, self._started = now_s, now
        self._due = now_s + EVERY_S
        self._numbered: list[bytes] = []
        self._named: list[bytes] = []

    def turn(self, head: int, arrival: int, now_s: float, now: int) -> None:
        """Do a slice of what is due; called after each commit and about every second.

        Args:
            head: The last id committed.
            arrival: The newest arrival, which is what rows are noted to be heard of by.
            now_s, now: As for the start.
        """
        if now_s >= self._due:
            self._due = now_s + EVERY_S
            self._numbered = list(self._producers.stored)
            self._named = list(self._registrations.stored)
            for name in self._followers.registered():
                self._registrations.hear(name, arrival)
        if self._numbered or self._named:
            age = min(now, self._started + round((now_s - self._started_s) * 1e6))
            try:
                self._slice(head, arrival, age)
            except BackendUnavailable as error:
                _log.debug("what is too old cannot be forgotten, it waits: %s", error)
                self._numbered, self._named = [], []

    def _slice(self, head: int, arrival: int, now: int) -> None:
        ids, self._numbered = self._numbered[-SLICE:], self._numbered[:-SLICE]
        names, self._named = self._named[-SLICE:], self._named[:-SLICE]
        producers = self._producers.age(ids, STALE_US, self._producer_keep, now)
        filters = self._registrations.age(names, STALE_US, KEEP_US + _SLACK_US, now)
        if not any((*producers, *filters)):
            return
        self._backend.append(
            Batch(
                head + 1, [], [], [[] for _ in range(self._keys)], arrival,
                producers=producers.heard, filters=filters.heard,
                forgotten_producers=producers.gone, forgotten_filters=filters.gone,
            )
        )  # fmt: skip
        self._producers.settle(producers)
        self._registrations.settle(filters)
        if producers.gone or filters.gone:
            _log.info(
                "forgot %d producers and %d registered filters that were not heard of for long",
                len(producers.gone), len(filters.gone),
            )  # fmt: skip
