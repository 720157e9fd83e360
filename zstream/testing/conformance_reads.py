"""The part of the conformance suite about reading."""

from collections.abc import Callable

import pytest

from zstream.backends.base import Position, Query
from zstream.testing.conformance_store import Row, Store, after, beside, only

#: Texts that are easily taken for one another.
_TEXTS = [
    "", " ", "a", "A", "a ", "á", "a\u0301", "1", "1.0", "01", "null", "true", '["a"]', '["u","v"]',
    '"', "'", "\\", "%", "_", "*", "x'61'", "\n", "\x01", "\x7f", "\u2028", "\ufeff", "ß", "ss",
    "İ", "i", "日本", "\U0001f600", "z" * 255, "é" * 127, "\ufffe", "a,b", "a\tb", "{}", "[]",
]  # fmt: skip


class ReadCases:
    """A store is read: pages, walks, replays, counts."""

    # ------------------------------------------------------------ order

    def test_newest_first(self, store: Store) -> None:
        """By (ts, id): late events stand in their place, ties by id."""
        store.add((50, "a"), (50, "b"), (70, "a"))
        store.add((60, "a"), (50, "a"), (10, "b"))
        assert store.ids() == [3, 4, 5, 2, 1, 6]
        assert store.ids(only(kind="a")) == [3, 4, 5, 1]
        assert store.replayed() == [1, 2, 3, 4, 5, 6]
        assert store.replayed(only(kind="a")) == [1, 3, 4, 5]

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
    def test_a_walk_has_every_event_once(self, store: Store, limit: int) -> None:
        """Whatever the size of its pages, in the midst of many events of one time as well."""
        rows: list[Row] = [((n * 7) % 5, f"k{n % 3}", ("u", f"u{n % 4}")) for n in range(60)]
        store.add(*rows[:25])
        store.add(*rows[25:])
        order = sorted(range(60), key=lambda n: (rows[n][0], n), reverse=True)
        assert store.ids(limit=limit) == [n + 1 for n in order]
        assert store.ids(only(kind="k1"), limit=limit) == [n + 1 for n in order if n % 3 == 1]
        assert store.ids(only(user=("u", "u1", "u2")), limit=limit) == [n + 1 for n in order]
        both = only(kind=("k0", "k1"), user=("u1", "u3"))
        matching = [n for n in range(60) if n % 3 < 2 and n % 2 == 1]
        assert store.ids(both, limit=limit) == [n + 1 for n in order if n in matching]
        assert store.replayed(both, limit=limit) == [n + 1 for n in matching]
        assert store.replayed(limit=limit) == list(range(1, 61))

    def test_the_last_page_says_so(self, store: Store) -> None:
        """No ``next`` where nothing is older, although the page is full."""
        store.add(*((n, "a") for n in range(6)))
        page = store.backend.items(Query(limit=3))
        assert page.next is not None
        page = store.backend.items(Query(limit=3, before=page.next))
        assert (list(page.ids), page.next) == ([3, 2, 1], None)
        page = store.backend.items(Query(only(kind="a"), limit=6))
        assert (len(page.ids), page.next) == (6, None)
        assert store.backend.items(Query(before=Position(0, 1))).next is None

    def test_before_a_place(self, store: Store) -> None:
        """Any (ts, id) is a place, an event need not be there."""
        store.add((10,), (20,), (20,), (20,), (30,))
        assert store.ids(before=Position(20, 3)) == [2, 1]
        assert store.ids(before=Position(20, 1)) == [1]
        assert store.ids(before=Position(25, 0)) == [4, 3, 2, 1]
        assert store.ids(before=Position(10, 1)) == []
        assert store.ids(before=Position(1 << 52, 1 << 52)) == [5, 4, 3, 2, 1]

    def test_late_events_do_not_shift_a_walk(self, store: Store) -> None:
        """A walk sees what was there when it began, and all of that."""
        store.add(*((n * 10, "a", "u") for n in range(1, 21)))
        for filter in ((), only(kind="a"), only(kind=("a", "b"), user="u")):
            query = Query(filter, limit=4)
            expected = store.ids(filter)
            seen: list[int] = []
            while True:
                page = store.backend.items(query)
                seen += page.ids
                if page.next is None:
                    break
                query = after(query, page)
                store.add((page.next.ts - 1, "a", "u"), (5, "a", "u"), (999, "a", "u"))
            assert seen == expected

    # ------------------------------------------------------------ slices

    def test_lists_and_nothing(self, store: Store) -> None:
        """An event is found by each value of a list, once, and by none if it has none."""
        store.add((1, "a", ("x", "y")), (2, None, ("y", "z")), (3, "a", None), (4, "b", "x"))
        assert store.ids(only(user="x")) == [4, 1]
        assert store.ids(only(user="y")) == [2, 1]
        assert store.ids(only(user=("x", "y", "z"))) == [4, 2, 1]
        assert store.count(only(user=("x", "y", "z"))) == 3
        assert store.replayed(only(user=("y", "z"))) == [1, 2]
        assert store.ids(only(kind="a", user=("y", "z"))) == [1]
        assert store.count(only(kind=("a", "b"), user=("x", "y"))) == 2
        assert store.ids(only(kind="x")) == []
        many = ("x", "y", "z", *(f"unknown {n}" for n in range(200)))
        assert store.ids(only(user=many)) == [4, 2, 1]
        assert store.ids(only(kind=("a", *many), user=many)) == [1]
        assert store.replayed(only(user=many)) == [1, 2, 4]
        assert store.count(only(user=many)) == 3

    def test_a_long_list(self, store: Store) -> None:
        """Sixty-four values an event, and every one of them finds it."""
        values = tuple(f"v{n}" for n in range(64))
        store.add((1, "a", values), (2, values, "v0"), (3, "v5", "a"))
        for value in values:
            assert store.ids(only(user=value))[-1] == 1
        assert store.ids(only(kind=values)) == [3, 2]
        assert store.count(only(user=values)) == 2

    def test_no_values_match_nothing(self, store: Store) -> None:
        """An empty list of values is a filter like any other."""
        store.add((1, "a", "u"), (2, "a", "u"))
        for filter in (only(kind=()), only(kind="a", user=()), only(kind=(), user=())):
            page = store.backend.items(Query(filter, offset=1))
            assert (list(page.ids), page.next, page.head) == ([], None, 2)
            assert store.count(filter) == 0
            replay = store.backend.replay(Query(filter), 0)
            assert (list(replay.ids), replay.upto, replay.head) == ([], 2, 2)

    def test_since_and_until(self, store: Store) -> None:
        """``since <= ts < until``, for pages and counts."""
        store.add(*((n % 10, "a" if n % 2 else "b", "u") for n in range(40)))
        for filter in ((), only(kind="a"), only(kind=("a", "b")), only(kind="a", user="u")):
            everything = {id: (id - 1) % 10 for id in store.ids(filter)}
            for since, until in ((None, 4), (3, None), (3, 6), (5, 5), (6, 3), (0, 0), (99, 100)):
                expected = [
                    id
                    for id, ts in everything.items()
                    if (since is None or since <= ts) and (until is None or ts < until)
                ]
                assert store.ids(filter, since=since, until=until, limit=3) == expected
                assert store.count(filter, since=since, until=until) == len(expected)

    def test_thousands_of_values(self, store: Store) -> None:
        """As many as a filter may have, most of them unknown, some of them frequent."""
        store.add(*((n, f"k{n % 3}", f"u{n}") for n in range(3_000)))
        many = tuple(f"u{n}" for n in range(0, 20_000, 2))
        assert store.ids(only(user=many)) == list(range(2_999, 0, -2))
        assert store.count(only(user=many)) == 1_500
        kinds = ("k1", *(f"no{n}" for n in range(9_999)))
        expected = [n + 1 for n in range(2_998, -1, -2) if n % 3 == 1]
        assert store.ids(only(kind=kinds, user=many), limit=100) == expected
        assert store.replayed(only(kind=kinds, user=many), limit=100) == expected[::-1]
        assert store.ids(only(kind=(*kinds, "k0", "k2")), limit=999) == list(range(3_000, 0, -1))

    def test_texts_are_compared_exactly(self, store: Store) -> None:
        """No folding, trimming, guessing or escaping; a list is not its own text."""
        store.add(*((5, text, ("u", "v")) for text in _TEXTS))
        for id, text in enumerate(_TEXTS, 1):
            assert store.ids(only(kind=text)) == [id]
            assert store.ids(only(kind=(text, "no such"), user="v")) == [id]
        store.add(*((5, (text, "both"), text) for text in _TEXTS))
        for id, text in enumerate(_TEXTS, len(_TEXTS) + 1):
            assert store.ids(only(kind="both", user=text)) == [id]
            assert store.ids(only(kind=(text, "both"), user=text)) == [id]
        assert store.ids(only(user='["u", "v"]')) == []

    # ------------------------------------------------------------ pages

    def test_offset(self, store: Store) -> None:
        """A page tells how much of it was passed over; the next asks for the rest."""
        store.add(*((n, f"k{n % 2}", "u") for n in range(30)))
        for filter in ((), only(kind="k0"), only(kind=("k0", "k1"), user="u")):
            ids = store.ids(filter)
            for offset in (0, 1, 7, len(ids) - 1, len(ids), len(ids) + 5):
                pages = store.pages(Query(filter, offset=offset, limit=4))
                assert [id for page in pages for id in page.ids] == ids[offset:]
                assert sum(page.skipped for page in pages) == min(offset, len(ids))

    def test_bytes_of_a_page(self, store: Store) -> None:
        """As many bodies as fit, but one at least; the next page begins behind them."""
        sizes = [10, 500, 10, 10, 2_000, 10, 0, 90, 10]
        store.add(*((n, "a") for n in range(9)), bodies=[bytes(size) for size in sizes])
        for query in (Query(max_bytes=100), Query(only(kind="a"), max_bytes=100, limit=3)):
            pages = store.pages(query)
            assert [id for page in pages for id in page.ids] == list(range(9, 0, -1))
            for page in pages:
                total = sum(map(len, page.bodies))
                assert total <= 100 or len(page.ids) == 1
                assert total == sum(sizes[id - 1] for id in page.ids)
            start = 0
            seen: list[int] = []
            while start < 9:
                replay = store.backend.replay(query, start)
                assert sum(map(len, replay.bodies)) <= 100 or len(replay.ids) == 1
                seen += replay.ids
                start = replay.upto
            assert seen == list(range(1, 10))
        assert list(store.backend.items(Query(max_bytes=100)).ids) == [9, 8, 7]
        assert list(store.backend.items(Query(max_bytes=100, offset=4)).ids) == [5]

    def test_bodies_are_opaque(self, store: Store) -> None:
        """Any bytes come back as they were."""
        bodies = [
            b"",
            b"\x00",
            b"\x00\x00a\x00",
            bytes(range(256)),
            b"\xff\xfe",
            b",",
            b"'",
            b"\xc3",
        ]
        bodies += [bytes([n % 251]) * (1 << n) for n in range(21)]
        for n, body in enumerate(bodies):
            store.add((n, "a"), bodies=[body])
        found = [body for page in store.pages(Query()) for body in page.bodies]
        assert found == bodies[::-1]
        replay = store.backend.replay(Query(only(kind="a"), limit=20), 0)
        assert replay.ids
        assert list(replay.bodies) == bodies[: len(replay.bodies)]

    def test_the_largest_page(self, store: Store) -> None:
        """A thousand events of some size in one page, and a thousand passed over."""
        store.add(*((n // 10, "a") for n in range(2_500)), bodies=[bytes(300)] * 2_500)
        for offset in (0, 1_000):
            pages = store.pages(Query(only(kind="a"), limit=1_000, offset=offset))
            ids = [id for page in pages for id in page.ids]
            assert ids == list(range(2_500 - offset, 0, -1))
            assert max(len(page.ids) for page in pages) <= 1_000
            assert all(len(body) == 300 for page in pages for body in page.bodies)

    def test_replay(self, store: Store) -> None:
        """From above an id; complete up to ``upto``, and to the head at the end."""
        store.add(*((100 - n, f"k{n % 2}") for n in range(10)))
        page = store.backend.replay(Query(limit=3), 4)
        assert (list(page.ids), page.upto, page.head) == ([5, 6, 7], 7, 10)
        page = store.backend.replay(Query(only(kind="k0"), limit=2), 3)
        assert list(page.ids) == [5, 7]
        assert 7 <= page.upto < 9
        assert store.replayed(only(kind="none")) == []
        assert store.replayed(start=10) == []
        page = store.backend.replay(Query(only(kind="none")), 10)
        assert (page.upto, page.head) == (10, 10)

    # ------------------------------------------------------------ threads

    def test_readers_beside_the_writer(self, store: Store) -> None:
        """They see whole batches in their order, each page one state of the store."""
        batches, size = 120, 5

        def reader() -> Callable[[], None]:
            seen = 0

            def read() -> None:
                nonlocal seen
                pages = store.pages(Query(only(kind="a"), limit=1_000))
                head = pages[0].head
                assert (head % size, head >= seen) == (0, True)
                ids = [id for page in pages for id in page.ids]
                assert ids == list(range(head, 0, -1))
                bodies = [body for page in pages for body in page.bodies]
                assert bodies == [b"event %d" % id for id in ids]
                replay = store.backend.replay(Query(), seen)
                assert list(replay.ids) == list(range(seen + 1, replay.upto + 1))
                assert store.count(only(user=("u", "v"))) >= head
                seen = head

            return read

        with beside(reader, reader, reader):
            for batch in range(batches):
                store.add(*((batch * size + n, "a", ("u", f"u{n}")) for n in range(size)))
        assert store.count() == batches * size
