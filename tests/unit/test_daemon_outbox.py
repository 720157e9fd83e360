"""What goes to the I/O thread: in order, bounded in bytes, and always with a ring."""

import select
import threading
from collections.abc import Iterator

import pytest

from zstreamd.outbox import Outbox


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    made = Outbox(10_000)
    yield made
    made.close()


def readable(outbox: Outbox, timeout_s: float = 0) -> bool:
    return bool(select.select([outbox.fileno()], [], [], timeout_s)[0])


def test_replies_and_publications_keep_their_order(outbox: Outbox) -> None:
    outbox.reply([b"peer", b"", b"1"], 10)
    outbox.publish([[b"a"], [b"b"]])
    outbox.reply([b"peer", b"", b"2"], 20)
    outbox.publish([[b"c"]])
    replies, publications = outbox.take()
    assert replies == [([b"peer", b"", b"1"], 10), ([b"peer", b"", b"2"], 20)]
    assert publications == [[b"a"], [b"b"], [b"c"]]
    assert outbox.take() == ([], [])


def test_the_descriptor_is_readable_while_something_waits(outbox: Outbox) -> None:
    assert not readable(outbox)
    for leave in (
        lambda: outbox.reply([b"peer"], 0),
        lambda: outbox.publish([[b"a"]]),
        outbox.ring,
    ):
        leave()
        leave()
        assert readable(outbox)
        outbox.take()
        assert not readable(outbox)
    outbox.publish([])
    assert not readable(outbox)


def test_publications_are_bounded_and_the_dropped_ones_counted(outbox: Outbox) -> None:
    outbox.publish([[b"topic", bytes([n]) * 2_000] for n in range(9)])
    _, kept = outbox.take()
    assert [message[1][0] for message in kept] == [0, 1, 2, 3]
    assert outbox.dropped == 5
    outbox.publish([[b"topic", b"room again"]])
    assert outbox.take()[1] == [[b"topic", b"room again"]]


def test_a_publication_over_the_bound_goes_alone(outbox: Outbox) -> None:
    large = [b"topic", b"x" * 20_000]
    outbox.publish([large, [b"topic", b"behind it"]])
    assert outbox.take()[1] == [large]
    assert outbox.dropped == 1


def test_replies_are_never_dropped(outbox: Outbox) -> None:
    for _ in range(5):
        outbox.reply([b"peer", b"x" * 5_000], 1)
    assert len(outbox.take()[0]) == 5
    assert outbox.dropped == 0


def test_no_ring_is_lost_between_threads(outbox: Outbox) -> None:
    def work(name: bytes) -> None:
        for number in range(3_000):
            outbox.reply([name, b"%d" % number], 0)

    threads = [threading.Thread(target=work, args=(b"%d" % n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    found: list[tuple[bytes, ...]] = []
    while len(found) < 12_000:
        assert readable(outbox, 20), f"{len(found)} of 12,000 came, and no ring for the next"
        found += [tuple(message) for message, _ in outbox.take()[0]]
    for thread in threads:
        thread.join()
    for name in (b"0", b"1", b"2", b"3"):
        assert [number for peer, number in found if peer == name] == [
            b"%d" % n for n in range(3_000)
        ]
