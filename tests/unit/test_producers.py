"""Numbered batches: go-back-N as docs/protocol.md has it, with one row a producer."""

from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from zstream.backends.base import Producer
from zstream.errors import BadTime, EventError
from zstream.limits import FIRST_PROBE_N, PROBE_N
from zstream.wire import BatchHeader
from zstreamd.producers import KEPT_REFUSALS, Producers
from zstreamd.validate import Refusal

ONE, TWO = b"1" * 16, b"2" * 16
NOW = 1_700_000_000_000_000


def header(n: int, epoch: int = 1, producer: bytes = ONE) -> BatchHeader:
    return BatchHeader(producer, epoch, n, 1, 0)


def refusals(*positions: int) -> list[Refusal]:
    return [Refusal(position, EventError(f"bad {position}"), b"x") for position in positions]


def kept(row: Producer) -> list[list[Any]]:
    found = msgpack.unpackb(row.refusals)
    assert isinstance(found, list)
    return found


def test_an_unknown_producer_begins_with_one() -> None:
    producers = Producers({})
    assert producers.get(ONE) == Producer(ONE, 0, 0, 0, b"\x90", 0)
    assert producers.judge(header(2), NOW) == "gap"
    assert producers.judge(header(1), NOW) == "next"


def test_a_batch_advances_by_one_and_is_known_only_after_the_commit() -> None:
    producers = Producers({})
    assert producers.judge(header(1), NOW) == "next"
    producers.accept(header(1), [], NOW)
    assert producers.judge(header(1), NOW) == "again"
    assert producers.judge(header(2), NOW) == "next"
    assert producers.stored == {}
    assert producers.changes() == [Producer(ONE, 1, 1, 0, b"\x90", NOW)]
    producers.commit()
    assert producers.stored[ONE].last == 1
    assert producers.changes() == []


def test_a_higher_epoch_fences_and_keeps_last() -> None:
    producers = Producers({ONE: Producer(ONE, 3, 7, 0, b"\x90", NOW)})
    assert producers.judge(header(8, epoch=2), NOW) == "fenced"
    assert producers.judge(header(7, epoch=4), NOW) == "again"
    assert producers.judge(header(8, epoch=3), NOW) == "fenced"
    assert producers.judge(header(8, epoch=4), NOW) == "next"
    assert producers.changes() == [Producer(ONE, 4, 7, 0, b"\x90", NOW)]


def test_a_gap_of_a_higher_epoch_fences_all_the_same() -> None:
    producers = Producers({ONE: Producer(ONE, 1, 7, 0, b"\x90", NOW)})
    assert producers.judge(header(9, epoch=2), NOW) == "gap"
    producers.commit()
    assert producers.judge(header(8, epoch=1), NOW) == "fenced"


def test_a_probe_is_a_gap_and_leaves_no_trace() -> None:
    row = Producer(ONE, 1, 7, 0, b"\x90", NOW)
    producers = Producers({ONE: row})
    for _ in range(2):
        assert producers.judge(header(PROBE_N, epoch=1), NOW + 9) == "gap"
        assert producers.judge(header(PROBE_N, epoch=0), NOW + 9) == "fenced"
        assert producers.judge(header(PROBE_N, epoch=0, producer=TWO), NOW + 9) == "gap"
    assert producers.changes() == []
    producers.commit()
    assert producers.stored == {ONE: row}


def test_a_probe_of_a_higher_epoch_fences() -> None:
    producers = Producers({ONE: Producer(ONE, 1, 7, 0, b"\x90", NOW)})
    assert producers.judge(header(PROBE_N, epoch=2), NOW) == "gap"
    assert producers.changes() == [Producer(ONE, 2, 7, 0, b"\x90", NOW)]
    assert producers.judge(header(8, epoch=1), NOW) == "fenced"


def test_a_probe_is_not_even_taken_where_its_number_would_be_next() -> None:
    for n in (FIRST_PROBE_N, FIRST_PROBE_N + 5, PROBE_N):
        row = Producer(ONE, 1, n - 1, 0, b"\x90", NOW)
        assert Producers({ONE: row}).judge(header(n), NOW) == "gap"
    row = Producer(ONE, 1, FIRST_PROBE_N - 2, 0, b"\x90", NOW)
    assert Producers({ONE: row}).judge(header(FIRST_PROBE_N - 1), NOW) == "next"


def test_refusals_are_counted_and_the_newest_kept() -> None:
    producers = Producers({})
    producers.accept(header(1), refusals(0, 5), NOW)
    assert kept(producers.get(ONE)) == [
        [1, 0, "bad_event", "bad 0"], [1, 5, "bad_event", "bad 5"],
    ]  # fmt: skip
    producers.accept(header(2), [Refusal(3, BadTime("y" * 9_999), b"")], NOW)
    assert kept(producers.get(ONE))[-1] == [2, 3, "bad_request", "y" * 500]
    producers.accept(header(3), refusals(*range(KEPT_REFUSALS + 50)), NOW)
    row = producers.get(ONE)
    assert row.refused == 3 + KEPT_REFUSALS + 50
    assert [place for _, place, _, _ in kept(row)] == list(range(50, KEPT_REFUSALS + 50))


step = st.tuples(
    st.sampled_from([ONE, TWO]), st.integers(0, 3), st.integers(1, 6), st.integers(0, 2),
    st.booleans(),
)  # fmt: skip


@given(st.lists(step, max_size=40))
def test_it_is_go_back_n(steps: list[tuple[bytes, int, int, int, bool]]) -> None:
    """Against the rules, told again: an epoch, a last number and a sum for each producer."""
    producers = Producers({})
    epochs, lasts, sums = {ONE: 0, TWO: 0}, {ONE: 0, TWO: 0}, {ONE: 0, TWO: 0}
    for producer, epoch, n, bad, commits in steps:
        verdict = producers.judge(header(n, epoch, producer), NOW)
        if epoch < epochs[producer]:
            expected = "fenced"
        else:
            epochs[producer] = epoch
            step = n - lasts[producer]
            expected = "again" if step <= 0 else "next" if step == 1 else "gap"
        assert verdict == expected
        if verdict == "next":
            producers.accept(header(n, epoch, producer), refusals(*range(bad)), NOW)
            lasts[producer] = n
            sums[producer] += bad
        if commits:
            producers.commit()
        row = producers.get(producer)
        assert (row.epoch, row.last, row.refused) == (
            epochs[producer], lasts[producer], sums[producer],
        )  # fmt: skip
        assert len(kept(row)) == min(row.refused, KEPT_REFUSALS)
    producers.commit()
    for producer, row in producers.stored.items():
        assert (row.id, row.epoch, row.last) == (producer, epochs[producer], lasts[producer])
