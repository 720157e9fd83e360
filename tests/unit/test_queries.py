import datetime

import pytest

from zstream import wire
from zstream.cursor import Cursor
from zstream.errors import BadFilter, BadRequest, BadTime, DecodeError
from zstream.limits import BATCH_BYTES, BATCH_EVENTS, MAX_FILTER_VALUES
from zstream.queries import Inserts, Items, make_filter, make_query, make_start
from zstream.tail import State


def test_filters_in_normal_form():
    assert make_filter(None, {}) == {}
    assert make_filter({"kind": "friend"}, {"user": 23}) == {"kind": "friend", "user": "23"}
    assert make_filter({"b": 1, "a.c": True}, {}) == {"a.c": "true", "b": "1"}
    assert list(make_filter({"b": 1, "a": 1}, {})) == ["a", "b"]


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, "3"], (3, 1), {1, 3}, frozenset("13"), {1: None, 3: None}.keys(),
        (each for each in (1, 3)), range(1, 4, 2), {"a": 1, "b": 3}.values(),
    ],
)  # fmt: skip
def test_any_iterable_is_a_list_of_values(values):
    assert make_filter({"user": values}, {}) == {"user": ["1", "3"]}


def test_no_values_match_nothing_and_are_still_asked_for():
    assert make_filter({"user": []}, {}) == {"user": []}


@pytest.mark.parametrize(
    "filter",
    [
        "kind", 5, [("kind", 1)], {1: 2}, {None: 1}, {"a": None}, {"a": b"x"}, {"a": [b"x"]},
        {"a": {"b": 1}}, {"a": [{"b": 1}]}, {"a": [[1]]}, {"a": "x" * 256}, {"a": "\0"},
        {"a": float("nan")}, {"a": range(MAX_FILTER_VALUES + 1)}, {"a": object()},
    ],
)  # fmt: skip
def test_what_can_match_nothing_is_refused_here(filter):
    with pytest.raises(BadFilter):
        make_filter(filter, {})


def test_a_key_given_twice_is_a_type_error():
    with pytest.raises(TypeError, match="kind"):
        make_filter({"kind": 1}, {"kind": 1})


@pytest.mark.parametrize("name", ["start", "end", "since", "until", "before", "after"])
def test_an_argument_of_another_query_is_no_key(name):
    with pytest.raises(TypeError, match=name):
        make_filter(None, {name: 1})
    assert make_filter({name: 1}, {}) == {name: "1"}


def test_time_ranges():
    day = datetime.datetime(1970, 1, 2)
    query = make_query({"a": 1}, {}, 1.5, day, datetime.UTC)
    assert query == {"filter": {"a": "1"}, "since": 1_500_000, "until": 86_400_000_000}
    assert make_query(None, {}, None, None, None) == {"filter": {}}
    assert make_query(None, {}, 5, 4, None)["since"] == 5_000_000, "an empty range is one"
    with pytest.raises(BadTime, match="until"):
        make_query(None, {}, None, day, None)


def reply(count, *, next=None, skipped=0, head=9):
    return {
        "events": [[id, id * 10, {"n": id}] for id in range(count)],
        "next": next, "skipped": skipped, "head": head,
    }  # fmt: skip


def test_one_page_is_one_request():
    items = Items({"filter": {}}, 0, None, None)
    assert items.request() == {"filter": {}, "start": 0, "limit": 20}
    items.reply(reply(20, next="more"))
    assert items.request() is None
    assert (len(items.page), items.page.next, items.page.head) == (20, "more", 9)
    assert (items.page[3], items.page[3].id, items.page[3].ts) == ({"n": 3}, 3, 30)


def test_short_and_empty_pages_are_followed():
    items = Items({"filter": {}}, 5, 2_000, "first")
    assert items.request() == {"filter": {}, "start": 5, "limit": 1_000, "before": "first"}
    items.reply(reply(0, next="a", skipped=3, head=9))
    assert items.request() == {"filter": {}, "start": 2, "limit": 1_000, "before": "a"}
    items.reply(reply(600, next="b", skipped=2, head=10))
    assert items.request() == {"filter": {}, "start": 0, "limit": 1_000, "before": "b"}
    items.reply(reply(1_000, next="c"))
    assert items.request()["limit"] == 395
    items.reply(reply(300))
    assert items.request() is None
    assert (len(items.page), items.page.next, items.page.head) == (1_900, None, 9)


def test_an_empty_slice_asks_nothing_and_keeps_the_place():
    items = Items({"filter": {}}, 5, 5, "token")
    assert items.request() is None
    assert (items.page, items.page.next) == ([], "token")


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [
        (-1, None, "start"), (0, -1, "end"), (True, None, "start"), (0.0, 5, "start"),
        (0, "5", "end"), (None, 5, "start"), (5, 4, "before start"),
        (0, 10_001, "before=page.next"), (9_990, None, "before=page.next"),
    ],
)  # fmt: skip
def test_a_slice_that_is_none(start, end, why):
    with pytest.raises(BadRequest, match=why):
        Items({"filter": {}}, start, end, None)


def test_a_token_is_text():
    with pytest.raises(BadRequest, match=r"page\.next"):
        Items({"filter": {}}, 0, 5, 17)


@pytest.mark.parametrize(
    "broken", [{}, {**reply(1), "events": 5}, {**reply(1), "events": [[1, 2]]}, {"events": []}]
)
def test_a_reply_that_is_no_page(broken):
    with pytest.raises(DecodeError):
        Items({"filter": {}}, 0, 5, None).reply(broken)


def test_where_a_tail_begins():
    cursor = Cursor(5, {0: 7})
    for arguments in ((None, None), (0, None), ("17", None), (str(cursor), None), (None, 3)):
        assert make_start(*arguments, None).state is State.WAITING
    for after in (-1, True, 1.5, b"c1.5.0-7", 1 << 53, "c1.5", "nonsense"):
        with pytest.raises(BadRequest):
            make_start(after, None, None)
    with pytest.raises(BadRequest, match="not both"):
        make_start(1, 1, None)
    with pytest.raises(BadTime):
        make_start(None, "yesterday", None)


def packed(request):
    return wire.unpack(request["events"])


def test_inserts_are_cut_into_requests():
    elements = [wire.pack({"n": n}) for n in range(BATCH_EVENTS + 1)]
    inserts = Inserts(elements)
    assert packed(inserts.request()) == [{"n": n} for n in range(BATCH_EVENTS)]
    inserts.reply({"ids": list(range(1, BATCH_EVENTS + 1))})
    assert packed(inserts.request()) == [{"n": BATCH_EVENTS}]
    inserts.reply({"ids": [BATCH_EVENTS + 1]})
    assert inserts.request() is None
    assert inserts.ids == list(range(1, BATCH_EVENTS + 2))


def test_inserts_are_cut_by_bytes_too():
    elements = [wire.pack({"x": b"x" * (BATCH_BYTES // 2)})] * 3
    inserts, sizes = Inserts(elements), []
    while (request := inserts.request()) is not None:
        sizes.append(len(packed(request)))
        inserts.reply({"ids": [1] * sizes[-1]})
    assert sizes == [1, 1, 1]
    assert Inserts([]).request() is None


@pytest.mark.parametrize("ids", [None, [], [1], [1, 2, 3], "ab"])
def test_other_ids_than_asked_for(ids):
    inserts = Inserts([wire.pack({})] * 2)
    inserts.request()
    with pytest.raises(DecodeError):
        inserts.reply({"ids": ids})


def test_an_error_in_the_middle_says_what_is_stored():
    inserts = Inserts([wire.pack({})] * (BATCH_EVENTS + 1))
    inserts.request()
    inserts.reply({"ids": [1] * BATCH_EVENTS})
    with pytest.raises(LookupError) as caught, inserts.annotated():
        raise LookupError
    assert caught.value.__notes__ == ["the first 1000 of 1001 were stored"]
