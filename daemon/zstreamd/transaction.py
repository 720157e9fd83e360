"""One transaction in the making: what waits in the inbox becomes a batch and its consequences."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast
from zlib import crc32

from zstream import wire
from zstream.backends.base import Batch
from zstream.errors import Busy, DecodeError, Error, EventError, VersionMismatch
from zstreamd.inbox import Call, Item, Malformed, Numbered, Register, Subscription, Trim
from zstreamd.producers import Producers
from zstreamd.registrations import Registrations
from zstreamd.rejects import NoRejects, Rejects
from zstreamd.validate import Admitted, Refusal, Validator, elements

#: Frames that are decoded at once: so long does no other thread get the GIL.
_CHUNK_BYTES: Final = 256 << 10
_CHUNK_FRAMES: Final = 1_000

Reply = Callable[[Sequence[int] | Error], None]


class Transaction:
    """Collects items, in their order, into one batch.

    Attributes:
        subscriptions: To be taken after the commit, in their order.
        trims: What is to be forgotten after the commit.
        calls: Who waits for the ids of which events, by place in the batch.
        registered: Filters that are registered now.
        answers: Who is told of an error.
        confirm: Producers whose last batch is to be confirmed.
        nacks: Batches that were not taken: producer, number, code, text.
        received, refused, duplicates, nacked: Events, counted as the daemon counts them.
    """

    def __init__(
        self, validator: Validator, producers: Producers, registrations: Registrations,
        rejects: Rejects | NoRejects, now: int,
    ) -> None:  # fmt: skip
        self._validator, self._rejects = validator, rejects
        self._producers, self._registrations = producers, registrations
        self._now = now
        self._admitted = validator.nothing()
        self.subscriptions: list[Subscription] = []
        self.trims: list[Trim] = []
        self.calls: list[tuple[Reply, int, int]] = []
        self.registered: list[Register] = []
        self.answers: list[tuple[Callable[[Error], None], Error]] = []
        self.confirm: set[bytes] = set()
        self.nacks: list[tuple[bytes, int, str, str]] = []
        self.received = self.refused = self.duplicates = self.nacked = 0

    def add(self, items: Sequence[Item]) -> None:
        """Take items."""
        for start in range(0, len(items), _CHUNK_FRAMES):
            some = items[start : start + _CHUNK_FRAMES]
            if set(map(type, some)) == {bytes}:  # the rule under load: no turn of a loop for each
                frames = cast(Sequence[bytes], some)
                if sum(map(len, frames)) <= _CHUNK_BYTES:
                    self._admit(frames)
                    continue
            self._add(some)

    def _add(self, items: Sequence[Item]) -> None:
        raw: list[bytes] = []
        size = 0
        for item in items:
            if type(item) is bytes:
                raw.append(item)
                size += len(item)
                if size <= _CHUNK_BYTES:
                    continue
            if raw:
                self._admit(raw)
                raw, size = [], 0
            if isinstance(item, Numbered):
                self._numbered(item)
            elif isinstance(item, Call):
                self._call(item)
            elif isinstance(item, Subscription):
                self.subscriptions.append(item)
            elif isinstance(item, Trim):
                self.trims.append(item)
            elif isinstance(item, Register):
                self._register(item)
            elif isinstance(item, Malformed):
                self._reject(item.error, item.frame)
        if raw:
            self._admit(raw)

    def batch(self, first: int, arrival: int) -> Batch:
        """The batch, numbered from ``first``; what has no date gets the arrival."""
        admitted, ts = self._admitted, [arrival] * len(self._admitted.dates)
        if admitted.dates.count(None) < len(ts):
            ts = [arrival if date is None else date for date in admitted.dates]
        return Batch(
            first=first,
            ts=ts,
            bodies=admitted.bodies,
            columns=admitted.columns,
            arrival=arrival,
            producers=self._producers.changes(),
            filters=self._registrations.changes(),
        )

    def _admit(self, frames: Sequence[bytes]) -> None:
        admitted = self._validator.admit(frames, self._now)
        self._take(admitted)
        if any(admitted.refusals):
            self._keep(refusal for refusals in admitted.refusals for refusal in refusals)

    def _numbered(self, item: Numbered) -> None:
        try:
            header = wire.decode_batch_header(item.header)
        except (DecodeError, VersionMismatch) as error:
            self._reject(error, item.header + item.frame)
            return
        count = elements(item.frame)
        if count is None or count != header.size or crc32(item.frame) != header.crc32:
            self._bad_batch(item, header, "its count or crc32 is not that of its events")
            return
        verdict = self._producers.judge(header, self._now)
        if verdict == "next":
            self._next_batch(item, header)
        elif verdict == "again":
            self.duplicates += count
            self.confirm.add(header.producer)
        else:
            self.nacked += count
            last = self._producers.get(header.producer).last
            text = f"batch {header.n} came, {last + 1} is next"
            if verdict == "fenced":
                text = f"epoch {header.epoch} is fenced by a higher one"
            self.nacks.append((header.producer, header.n, verdict, text))

    def _next_batch(self, item: Numbered, header: wire.BatchHeader) -> None:
        admitted = self._validator.admit([item.frame], self._now)
        refusals = admitted.refusals[0]
        if admitted.accepted[0] + len(refusals) != header.size:
            # Its producer would take the events that are not there for stored.
            self._bad_batch(item, header, f"it ends too early or too late: {refusals[-1].error}")
            return
        self._take(admitted)
        self._producers.accept(header, refusals, self._now)
        self.confirm.add(header.producer)

    def _bad_batch(self, item: Numbered, header: wire.BatchHeader, why: str) -> None:
        self._reject(DecodeError(f"a numbered batch: {why}"), item.header + item.frame)
        self.nacks.append((header.producer, header.n, "bad_batch", why))

    def _register(self, item: Register) -> None:
        try:
            self._registrations.register(item.name, item.text, self._now)
        except Busy as error:
            self.answers.append((item.reply, error))
        else:
            self.registered.append(item)

    def _call(self, item: Call) -> None:
        if elements(item.frame) is None:
            self._refuse_call(item, 1, EventError("events: an array of events is wanted"))
            return
        admitted = self._validator.admit([item.frame], self._now)
        refusals = admitted.refusals[0]
        if refusals:
            position, error, _ = refusals[0]
            told = type(error)(f"event {position}: {error}; none was stored")
            self._refuse_call(item, admitted.accepted[0] + len(refusals), told)
            return
        self.calls.append((item.reply, len(self._admitted.bodies), admitted.accepted[0]))
        self._take(admitted)

    def _refuse_call(self, item: Call, count: int, error: Error) -> None:
        self.received += count
        self.refused += count
        self.answers.append((item.reply, error))

    def _take(self, admitted: Admitted) -> None:
        refused = sum(map(len, admitted.refusals))
        self.received += len(admitted.bodies) + refused
        self.refused += refused
        self._admitted.extend(admitted)

    def _reject(self, error: Error, data: bytes) -> None:
        self.received += 1
        self.refused += 1
        self._rejects.keep(error, data)

    def _keep(self, refusals: Iterable[Refusal]) -> None:
        for refusal in refusals:
            self._rejects.keep(refusal.error, refusal.data)
