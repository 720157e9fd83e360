"""The queue in memory: batches by count and bytes, every element once and in order."""

from hypothesis import given
from hypothesis import strategies as st

from zstream import wire
from zstream.limits import BATCH_BYTES, BATCH_EVENTS
from zstream.source import MemoryQueue, pack_body


def take_all(queue):
    batches = []
    while (batch := queue.take()) is not None:
        elements, trouble = wire.split_array(batch.body, batch.size)
        assert trouble is None
        assert len(elements) == batch.size
        batches.append(elements)
    return batches


def test_batches_are_cut_by_count():
    queue = MemoryQueue()
    elements = [wire.pack({"n": n}) for n in range(2 * BATCH_EVENTS + 1)]
    queue.put(elements[:1500])
    queue.put(elements[1500:])
    assert [len(batch) for batch in take_all(queue)] == [BATCH_EVENTS, BATCH_EVENTS, 1]


def test_batches_are_cut_by_bytes():
    queue = MemoryQueue()
    half, whole = wire.pack(bytes(BATCH_BYTES // 2 - 5)), wire.pack(bytes(BATCH_BYTES))
    queue.put([half, half, half, whole, b"\x80"])
    assert take_all(queue) == [[half, half], [half], [whole], [b"\x80"]]


@given(st.lists(st.tuples(st.integers(0, 2200), st.integers(0, 3)), max_size=6))
def test_every_element_comes_once_and_in_order(puts):
    queue, expected, taken = MemoryQueue(), [], []
    for count, takes in puts:
        elements = [wire.pack(len(expected) + at) for at in range(count)]
        expected += elements
        queue.put(list(elements))
        for _ in range(takes):
            if (batch := queue.take()) is not None:
                taken += wire.split_array(batch.body, batch.size)[0]
    for batch in take_all(queue):
        taken += batch
    assert taken == expected


def test_a_restart_is_another_producer():
    queue = MemoryQueue()
    before = queue.producer
    assert queue.restart()
    assert queue.producer != before
    assert len(queue.producer) == 16


def test_a_body_is_an_array():
    assert wire.unpack(pack_body(iter([wire.pack(1), wire.pack("a")]))) == [1, "a"]
