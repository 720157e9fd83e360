"""The writer thread: all that waits becomes one transaction, and only then is spoken of.

It is the only writer of the store, and the only one to emit HELLO, DATA, BEAT and ``prev``:
all of them in commit order.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from zstream import times, topics
from zstream.backends.base import Backend, Batch, Head
from zstream.errors import BackendError, StoreRewound, Unavailable
from zstreamd.counters import Counters
from zstreamd.inbox import Inbox, Item
from zstreamd.opening import Limits, Opening
from zstreamd.outage import Outage
from zstreamd.outbox import Message, Outbox
from zstreamd.patient import PatientStore
from zstreamd.rejects import NoRejects, Rejects
from zstreamd.transaction import Transaction
from zstreamd.validate import Validator
from zstreamd.watch import Patience

#: Bytes that one transaction takes: a compromise of throughput and of the wait behind it.
_COMMIT_BYTES: Final = 4 << 20

_log = logging.getLogger("zstreamd.writer")


class Writer(threading.Thread):
    """The thread that writes.

    Args:
        backend: The store, open.
        head: What it said when it was opened.
        inbox, outbox, rejects: Where work comes from and results go.
        outage, patience: What is known of the store's absence; what the watch may end.
        commit_events: The most messages that one transaction takes.
        limits: What the settings say of followers, producers and what is kept.
        on_end: Called when the thread ends, for whatever reason.

    Attributes:
        opening: What hangs on the store's last opening.
        failure: Why the thread gave up, or None. What it had received by then and could
            neither store nor refuse is the difference between the counters.
    """

    def __init__(
        self, backend: Backend, head: Head, inbox: Inbox, outbox: Outbox, rejects: Rejects,
        outage: Outage, patience: Patience, *, commit_events: int, limits: Limits,
        on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(name="zstreamd-writer", daemon=True)
        self._backend, self._inbox, self._outbox, self._rejects = backend, inbox, outbox, rejects
        self._outage, self._patience, self._limits = outage, patience, limits
        self._store = PatientStore(backend, outage, patience)
        self._commit_events = commit_events
        self._on_end = on_end
        self._arrival = head.arrival
        self._validator = Validator(head.keys)
        self.opening = Opening(backend, head, limits, outage)
        self.counters = Counters([0] * len(head.keys))
        self.failure: Exception | None = None

    def stop(self) -> None:
        """Finish what was put into the inbox, then end."""
        self._store.stop()
        self._inbox.close()

    def run(self) -> None:
        """Commit until the inbox is closed and empty."""
        try:
            while (items := self._take()) is not None:
                if items:
                    self._transact(items)
                self._outbox.publish(self.opening.followers.tick(time.monotonic(), times.now()))
                try:
                    self._keep_house(busy=bool(items))
                except StoreRewound as error:
                    self._open_anew(error)
            self._outbox.publish(self.opening.followers.bye(times.now()))
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
        opening = self.opening
        wait_s = opening.retention.wait_s(opening.followers.wait_s(time.monotonic()))
        return self._inbox.take(self._commit_events, _COMMIT_BYTES, wait_s)

    def _keep_house(self, busy: bool) -> None:
        opening = self.opening
        with self._patience.call():
            opening.retention.turn(opening.last, busy=busy)
            now = times.now()
            self._arrival = max(self._arrival, now)
            opening.expiry.turn(opening.last, self._arrival, time.monotonic(), now)

    # ------------------------------------------------------------ transactions

    def _transact(self, items: list[Item]) -> None:
        rejects: Rejects | NoRejects = self._rejects
        while True:
            try:
                self._commit(items, rejects)
            except StoreRewound as error:
                self._open_anew(error)
                # Judged again by what the store has now; what was refused is in the file already.
                rejects = NoRejects()
            else:
                return

    def _transaction(self, rejects: Rejects | NoRejects) -> Transaction:
        opening = self.opening
        return Transaction(
            self._validator, opening.producers, opening.registrations, rejects, self._arrival
        )

    def _commit(self, items: list[Item], rejects: Rejects | NoRejects) -> None:
        self._arrival = max(self._arrival, times.now())
        transaction = self._transaction(rejects)
        transaction.add(items)
        batch = transaction.batch(self.opening.last + 1, self._arrival)
        if batch.bodies or batch.producers or batch.filters:
            began = time.perf_counter()
            try:
                self._store.append(batch)
            except StoreRewound:
                raise
            except BackendError as error:
                self._give_up(transaction, error)
                raise
            self.counters.commits += 1
            self.counters.commit_us = round((time.perf_counter() - began) * 1e6)
        self._count(transaction, len(batch.bodies))
        for place, column in enumerate(batch.columns):
            self.counters.unindexed[place] += column.count(None)
        self._tell(transaction, batch)

    def _count(self, transaction: Transaction, stored: int) -> None:
        self._rejects.flush()  # who sees a refusal counted finds it in the file
        counters = self.counters
        counters.received += transaction.received
        counters.stored += stored
        counters.refused += transaction.refused
        counters.duplicates += transaction.duplicates
        counters.nacked += transaction.nacked

    def _open_anew(self, why: BackendError) -> None:
        """The store went back: begin again from what it has, with everybody who is there."""
        before = self.opening
        head = self._store.open_anew(before.opened.keys, why)
        if head.keys != before.opened.keys:
            self._validator = Validator(head.keys)
        self._arrival = max(self._arrival, head.arrival)
        self.opening = Opening(self._backend, head, self._limits, self._outage)
        _log.warning(
            "the store had events up to %d and has them up to %d: a new run begins",
            before.last, head.id,
            extra={"event": "store_rewound", "from": before.last, "to": head.id},
        )  # fmt: skip
        messages: list[Message] = []
        for topic in before.followers.names():
            messages += self.opening.followers.subscribe(topic, time.monotonic(), times.now())
        self._outbox.publish(messages)

    # ------------------------------------------------------------ the end

    def _give_up(self, transaction: Transaction, why: Exception | None) -> None:
        self._count(transaction, 0)
        lost = Unavailable(f"the store is lost: {why}")
        for reply, _, _ in transaction.calls:
            reply(lost)
        for tell, error in transaction.answers:
            tell(error)
        for trim in transaction.trims:
            trim.reply(lost)
        for each in transaction.registered:
            each.reply(lost)

    def _abandon(self) -> None:
        """The store is lost: count what waits, and answer who waits."""
        while items := self._inbox.take(self._commit_events, _COMMIT_BYTES, 0):
            transaction = self._transaction(self._rejects)
            transaction.add(items)
            self._give_up(transaction, self.failure)

    # ------------------------------------------------------------ consequences

    def _tell(self, transaction: Transaction, batch: Batch) -> None:
        now_s, ts = time.monotonic(), times.now()
        opening = self.opening
        followers = opening.followers
        followers.durability = self._backend.durability
        messages: list[Message] = []
        if batch.bodies:
            opening.last = batch.first + len(batch.bodies) - 1
            messages += followers.commit(batch, now_s, ts)
        opening.producers.commit()
        opening.registrations.commit()
        messages += self._confirmations(transaction, ts)
        for each in transaction.registered:
            topic = topics.of_registered(each.name)
            messages += followers.activate(topic, now_s, ts)
        for subscription in transaction.subscriptions:
            if subscription.on:
                messages += followers.subscribe(subscription.topic, now_s, ts)
            else:
                followers.unsubscribe(subscription.topic)
        self._outbox.publish(messages)
        self._answer(transaction, batch)

    def _confirmations(self, transaction: Transaction, ts: int) -> list[Message]:
        followers, producers = self.opening.followers, self.opening.producers
        messages: list[Message] = []
        for producer in transaction.confirm:
            if name := followers.hears(producer):
                messages.append(followers.ack(producers.get(producer), name, ts))
        for producer, n, code, text in transaction.nacks:
            if name := followers.hears(producer):
                row = producers.get(producer)
                messages.append(followers.nack(row, n, code, text, name, ts))
        return messages

    def _answer(self, transaction: Transaction, batch: Batch) -> None:
        for reply, start, count in transaction.calls:
            reply(range(batch.first + start, batch.first + start + count))
        for tell, error in transaction.answers:
            tell(error)
        for each in transaction.registered:
            each.reply(None)
        for trim in transaction.trims:
            try:
                with self._patience.call():
                    self.opening.retention.trim(trim.floor, trim.reply)
            except StoreRewound as error:
                self._open_anew(error)
