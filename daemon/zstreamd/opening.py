"""What hangs on one opening of the store, and is made anew when the store is opened anew."""

import time
from dataclasses import dataclass

from zstream import times
from zstream.backends.base import Backend, Head
from zstreamd.expiry import Expiry
from zstreamd.follow import Followers
from zstreamd.kinds import Keep
from zstreamd.outage import Outage
from zstreamd.producers import Producers
from zstreamd.registrations import Registrations
from zstreamd.retention import Retention


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings say of it.

    Attributes:
        max_filters: How many filters may be live.
        keep: What is to be kept; None is all.
        producer_keep: For how long a producer is kept that is not heard of.
    """

    max_filters: int
    keep: Keep | None
    producer_keep: Keep


class Opening:
    """An opening of the store. The thread that writes changes it, any thread may read it.

    Attributes:
        opened: What the store said when it was opened.
        runs: Every run that it has been in, with the last id of it; of the present one the id that
            it began after.
        last: The last id committed.
        producers, registrations: The rows that the store keeps of them.
        followers: Who follows what.
        expiry, retention: What is forgotten, and what is kept.
    """

    def __init__(self, backend: Backend, head: Head, limits: Limits, outage: Outage) -> None:
        self.opened, self.runs, self.last = head, dict(head.runs), head.id
        self.producers = Producers(head.producers)
        self.registrations = Registrations(head.filters, limits.max_filters)
        self.followers = Followers(
            head.keys, head.node, head.run, head.id, self.producers.stored,
            self.registrations.stored, limits.max_filters,
        )  # fmt: skip
        self.expiry = Expiry(
            backend, len(head.keys), self.producers, self.registrations, self.followers,
            limits.producer_keep.age_us, time.monotonic(), times.now(),
        )  # fmt: skip
        self.retention = Retention(backend, head.floor, limits.keep, outage)
