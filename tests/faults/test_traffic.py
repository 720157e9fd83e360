"""The checks of the other tests find what they are to find."""

import pytest

from .test_restore import check_follower, check_producer
from .test_spool import check_spooled
from .traffic import FILTERS, Row, check_store, check_tail, make_event, matches, wanted

ROWS = [(1, 0, 0), (2, 1, 0), (3, 0, 1), (4, 1, 1), (5, 0, 2)]


def test_a_store() -> None:
    check_store(ROWS, {0: [0, 1, 2], 1: [0, 1]})


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (ROWS[:-1], "1 lost"),
        (ROWS[1:], "1 lost"),
        ([*ROWS, (6, 1, 2)], "1 too many"),
        ([*ROWS, (6, 2, 0)], "1 too many"),
        ([*ROWS, (6, 1, 0)], "1 twice"),
        ([(1, 0, 1), (2, 1, 0), (3, 0, 0), (4, 1, 1), (5, 0, 2)], "first difference at 0"),
    ],
)
def test_a_store_that_is_wrong(rows: list[Row], found: str) -> None:
    with pytest.raises(AssertionError, match=found):
        check_store(rows, {0: [0, 1, 2], 1: [0, 1]})


@pytest.mark.parametrize(
    ("got", "found"),
    [
        (ROWS[:-1], "1 lost"),
        ([*ROWS[:2], *ROWS[3:]], "1 lost"),
        ([*ROWS, (6, 1, 2)], "1 too many"),
        ([*ROWS[:2], *ROWS[1:]], "1 twice"),
        ([ROWS[1], ROWS[0], *ROWS[2:]], "first difference at 0"),
        ([*ROWS[:-1], (5, 0, 3)], "1 events under other ids"),
    ],
)
def test_a_tail_that_is_wrong(got: list[Row], found: str) -> None:
    check_tail("good", ROWS, ROWS)
    with pytest.raises(AssertionError, match=found):
        check_tail("bad", got, ROWS)


def test_what_a_filter_wants() -> None:
    rows = [(n + 1, n % 3, n) for n in range(500)]
    assert wanted({}, rows) == rows
    for filter in (FILTERS["one"], FILTERS["many"]):
        few = wanted(filter, rows)
        assert 10 < len(few) < 200
        assert all(make_event(p, n)["kind"] in ("watch", "fork") for _, p, n in few)
    assert matches({"kind": ["watch"], "user": [0, 1]}, 1_000_000, 0)


def test_a_spool_that_lost_something() -> None:
    def at(seconds: float) -> int:
        return round(seconds * 1e9)

    inserts = [(at(1), 0), (at(2), 1), (at(3), 2)]
    rows = [(id + 1, 7, id) for id in range(3)]
    assert check_spooled(rows, {7: inserts}, {}) == (0, 0.0)
    assert check_spooled(rows[:2], {7: inserts}, {7: at(3.02)}) == (1, pytest.approx(0.02))
    assert check_spooled([*rows, (4, 7, 3)], {7: inserts}, {7: at(4)}) == (0, 0.0)
    for stored, kills in (
        (rows[:2], {}),
        (rows[:1], {7: at(3.02)}),
        (rows[1:], {7: at(3.02)}),
        ([*rows, rows[2]], {7: at(4)}),
        ([*rows, (4, 7, 3), (5, 7, 4)], {7: at(4)}),
    ):
        with pytest.raises(AssertionError):
            check_spooled(stored, {7: inserts}, kills)


def test_a_restore_that_lost_something() -> None:
    def stored(*numbers: int) -> list[Row]:
        return [(id, 0, n) for id, n in enumerate(numbers, 1)]

    kept, old = stored(0, 1), stored(0, 1, 2, 3)
    for good in ((0, 1, 4, 5), (0, 1, 2, 3, 4, 5), (0, 1, 3, 4, 5)):
        check_producer(0, range(6, 7), kept, old, stored(*good))
    for bad in (
        (0, 1, 5),
        (0, 1, 4),
        (0, 1, 4, 4, 5),
        (0, 1, 2, 4, 5),
        (0, 1, 1, 2, 3, 4, 5),
        (0, 1),
    ):
        with pytest.raises(AssertionError):
            check_producer(0, range(6, 7), kept, old, stored(*bad))
    now = stored(0, 1, 4, 5)
    check_follower("f", now, "the end", old, now)
    check_follower("f", old, "CursorLost", old, now)
    for got, ended in ((old, "the end"), (now, "CursorLost"), (now[:3], "the end")):
        with pytest.raises(AssertionError):
            check_follower("f", got, ended, old, now)
