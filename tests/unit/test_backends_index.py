"""The index in memory, against what a plain look at the rows says."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zstream.backends import index_read
from zstream.backends.base import Position, Query
from zstream.backends.index import Segment, View
from zstream.backends.index_key import KeyIndex
from zstream.keys import Value

texts = st.sampled_from("abc")
values = st.one_of(
    st.none(),
    texts,
    texts,
    st.lists(texts, min_size=2, max_size=3, unique=True).map(tuple),
)


def has(value: Value, text: str) -> bool:
    return text in value if isinstance(value, tuple) else value == text


@given(st.lists(st.lists(values, max_size=20), max_size=4), st.data())
def test_a_key_finds_its_rows_below_any_slot(columns: list[list[Value]], data: Any) -> None:
    key = KeyIndex()
    for column in columns:
        key.append(column)
    rows = [value for column in columns for value in column]
    assert key.column(len(rows)) == rows
    end = data.draw(st.integers(0, len(rows)))
    for text in "abc":
        expected = [slot for slot in reversed(range(end)) if has(rows[slot], text)]
        wanted = key.wanted([text, "unknown"])
        assert [slot for n in wanted for slot in key.slots(n, end)] == expected
        assert key.size(wanted) == sum(has(value, text) for value in rows)
        assert [key.matches(slot, wanted) for slot in range(len(rows))] == [
            has(value, text) for value in rows
        ]


def test_a_list_just_below_a_place_is_not_passed_over() -> None:
    key = KeyIndex()
    key.append(["a", ("b", "a"), *["a"] * 20])
    (number,) = key.wanted(["a"])
    assert list(key.slots(number, 2)) == [1, 0]


def test_columns_wait_until_somebody_asks() -> None:
    key = KeyIndex()
    for column in (["a", "b"], [None, "a"], [("b", "c"), "a"]):
        key.append(column)
    assert not key.numbers
    assert key.settle(1)
    assert list(key.numbers) == ["a", "b"]
    (number,) = key.wanted(["a"])
    assert list(key.slots(number, 6)) == [5, 3, 0]
    assert not key.settle()


def test_many_readers_settle_one_key() -> None:
    key = KeyIndex()
    for n in range(300):
        key.append([f"v{n % 7}", f"w{n}"] * 10)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: key.size(key.wanted(["v3", "w299"])), range(32)))
    assert found == [len(range(3, 300, 7)) * 10 + 10] * 32


def segment_of(ts: list[int], first: int = 1) -> Segment:
    segment = Segment(first, 1)
    segment.extend(range(first, first + len(ts)), ts, [[str(at % 2) for at in ts]], [b""] * len(ts))
    return segment


def test_without_rows_nothing_is_appended() -> None:
    segment = segment_of([])
    assert len(segment) == 0
    assert segment.min_ts == -1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_closing_sorts_what_counts(ts: list[int], data: Any) -> None:
    last = data.draw(st.integers(5, 4 + len(ts)))
    segment = segment_of(ts, first=5)
    ordered = ts == sorted(ts)
    assert segment.ordered == ordered
    closed = segment.sealed(last)
    assert (closed is segment) == ordered
    count = last - 5 + 1
    assert closed.count(1_000) == count
    assert closed.ordered
    rows = sorted((at, id) for id, at in enumerate(ts[:count], 5))
    assert list(zip(closed.ts, closed.ids, strict=True))[:count] == rows
    assert closed.keys[0].column(count) == [str(at % 2) for at, _ in rows]
    replayed, upto = index_read.replay(View((closed,), last, 0), Query(), 0, 1_000)
    assert [row.id for row in replayed] == list(range(5, last + 1))
    assert upto == last


def test_a_reader_does_not_see_what_was_appended_since() -> None:
    segment = segment_of([1, 2, 3, 5])
    view = View((segment,), 2, 0)
    for filter in ((), ((0, ("1", "0")),), ((0, ("1",)),)):
        expected = [1] if filter == ((0, ("1",)),) else [2, 1]
        query = Query(filter)
        assert [row.id for row in index_read.find(view, query, 100).rows] == expected
        assert [row.id for row in index_read.replay(view, query, 0, 100)[0]] == expected[::-1]
        assert index_read.count(view, query) == len(expected)
    # Closing it, in place since it is in order, changes nothing for a reader from before.
    segment.sealed(4)
    assert [row.id for row in index_read.replay(view, Query(), 0, 100)[0]] == [1, 2]
    assert index_read.count(view, Query(((0, ("1",)),))) == 1


def test_a_page_ends_when_its_work_is_spent() -> None:
    segment = segment_of([2 * n for n in range(100)] + [199])
    view = View((segment,), 101, 0)
    odd = Query(((0, ("1",)), (0, ("0",))))
    found = index_read.find(View((segment,), 100, 0), Query(((0, ("0",)),)), 7)
    assert [row.id for row in found.rows] == [100, 99, 98, 97, 96, 95, 94]
    assert found.next == Position(184, 94)
    assert index_read.find(view, odd, 7) == ([], None, 0)
    _, upto = index_read.replay(view, Query(), 0, 7)
    assert upto == 7


def test_segments_that_cannot_matter_stay_closed() -> None:
    class Untouchable(Segment):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            assert name != "keys", "this segment need not have been looked into"
            return super().__getattribute__(name)

    old = Untouchable(1, 1)
    Segment.extend(segment := Segment(1, 1), [1, 2], [1, 2], [["0", "0"]])
    for name in ("ids", "ts", "min_ts", "max_ts", "last", "ordered"):
        setattr(old, name, getattr(segment, name))
    old.last = 2
    new = segment_of([10, 11, 12], first=3)
    view = View((old, new), 5, 0)
    zero = ((0, ("0",)),)
    assert [row.id for row in index_read.find(view, Query(zero, limit=1), 100).rows] == [5]
    assert [row.id for row in index_read.find(view, Query(zero, since=9), 100).rows] == [5, 3]
    assert index_read.count(view, Query(zero, since=9)) == 2
