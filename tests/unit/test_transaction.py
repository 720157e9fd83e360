"""A transaction in the making: what is stored and what refused, who is told, and the sums."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream.backends.base import Registration
from zstream.errors import DecodeError, Error
from zstream.limits import MAX_FRAME_EVENTS, PROBE_N
from zstreamd.inbox import Call, Item, Malformed, Numbered, Register, Subscription
from zstreamd.producers import Producers
from zstreamd.registrations import Registrations
from zstreamd.rejects import Rejects
from zstreamd.transaction import Transaction
from zstreamd.validate import Validator

NOW = 1_700_000_000_000_000
ONE, TWO = b"1" * 16, b"2" * 16
GOOD = {"kind": "friend", "user": 1}
BAD = {"kind": float("nan")}
pack = msgpack.packb


class Told(NamedTuple):
    """What one transaction came to."""

    events: list[Any]
    received: int
    refused: int
    duplicates: int
    nacked: int
    confirmed: set[bytes]
    nacks: list[tuple[bytes, str]]
    nacked_ns: list[int]
    answers: list[Any]


class Daemon:
    """The writer's part around the transaction, without threads and without a store."""

    def __init__(self) -> None:
        self.validator = Validator(["kind", "user"])
        self.producers = Producers({})
        self.registrations = Registrations({}, 3)
        self.rejects = Rejects(None)
        self.answers: list[Sequence[int] | Error] = []
        self.head = 0

    def transaction(self) -> Transaction:
        known = self.producers, self.registrations
        return Transaction(self.validator, *known, self.rejects, NOW)

    def call(self, events: object) -> Call:
        return Call(events if isinstance(events, bytes) else pack(events), self.answers.append)

    def take(self, *items: Item) -> Told:
        self.answers.clear()
        transaction = self.transaction()
        transaction.add(items)
        batch = transaction.batch(self.head + 1, NOW)
        assert len(batch.ts) == len(batch.bodies)
        assert [len(column) for column in batch.columns] == [len(batch.bodies)] * 2
        assert transaction.received == len(batch.bodies) + transaction.refused
        self.head += len(batch.bodies)
        self.producers.commit()
        for reply, start, count in transaction.calls:
            reply(range(batch.first + start, batch.first + start + count))
        for reply, error in transaction.answers:
            reply(error)
        return Told(
            [msgpack.unpackb(body) for body in batch.bodies],
            transaction.received, transaction.refused, transaction.duplicates, transaction.nacked,
            transaction.confirm,
            [(producer, code) for producer, _, code, _ in transaction.nacks],
            [n for _, n, _, _ in transaction.nacks],
            [answer if isinstance(answer, Error) else list(answer) for answer in self.answers],
        )  # fmt: skip


def numbered(
    n: int, *events: object, producer: bytes = ONE, epoch: int = 1, frame: bytes | None = None,
    size: int | None = None, crc: int | None = None, version: int = 1, flags: int = 0,
) -> Numbered:  # fmt: skip
    frame = pack(list(events)) if frame is None else frame
    size = len(events) if size is None else size
    crc = crc32(frame) if crc is None else crc
    header = struct.pack(
        ">2sBB16sIQII", b"ZI", version, flags, producer, epoch, n, size, crc
    )  # as docs/protocol.md has it
    return Numbered(header, frame)


# ---------------------------------------------------------------- fire and forget


def test_raw_frames_are_stored_in_their_order_and_bad_ones_kept() -> None:
    daemon = Daemon()
    told = daemon.take(
        pack({"n": 1}), pack([{"n": 2}, BAD, {"n": 3}]), b"", b"\xc1", b"\xdc\x00", b"\xdd\0\0\0",
        pack({"n": 4}), pack([]),
    )  # fmt: skip
    assert [event["n"] for event in told.events] == [1, 2, 3, 4]
    assert (told.received, told.refused) == (9, 5)
    assert daemon.rejects.count == 5


def test_order_is_kept_across_kinds_of_items() -> None:
    daemon = Daemon()
    told = daemon.take(
        pack({"n": 1}), daemon.call([{"n": 2}]), pack({"n": 3}), numbered(1, {"n": 4}),
        Subscription(b"{}", True), pack({"n": 5}),
    )  # fmt: skip
    assert [event["n"] for event in told.events] == [1, 2, 3, 4, 5]
    assert told.answers == [[2]]


def test_many_frames_are_admitted_in_pieces_and_none_is_lost() -> None:
    daemon = Daemon()
    told = daemon.take(*(pack({"n": n, "x": "x" * (n % 900)}) for n in range(3_000)))
    assert [event["n"] for event in told.events] == list(range(3_000))


def test_dates_are_kept_and_others_get_the_arrival() -> None:
    transaction = Daemon().transaction()
    transaction.add([pack([[5, GOOD], GOOD]), pack(GOOD)])
    assert transaction.batch(1, NOW + 1).ts == [5, NOW + 1, NOW + 1]


def test_what_is_no_insert_is_refused_and_kept(tmp_path: Path) -> None:
    daemon = Daemon()
    daemon.rejects = Rejects(str(tmp_path / "rejects.jsonl"))
    told = daemon.take(Malformed(b"three frames", DecodeError("these are more")))
    daemon.rejects.close()
    assert (told.received, told.refused, told.events) == (1, 1, [])
    assert "these are more" in (tmp_path / "rejects.jsonl").read_text()


# ---------------------------------------------------------------- with an answer


def test_a_call_gets_its_ids() -> None:
    daemon = Daemon()
    assert daemon.take(pack(GOOD), daemon.call([GOOD] * 3), daemon.call([])).answers == [
        [2, 3, 4], [],
    ]  # fmt: skip
    assert daemon.take(daemon.call([GOOD])).answers == [[5]]


@pytest.mark.parametrize(
    ("events", "refused"),
    [
        ([GOOD, BAD, GOOD], 3),
        ([GOOD, 5], 2),
        (GOOD, 1),
        (b"\xc1", 1),
        (b"\xc0", 1),
        (b"\x93" + pack(GOOD), 2),
        ([[NOW + 2 * 24 * 3600 * 1_000_000, GOOD]], 1),
        ([[msgpack.ExtType(5, b"x"), GOOD]], 1),
        (b"\x91\x92\xc7\x05\xff\0\0\0\0\0" + pack(GOOD), 1),
    ],
)
def test_a_call_is_stored_whole_or_not_at_all(events: object, refused: int) -> None:
    daemon = Daemon()
    told = daemon.take(daemon.call(events), daemon.call([GOOD]))
    assert told.events == [GOOD]
    [error] = [answer for answer in told.answers if isinstance(answer, Error)]
    assert error.code in ("bad_event", "bad_request")
    assert (told.received, told.refused) == (refused + 1, refused)
    assert daemon.rejects.count == 0, "who was told needs no file"


# ---------------------------------------------------------------- numbered batches


def test_a_batch_is_stored_once() -> None:
    daemon = Daemon()
    batch = numbered(1, {"n": 1}, {"n": 2})
    told = daemon.take(batch, batch)
    assert [event["n"] for event in told.events] == [1, 2]
    assert (told.received, told.duplicates, told.confirmed) == (2, 2, {ONE})
    told = daemon.take(batch)
    assert (told.events, told.duplicates, told.confirmed) == ([], 2, {ONE})


def test_a_gap_is_not_stored() -> None:
    daemon = Daemon()
    told = daemon.take(numbered(1, GOOD), numbered(3, GOOD, GOOD))
    assert (len(told.events), told.nacked, told.nacks) == (1, 2, [(ONE, "gap")])
    assert told.nacked_ns == [3]


def test_each_batch_that_is_not_taken_is_named_by_its_number() -> None:
    daemon = Daemon()
    told = daemon.take(
        numbered(5, GOOD), numbered(PROBE_N), numbered(1, GOOD, crc=7), numbered(3, epoch=0)
    )
    assert told.nacks == [(ONE, why) for why in ("gap", "gap", "bad_batch", "fenced")]
    assert told.nacked_ns == [5, PROBE_N, 1, 3]


def test_a_probe_stores_nothing_whatever_is_in_it() -> None:
    daemon = Daemon()
    daemon.take(numbered(1, GOOD))
    transaction = daemon.transaction()
    transaction.add(
        [numbered(PROBE_N), numbered(PROBE_N, GOOD), numbered(PROBE_N, producer=TWO, epoch=0)]
    )
    batch = transaction.batch(2, NOW)
    assert (batch.bodies, batch.producers) == ([], []), "so the store is left alone"
    assert [n for _, n, _, _ in transaction.nacks] == [PROBE_N] * 3
    assert transaction.confirm == set()


def test_a_lower_epoch_is_fenced() -> None:
    daemon = Daemon()
    told = daemon.take(numbered(1, GOOD, epoch=2), numbered(2, GOOD, GOOD, epoch=1))
    assert (len(told.events), told.nacked, told.nacks) == (1, 2, [(ONE, "fenced")])


def test_what_is_refused_of_a_batch_is_noted_and_the_rest_stored() -> None:
    daemon = Daemon()
    told = daemon.take(numbered(1, {"n": 1}, BAD, {"n": 2}, 5))
    assert [event["n"] for event in told.events] == [1, 2]
    assert (told.received, told.refused, told.confirmed) == (4, 2, {ONE})
    row = daemon.producers.stored[ONE]
    assert (row.last, row.refused) == (1, 2)
    assert [(n, place, code) for n, place, code, _ in msgpack.unpackb(row.refusals)] == [
        (1, 1, "bad_event"), (1, 3, "bad_event"),
    ]  # fmt: skip
    assert daemon.rejects.count == 0, "the producer is told by watermark"


def test_a_batch_of_nothing_advances_all_the_same() -> None:
    daemon = Daemon()
    assert daemon.take(numbered(1)).confirmed == {ONE}
    assert daemon.producers.stored[ONE].last == 1


broken = {
    "false crc": numbered(1, GOOD, crc=7),
    "false count": numbered(1, GOOD, size=2),
    "false count of none": numbered(1, GOOD, size=0),
    "no array": numbered(1, frame=pack(GOOD), size=1),
    "empty": numbered(1, frame=b"", size=0),
    "fewer than it says": numbered(1, frame=b"\x95" + pack(GOOD), size=5),
    "more than it says": numbered(1, frame=b"\x91" + pack(GOOD) * 2, size=1),
    "bytes behind": numbered(1, frame=pack([GOOD]) + b"\xc1", size=1),
    "half a header": numbered(1, frame=b"\xdc\x00", size=0),
    "four billion": numbered(1, frame=b"\xdd\xff\xff\xff\xff" + pack(GOOD), size=2**32 - 1),
}


@pytest.mark.parametrize("batch", broken.values(), ids=broken.keys())
def test_a_batch_that_is_not_what_it_says_is_not_stored(batch: Numbered) -> None:
    """Its producer counts on all or on none of it."""
    daemon = Daemon()
    told = daemon.take(batch, pack(GOOD))
    assert told.events == [GOOD]
    assert (told.received, told.refused) == (2, 1)
    assert told.nacks == [(ONE, "bad_batch")]
    assert (told.confirmed, daemon.rejects.count) == (set(), 1)
    assert daemon.producers.get(ONE).last == 0
    assert daemon.take(numbered(1, GOOD)).confirmed == {ONE}


def test_a_batch_of_too_many_events_is_not_stored() -> None:
    size = MAX_FRAME_EVENTS + 2
    frame = b"\xdd" + size.to_bytes(4, "big") + b"\x80" * size
    told = Daemon().take(numbered(1, frame=frame, size=size))
    assert (told.events, told.nacks) == ([], [(ONE, "bad_batch")])


@pytest.mark.parametrize(
    "header",
    [
        b"", b"ZI", numbered(1).header + b"x", b"XX" + numbered(1).header[2:],
        numbered(1, version=2).header, numbered(1, flags=1).header, numbered(0).header,
        numbered(1 << 53).header, pack(GOOD),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_read_is_refused(header: bytes) -> None:
    daemon = Daemon()
    told = daemon.take(Numbered(header, pack([GOOD])), pack(GOOD))
    assert told.events == [GOOD]
    assert (told.received, told.refused, daemon.rejects.count) == (2, 1, 1)
    assert daemon.producers.stored == {}


# ---------------------------------------------------------------- registered filters


def test_a_filter_is_written_once_and_there_may_be_so_many() -> None:
    daemon = Daemon()
    told: list[Error | None] = []

    def register(n: int) -> Register:
        return Register(b"%016d" % n, "{}", told.append)

    transaction = daemon.transaction()
    transaction.add([register(1), pack(GOOD), register(1), register(2)])
    batch = transaction.batch(1, NOW)
    rows = [Registration(b"%016d" % n, "{}", NOW) for n in (1, 2)]
    assert (list(batch.filters), len(batch.bodies)) == (rows, 1)
    assert [int(item.name) for item in transaction.registered] == [1, 1, 2]
    daemon.registrations.commit()
    assert daemon.registrations.stored == {row.name: row for row in rows}
    transaction = daemon.transaction()
    transaction.add([register(n) for n in (2, 3, 4, 1)])
    assert [row.name for row in transaction.batch(2, NOW).filters] == [b"%016d" % 3]
    [(_, error)] = transaction.answers
    assert error.code == "busy"
    assert told == [], "nobody is told before the commit"


# ---------------------------------------------------------------- all of it, against the rules

producer = st.sampled_from([ONE, TWO])
steps = st.one_of(
    st.tuples(
        st.just("numbered"), producer, st.integers(0, 2), st.integers(1, 5), st.integers(0, 3),
        st.sampled_from(["good", "good", "good", "bad event", "bad crc", "bad array"]),
    ),
    st.tuples(st.just("raw"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("call"), st.integers(0, 3), st.booleans()),
)  # fmt: skip


class Model:
    """What docs/protocol.md says of the same steps; a list is the store."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.rows = {ONE: (0, 0), TWO: (0, 0)}  # epoch, last
        self.received = self.refused = self.duplicates = self.nacked = 0
        self.acks: set[bytes] = set()
        self.nacks: list[tuple[bytes, str]] = []
        self.answers: list[list[int] | None] = []

    def store(self, labels: list[int], refused: int = 0) -> None:
        self.events += labels
        self.received += len(labels) + refused
        self.refused += refused

    def numbered(self, name: bytes, epoch: int, n: int, labels: list[int], how: str) -> None:
        known, last = self.rows[name]
        if how in ("bad crc", "bad array"):
            # What a batch of a higher epoch says of itself is believed once its crc is right.
            if how == "bad array" and n == last + 1 and epoch >= known:
                self.rows[name] = (epoch, last)
            if how == "bad crc" or (n == last + 1 and epoch >= known):
                self.store([], 1)
                self.nacks.append((name, "bad_batch"))
                return
        size = len(labels) + (how in ("bad event", "bad array"))
        if epoch < known:
            self.nacked += size
            self.nacks.append((name, "fenced"))
            return
        self.rows[name] = (epoch, last)
        if n <= last:
            self.duplicates += size
            self.acks.add(name)
        elif n == last + 1:
            self.store(labels, int(how == "bad event"))
            self.rows[name] = (epoch, n)
            self.acks.add(name)
        else:
            self.nacked += size
            self.nacks.append((name, "gap"))


@given(st.lists(st.lists(steps, max_size=6), max_size=6))
def test_any_history_is_stored_as_the_rules_say(history: list[list[tuple[Any, ...]]]) -> None:
    daemon, model, label = Daemon(), Model(), 0
    stored: list[int] = []
    sums = [0, 0, 0, 0]
    for transaction in history:
        items: list[Item] = []
        model.acks, model.nacks, model.answers = set(), [], []
        waiting: list[tuple[int, int]] = []
        for kind, *rest in transaction:
            count = rest[3] if kind == "numbered" else rest[0]
            labels = list(range(label, label + count))
            label += count
            events: list[Any] = [{"n": each} for each in labels]
            if kind == "numbered":
                name, epoch, n, _, how = rest
                items.append(_batch(name, epoch, n, events, how))
                model.numbered(name, epoch, n, labels, how)
            elif kind == "raw":
                items.append(pack(events + [BAD] * rest[1]))
                model.store(labels, int(rest[1]))
            else:
                items.append(daemon.call(events + [BAD] * rest[1]))
                if rest[1]:
                    model.store([], count + 1)
                    model.answers.append(None)
                else:
                    waiting.append((len(model.events), count))
                    model.store(labels)
        told = daemon.take(*items)
        stored += [event["n"] for event in told.events]
        assert stored == model.events
        assert told.confirmed == model.acks
        assert told.nacks == model.nacks
        ids = [list(range(first + 1, first + 1 + count)) for first, count in waiting]
        assert [answer for answer in told.answers if isinstance(answer, list)] == ids
        assert len(told.answers) == len(ids) + len(model.answers)
        for place, figure in enumerate(told[1:5]):
            sums[place] += figure
        assert sums == [model.received, model.refused, model.duplicates, model.nacked]
        for name, row in model.rows.items():
            assert daemon.producers.get(name)[1:3] == row


def _batch(name: bytes, epoch: int, n: int, events: list[Any], how: str) -> Numbered:
    if how == "bad event":
        return numbered(n, *events, BAD, producer=name, epoch=epoch)
    if how == "bad crc":
        return numbered(n, *events, producer=name, epoch=epoch, crc=1)
    if how == "bad array":  # says that one more is coming, and two come
        frame = pack([*events, 1, 1])
        size = len(events) + 1
        frame = bytes((0x90 | size,)) + frame[1:]
        return numbered(n, producer=name, epoch=epoch, frame=frame, size=size)
    return numbered(n, *events, producer=name, epoch=epoch)
