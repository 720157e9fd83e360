"""The part of the conformance suite about limits, and about calls at odd times."""

import time
from contextlib import suppress
from typing import ClassVar

from zstream import errors
from zstream.backends.base import PROBE_S, Backend, Position, Producer, Query
from zstream.limits import MAX_INTEGER, MAX_KEYS, MAX_NODE
from zstream.testing.conformance_store import Store, elsewhere, only


class EdgeCases:
    """A store is asked for what is allowed and seldom."""

    persistent: ClassVar[bool] = True

    def make(self, url: str) -> Backend:
        """Make the backend; see the suite itself."""
        raise NotImplementedError

    # ------------------------------------------------------------ limits

    def test_as_many_keys_as_there_may_be(self, url: str) -> None:
        """The last one is as good as the first."""
        store = Store(lambda: self.make(url))
        keys = tuple(f"key {n}" for n in range(MAX_KEYS))
        try:
            head = store.open(keys)
            assert head.keys == keys
            assert 0 <= head.node <= MAX_NODE
            store.add((5, *keys), (6, *[("a", "b")] * MAX_KEYS), (7,))
            for n, key in enumerate(keys):
                assert store.ids(((n, (key,)),)) == [1]
                assert store.ids(((n, ("b", key)),)) == [2, 1]
            assert store.count(tuple((n, ("a", key)) for n, key in enumerate(keys))) == 2
        finally:
            store.close()

    def test_numbers_up_to_the_largest(self, store: Store) -> None:
        """Times, arrivals and producers' numbers are kept exactly, up to 2^53 - 1."""
        top = MAX_INTEGER
        times = (top, 0, top - 1, 1, top)
        producer = Producer(b"\xff" * 16, top, top - 1, top, bytes(100_000), top)
        store.add(*((ts, "a") for ts in times), arrival=top, producers=[producer])
        assert store.ids() == store.ids(only(kind="a"), limit=2) == [5, 1, 3, 4, 2]
        found = store.backend.items(Query(only(kind="a")))
        assert list(found.ts) == [top, top, top - 1, 1, 0]
        assert store.ids(since=top - 1, until=top) == [3]
        assert store.ids(only(kind="a"), since=1, until=top) == [3, 4]
        assert store.ids(only(kind="a"), before=Position(top, 5)) == [1, 3, 4, 2]
        assert store.count(only(kind="a"), since=top) == 2
        if self.persistent:
            head = store.reopen()
            assert (head.arrival, head.producers) == (top, {producer.id: producer})
            assert store.ids(only(kind="a")) == [5, 1, 3, 4, 2]

    def test_a_head_below_what_is_there(self, store: Store) -> None:
        """Only ids up to it are given; the page tells the store's head all the same."""
        store.add(*((n % 4, "a" if n % 2 else "b", ("u", "v")) for n in range(12)))
        for filter in ((), only(kind="a"), only(kind=("a", "b"), user="u")):
            everything = store.ids(filter)
            for head in (0, 1, 5, 11, 12, 13, MAX_INTEGER):
                expected = [id for id in everything if id <= head]
                assert store.ids(filter, head=head, limit=2) == expected
                pages = store.pages(Query(filter, head=head, offset=1, limit=100))
                assert [id for page in pages for id in page.ids] == expected[1:]
                assert sum(page.skipped for page in pages) == min(1, len(expected))
                assert {page.head for page in pages} == {12}

    def test_a_replay_from_beyond_the_end(self, store: Store) -> None:
        """It has nothing, and is at the end."""
        for rows in ((), ((1, "a"), (2, "a"))):
            store.add(*rows)
            for filter in ((), only(kind="a"), only(kind=("a", "b"))):
                for after in (len(rows), len(rows) + 1, MAX_INTEGER):
                    page = store.backend.replay(Query(filter), after)
                    assert (list(page.ids), page.head) == ([], len(rows))
                    assert page.upto >= page.head

    def test_a_trim_that_is_none(self, store: Store) -> None:
        """A floor that is reached already, or none, changes nothing."""
        store.add((1, "a"), (2, "a"), (3, "a"))
        assert store.backend.trim(0) == 0
        assert store.ids(only(kind="a")) == [3, 2, 1]
        assert store.backend.trim(2) == 2
        for floor in (0, 1, 2):
            assert store.backend.trim(floor) == 0
        assert store.replayed() == store.ids(only(kind="a")) == [3]
        # A place that was trimmed is a place all the same.
        assert store.ids(before=Position(2, 2)) == []
        assert store.replayed(start=1) == [3]
        if self.persistent:
            assert store.reopen().floor == 2
            assert store.backend.trim(1) == 0

    # ------------------------------------------------------------ the daemon's other questions

    def test_what_is_promised(self, store: Store) -> None:
        """One of three words."""
        assert store.backend.durability in ("synced", "second", "unsynced")

    def test_a_probe(self, store: Store) -> None:
        """A store that is there says so quickly, by any thread; a closed one may say what it is."""
        store.add((1,))
        began = time.monotonic()
        for _ in range(3):
            elsewhere(store.backend.probe)
        assert time.monotonic() - began < 3 * PROBE_S
        assert store.ids() == [1]
        store.close()
        with suppress(errors.BackendUnavailable):
            store.backend.probe()

    def test_an_interrupt_when_nothing_is_under_way(self, store: Store) -> None:
        """It harms nobody, however often, and the store goes on."""
        store.add((1, "a"))
        for id in (2, 3):
            elsewhere(store.backend.interrupt)
            store.backend.interrupt()
            assert store.ids(only(kind="a")) == list(range(id - 1, 0, -1))
            store.backend.interrupt()
            assert store.add((id, "a")) == [id]
            store.backend.interrupt()
            store.backend.probe()
        assert store.count() == 3
        store.close()
        store.backend.interrupt()

    def test_tidying_up_comes_to_an_end(self, store: Store) -> None:
        """At any time it may be called, and changes nothing that can be seen."""
        store.tidied()
        for n in range(40):
            store.add(*((n, "a", ("u", f"u{n}")) for n in range(50)))
            store.backend.tidy(idle=n % 2 == 0)
        store.backend.trim(1_234)
        for _ in range(3):
            store.backend.tidy(idle=False)
            assert store.add((99, "b"))
        store.tidied()
        assert store.replayed(only(kind="a")) == list(range(1_235, 2_001))
        assert store.ids(only(kind="b")) == [2_003, 2_002, 2_001]
        assert store.count(only(user="u7")) == 15
        store.backend.trim(2_003)
        store.tidied()
        assert store.backend.stats().events == store.count() == 0
        assert store.add((1,)) == [2_004]
        if self.persistent:
            store.reopen()
            store.tidied()
            assert store.ids() == [2_004]
