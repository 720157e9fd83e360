"""The writer thread: all that waits becomes one transaction, and only then is spoken of.

It is the only writer of the store, and the only one to emit HELLO, DATA, BEAT and ``prev``:
all of them in commit order.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zstream import times, topics
from zstream.backends.base import Backend, Batch, Head
from zstream.errors import BackendError, BackendUnavailable, Unavailable
from zstreamd.expiry import Expiry
from zstreamd.follow import Followers
from zstreamd.inbox import Inbox, Item
from zstreamd.kinds import Keep
from zstreamd.outbox import Outbox
from zstreamd.producers import Producers
from zstreamd.registrations import Registrations
from zstreamd.rejects import Rejects
from zstreamd.retention import Retention
from zstreamd.transaction import Transaction
from zstreamd.validate import Validator

#: Bytes that one transaction takes: a compromise of throughput and of the wait behind it.
_COMMIT_BYTES: Final = 4 << 20
#: Seconds between tries while the store is away: doubling from the first to the last.
_RETRY_S: Final = (0.05, 5.0)

_log = logging.getLogger("zstreamd.writer")


@dataclass(slots=True)
class Counters:
    """Events since the daemon was started; received = stored + refused.

    Attributes:
        received: Events, and things that were meant as such, that were read and dealt with.
        stored: Of them, those on disk.
        refused: Of them, those that cannot be stored.
        duplicates: Events of numbered batches that had been stored before.
        nacked: Events of numbered batches that were not taken (a gap, or fenced).
        unindexed: For each key, stored events without an index value.
        commits: Transactions.
        commit_us: How long the newest one took, in microseconds.
    """

    unindexed: list[int]
    received: int = 0
    stored: int = 0
    refused: int = 0
    duplicates: int = 0
    nacked: int = 0
    commits: int = 0
    commit_us: int = 0


class Writer(threading.Thread):
    """The thread that writes.

    Args:
        backend: The store, open.
        head: What it said when it was opened.
        inbox, outbox, rejects: Where work comes from and results go.
        commit_events: The most messages that one transaction takes.
        max_filters: How many filters may be live.
        keep: What is to be kept; None is all.
        producer_keep: For how long a producer is kept that is not heard of.
        on_end: Called when the thread ends, for whatever reason.

    Attributes:
        head: The last id committed.
        down: Why the store cannot be written just now, or None.
        failure: Why the thread gave up, or None. What it had received by then and could
            neither store nor refuse is the difference between the counters.
    """

    def __init__(
        self, backend: Backend, head: Head, inbox: Inbox, outbox: Outbox, rejects: Rejects,
        *, commit_events: int, max_filters: int, keep: Keep | None, producer_keep: Keep,
        on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(name="zstreamd-writer", daemon=True)
        self._backend, self._inbox, self._outbox, self._rejects = backend, inbox, outbox, rejects
        self._commit_events = commit_events
        self._on_end = on_end
        self._stopping = threading.Event()
        self._arrival = head.arrival
        self._validator = Validator(head.keys)
        self.producers = Producers(head.producers)
        self.registrations = Registrations(head.filters, max_filters)
        self.followers = Followers(
            head.keys, head.node, head.run, head.id, self.producers.stored,
            self.registrations.stored, max_filters,
        )  # fmt: skip
        self._expiry = Expiry(
            backend, len(head.keys), self.producers, self.registrations, self.followers,
            producer_keep.age_us, time.monotonic(), times.now(),
        )  # fmt: skip
        self.retention = Retention(backend, head.floor, keep)
        self.counters = Counters([0] * len(head.keys))
        self.head = head.id
        self.down: BackendError | None = None
        self.failure: Exception | None = None

    def stop(self) -> None:
        """Finish what was put into the inbox, then end."""
        self._stopping.set()
        self._inbox.close()

    def run(self) -> None:
        """Commit until the inbox is closed and empty."""
        try:
            while (items := self._take()) is not None:
                if items:
                    self._transact(items)
                self._outbox.publish(self.followers.tick(time.monotonic(), times.now()))
                self.retention.turn(self.head, busy=bool(items))
                now = times.now()
                self._arrival = max(self._arrival, now)
                self._expiry.turn(self.head, self._arrival, time.monotonic(), now)
            self._outbox.publish(self.followers.bye(times.now()))
        except BackendError as error:
            _log.error("the store is lost: %s", error)
            self.failure = error
            self._abandon()
        except Exception as error:  # noqa: BLE001 - a defect must end the daemon, not leave it deaf
            _log.exception("the writer failed")
            self.failure = error
        finally:
            self._rejects.close()
            self._on_end()

    def _take(self) -> list[Item] | None:
        wait_s = self.retention.wait_s(self.followers.wait_s(time.monotonic()))
        return self._inbox.take(self._commit_events, _COMMIT_BYTES, wait_s)

    def _transact(self, items: list[Item]) -> None:
        self._arrival = max(self._arrival, times.now())
        transaction = Transaction(
            self._validator, self.producers, self.registrations, self._rejects, self._arrival
        )
        transaction.add(items)
        batch = transaction.batch(self.head + 1, self._arrival)
        if batch.bodies or batch.producers or batch.filters:
            try:
                self._append(batch)
            except BackendError:
                self._give_up(transaction)
                raise
        self._count(transaction, len(batch.bodies))
        for place, column in enumerate(batch.columns):
            self.counters.unindexed[place] += column.count(None)
        self._tell(transaction, batch)

    def _append(self, batch: Batch) -> None:
        began = time.perf_counter()
        delay_s, longest_s = _RETRY_S
        while True:
            last_try = self._stopping.is_set()
            try:
                if self.down is not None and self._stored(batch):
                    break
                self._backend.append(batch)
                break
            except BackendUnavailable as error:
                if self.down is None:
                    _log.error("the store cannot be written, inserts wait: %s", error)
                self.down = error
                if last_try:
                    raise
            self._stopping.wait(delay_s)
            delay_s = min(delay_s * 2, longest_s)
        if self.down is not None:
            _log.warning("the store can be written again")
            self.down = None
        self.counters.commits += 1
        self.counters.commit_us = round((time.perf_counter() - began) * 1e6)

    def _stored(self, batch: Batch) -> bool:
        """After a failure whose outcome is unknown: tell whether the batch is there."""
        return bool(batch.bodies) and self._backend.last_id() >= batch.first

    def _count(self, transaction: Transaction, stored: int) -> None:
        self._rejects.flush()  # who sees a refusal counted finds it in the file
        counters = self.counters
        counters.received += transaction.received
        counters.stored += stored
        counters.refused += transaction.refused
        counters.duplicates += transaction.duplicates
        counters.nacked += transaction.nacked

    def _give_up(self, transaction: Transaction) -> None:
        self._count(transaction, 0)
        for reply, _, _ in transaction.calls:
            reply(Unavailable(f"the store is lost: {self.failure or self.down}"))
        for tell, error in transaction.answers:
            tell(error)
        for trim in transaction.trims:
            trim.reply(Unavailable(f"the store is lost: {self.failure or self.down}"))
        for each in transaction.registered:
            each.reply(Unavailable(f"the store is lost: {self.failure or self.down}"))

    def _abandon(self) -> None:
        """The store is lost: count what waits, and answer who waits."""
        while items := self._inbox.take(self._commit_events, _COMMIT_BYTES, 0):
            transaction = Transaction(
                self._validator, self.producers, self.registrations, self._rejects, self._arrival
            )
            transaction.add(items)
            self._give_up(transaction)

    def _tell(self, transaction: Transaction, batch: Batch) -> None:
        now_s, ts = time.monotonic(), times.now()
        followers = self.followers
        messages = []
        if batch.bodies:
            self.head = batch.first + len(batch.bodies) - 1
            messages += followers.commit(batch, now_s, ts)
        self.producers.commit()
        self.registrations.commit()
        for producer in transaction.confirm:
            if name := followers.hears(producer):
                messages.append(followers.ack(self.producers.get(producer), name, ts))
        for producer, n, code, text in transaction.nacks:
            if name := followers.hears(producer):
                row = self.producers.get(producer)
                messages.append(followers.nack(row, n, code, text, name, ts))
        for each in transaction.registered:
            topic = topics.of_registered(each.name)
            messages += followers.activate(topic, now_s, ts)
        for subscription in transaction.subscriptions:
            if subscription.on:
                messages += followers.subscribe(subscription.topic, now_s, ts)
            else:
                followers.unsubscribe(subscription.topic)
        self._outbox.publish(messages)
        for reply, start, count in transaction.calls:
            reply(range(batch.first + start, batch.first + start + count))
        for tell, error in transaction.answers:
            tell(error)
        for each in transaction.registered:
            each.reply(None)
        for trim in transaction.trims:
            self.retention.trim(trim.floor, trim.reply)
