"""The part of the conformance suite about other openings, threads and stores than the first."""

from contextlib import ExitStack
from typing import ClassVar

import pytest

from zstream import errors
from zstream.backends.base import Backend, Producer, Query
from zstream.testing.conformance_store import Store, beside, elsewhere, only


class OtherCases:
    """A store is opened again, by many threads, beside another."""

    persistent: ClassVar[bool] = True

    def make(self, url: str) -> Backend:
        """Make the backend; see the suite itself."""
        raise NotImplementedError

    # ------------------------------------------------------------ opening again

    def test_one_object_opens_again_and_again(self, store: Store) -> None:
        """As a daemon does whose store was away; each time it begins a run."""
        backend, runs = store.backend, {store.head.run}
        for n in range(1, 4):
            store.add((n, "a"))
            backend.close()
            store.head = backend.open(("kind", "user"))
            runs.add(store.head.run)
            assert store.head.id == (n if self.persistent else 0)
            if not self.persistent:
                store.add(*((each, "a") for each in range(1, n + 1)))
            assert store.ids(only(kind="a")) == list(range(n, 0, -1))
        assert len(runs) == 4

    def test_closing_what_was_never_open(self, url: str) -> None:
        """It does nothing, and the store can be opened then."""
        backend = self.make(url)
        backend.close()
        with pytest.raises(errors.BackendUnavailable):
            backend.last_id()
        assert backend.open(None).id == 0
        backend.close()

    def test_who_was_refused_comes_next(self, store: Store, url: str) -> None:
        """A daemon that found the store in use leaves no trace, and has it when it is free."""
        if not self.persistent:
            pytest.skip("this store does not outlive its process")
        store.add((1, "a"))
        second = self.make(url)
        for _ in range(2):
            with pytest.raises(errors.StoreLocked):
                second.open(None)
            second.close()
            assert store.add((2, "a"))
        store.close()
        try:
            head = second.open(None)
            assert (head.id, len(head.runs)) == (3, 2)
        finally:
            second.close()

    # ------------------------------------------------------------ threads

    def test_each_call_by_another_thread(self, url: str) -> None:
        """One opens it, another appends, a third reads, and a fourth closes it."""
        store = Store(lambda: self.make(url))
        elsewhere(lambda: store.open(("kind", "user")))
        with ExitStack() as stack:
            stack.callback(store.close)
            for id in range(1, 4):
                assert elsewhere(lambda: store.add((5, "a"))) == [id]
                assert elsewhere(lambda: store.ids(only(kind="a"))) == list(range(id, 0, -1))
                assert elsewhere(store.count) == store.backend.last_id() == id
            assert elsewhere(lambda: store.backend.trim(1)) == 1
            elsewhere(store.backend.tidy)
            assert store.replayed() == [2, 3]
            elsewhere(store.close)

    def test_readers_beside_a_trim(self, store: Store) -> None:
        """What a page has begins above every floor that was answered before it was asked for."""
        floor = 0

        def read() -> None:
            before = floor
            page = store.backend.items(Query(only(kind="a"), limit=1_000))
            low = page.ids[-1] if page.ids else page.head + 1
            assert list(page.ids) == list(range(page.head, low - 1, -1))
            assert low > before

        with beside(lambda: read, lambda: read):
            for n in range(60):
                ids = store.add(*[(n, "a", "u")] * 10)
                if n % 3 == 0:
                    store.backend.trim(ids[5])
                    floor = ids[5]
                store.backend.tidy(idle=False)

    # ------------------------------------------------------------ neighbours

    def test_two_stores_side_by_side(self, store: Store, other_url: str) -> None:
        """They share a server or a folder, and nothing else."""
        other = Store(lambda: self.make(other_url))
        producer = Producer(b"of the other one", 1, 1, 0, b"", 1)
        try:
            assert other.open(("user", "what", "kind")).id == 0
            assert other.head.run != store.head.run
            store.add((1, "a", "u"), (2, "a", "v"))
            other.add((7, "a"), producers=[producer])
            store.backend.trim(1)
            assert other.backend.last_id() == 1
            assert other.ids(only(kind="a")) == [1]  # its first key, whatever it is called
            assert (store.ids(), store.count(), other.count()) == ([2], 1, 1)
            if self.persistent:
                store.close()
                assert other.add((8,)) == [2]
                assert (store.open(None).id, dict(store.head.producers)) == (2, {})
                assert other.reopen().keys == ("user", "what", "kind")
                assert len(other.head.runs) == 2
        finally:
            other.close()
