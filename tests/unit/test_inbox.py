"""The queue to the writer: bounded by what it costs, in order, and no change goes unnoticed."""

import threading
from collections import deque
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream import wire
from zstream.errors import DecodeError
from zstreamd.inbox import Call, Inbox, Item, Malformed, Numbered, Subscription, cost, costs

EVENT = wire.pack({"kind": "x"})
SIZE = cost(EVENT)


def put(inbox: Inbox, *items: Item) -> None:
    inbox.put(items, sum(map(cost, items)))


def named(number: int) -> bytes:
    return wire.pack({"n": number})


def make(limit: int = 10 * SIZE) -> tuple[Inbox, list[None]]:
    rooms: list[None] = []
    return Inbox(limit, lambda: rooms.append(None)), rooms


def test_items_come_out_as_they_went_in() -> None:
    inbox, _ = make()
    put(inbox, named(1), named(2))
    put(inbox, named(3))
    assert inbox.take(100, 1 << 20, 0) == [named(1), named(2), named(3)]
    assert inbox.take(100, 1 << 20, 0) == []


def test_a_take_is_bounded_in_items_and_in_bytes() -> None:
    inbox, _ = make(1 << 20)
    for number in range(10):
        put(inbox, named(number))
    assert inbox.take(3, 1 << 20, 0) == [named(0), named(1), named(2)]
    assert len(inbox.take(100, 2 * cost(named(3)), 0) or []) == 2
    assert len(inbox.take(100, 1 << 20, 0) or []) == 5


def test_what_is_put_at_once_is_taken_at_once() -> None:
    inbox, _ = make()
    put(inbox, named(1), named(2), named(3))
    assert len(inbox.take(1, 1, 0) or []) == 3


def test_a_closed_inbox_gives_what_it_has_and_then_none() -> None:
    inbox, _ = make()
    put(inbox, EVENT)
    inbox.close()
    assert inbox.take(10, 1 << 20, None) == [EVENT]
    assert inbox.take(10, 1 << 20, None) is None


def test_closing_wakes_the_writer() -> None:
    inbox, _ = make()
    taken: list[object] = []
    writer = threading.Thread(target=lambda: taken.append(inbox.take(10, 1 << 20, None)))
    writer.start()
    inbox.close()
    writer.join(20)
    assert taken == [None]


def test_an_empty_put_wakes_nobody_and_costs_nothing() -> None:
    inbox, _ = make()
    inbox.put([], 0)
    assert inbox.bytes == 0
    assert inbox.take(10, 1 << 20, 0) == []


def test_it_is_full_until_half_of_it_is_taken() -> None:
    inbox, rooms = make(10 * SIZE)
    for _ in range(11):
        put(inbox, EVENT)
    assert inbox.full
    inbox.take(5, 1 << 20, 0)
    assert inbox.full
    assert not rooms
    inbox.take(1, 1 << 20, 0)
    assert not inbox.full
    assert len(rooms) == 1


def test_an_item_put_below_the_limit_does_not_hide_that_it_was_full() -> None:
    """The I/O thread waits for the call; whoever else puts something must not swallow it."""
    inbox, rooms = make(10 * SIZE)
    for _ in range(11):
        put(inbox, EVENT)
    inbox.take(4, 1 << 20, 0)
    put(inbox, EVENT)
    assert inbox.full
    inbox.take(100, 1 << 20, 0)
    assert not inbox.full
    assert len(rooms) == 1


@pytest.mark.parametrize(
    ("item", "events"),
    [
        (b"", 1),
        (b"\xc1", 1),
        (EVENT, 1),
        (wire.pack([]), 1),
        (wire.pack([{}] * 15), 15),
        (wire.pack([{}] * 70_000), 70_000),
        (Numbered(b"h" * 40, wire.pack([{}] * 300)), 300),
        (Call(wire.pack([{}] * 300), lambda ids: None), 300),
        (Malformed(b"frames", DecodeError("no insert")), 1),
        (Subscription(b"{}", True), 1),
        (b"\xdd\xff\xff\xff\xff\x80", 6),
    ],
)
def test_every_event_costs_something_beside_its_bytes(item: Item, events: int) -> None:
    if isinstance(item, Subscription):
        size = len(item.topic)
    else:
        size = len(item) if isinstance(item, bytes) else len(item.frame)
    assert cost(item) == size + 100 * events


@given(
    st.lists(
        st.sampled_from([
            b"", b"\xc1", EVENT, wire.pack([]), wire.pack([{}] * 15), wire.pack([{}] * 20),
            b"\xdd\0\0\0\2\x80", Numbered(b"h" * 40, wire.pack([{}] * 3)),
            Subscription(b"\x92", True),
        ])
    )
)  # fmt: skip
def test_many_cost_what_each_of_them_costs(items: list[Item]) -> None:
    assert costs(items) == sum(map(cost, items))


@given(st.lists(st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 9), st.integers(1, 9)))))
def test_any_order_of_puts_and_takes_keeps_the_accounts(steps: list[int | tuple[int, int]]) -> None:
    inbox, rooms = make(8 * SIZE)
    waiting: deque[bytes] = deque()
    number, was_full = count(), 0
    for step in steps:
        if isinstance(step, int):
            items = [named(next(number)) for _ in range(step)]
            before = inbox.full
            put(inbox, *items)
            waiting += items
            was_full += inbox.full and not before
        else:
            most, bytes_ = step
            taken = inbox.take(most, bytes_ * SIZE, 0)
            assert taken == [waiting.popleft() for _ in taken or []]
            assert bool(taken) or not waiting
        assert inbox.bytes == sum(map(cost, waiting))
        assert inbox.full or inbox.bytes <= 8 * SIZE
    inbox.take(1 << 20, 1 << 40, 0)
    assert not inbox.full
    assert len(rooms) == was_full


def test_nothing_is_lost_between_threads_that_stop_when_it_is_full() -> None:
    room = threading.Semaphore(0)
    inbox = Inbox(10 * SIZE, room.release)

    def fill() -> None:
        for number in range(5_000):
            if inbox.full:
                assert room.acquire(timeout=20), "full, and nobody said that it is over"
            put(inbox, named(number))
        inbox.close()

    def call() -> None:
        for _ in range(500):
            put(inbox, Subscription(b"{}", True))

    threads = [threading.Thread(target=fill), threading.Thread(target=call)]
    for thread in threads:
        thread.start()
    found: list[Item] = []
    while (taken := inbox.take(7, 1 << 20, 20)) is not None:
        assert taken, "something waits, and the writer was not woken"
        found += taken
    for thread in threads:
        thread.join()
    found += inbox.take(1_000, 1 << 20, 0) or []
    assert [item for item in found if type(item) is bytes] == [named(n) for n in range(5_000)]
    assert len(found) == 5_500
