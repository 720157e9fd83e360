"""Random histories of a store, judged by a plain list: for the author of a backend.

What the conformance suite asks one by one comes here in any order and mixture::

    from zstream.testing.model import BackendModel

    class TestMineRandomly(BackendModel):
        @contextmanager
        def fresh_url(self):
            with tempfile.TemporaryDirectory() as folder:
                yield f"mine:///{folder}/store"

Hypothesis must be installed. A store that takes other ways with much data than with little is best
tried with its limits turned down as well, so that a history of a hundred events meets all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from zstream import keys
from zstream.backends import open_backend
from zstream.backends.base import Backend, Batch, Position, Query
from zstream.testing.model_list import Model, Stored
from zstream.testing.model_steps import KEYS, Counted, Replayed, Walk, batches, steps

__all__ = ["KEYS", "BackendModel", "Checked"]


class Checked:
    """A store and the model beside it: each step is taken by both and compared."""

    backend: Backend

    def __init__(
        self, make: Callable[[str], Backend], url: str, *, persistent: bool = True
    ) -> None:
        self.make, self.url, self.persistent = make, url, persistent
        self.backend = make(url)
        self.backend.open(KEYS)
        self.model = Model()
        self.getters = [keys.getter(key) for key in KEYS]

    def step(self, step: Any) -> None:
        """Take a step of a history."""
        if isinstance(step, list):
            self.append(step)
        elif isinstance(step, Walk):
            self.walk(step)
        elif isinstance(step, Replayed):
            self.replay(step)
        elif isinstance(step, Counted):
            query = Query(keys.normalize(step.filter, KEYS), since=step.since, until=step.until)
            expected = len(self.model.slice(step.filter, step.since, step.until))
            assert self.backend.count(query) == expected
        elif step == "reopen":
            self.reopen()
        elif step == "tidy":
            self.backend.tidy()
        elif step == "settle":
            self.settle()
        else:
            floor = min(step, self.model.last)
            assert self.backend.trim(floor) == self.model.trim(floor)
        assert self.backend.last_id() == self.model.last
        assert self.backend.stats().events == len(self.model.events)

    def append(self, batch: list[Any]) -> None:
        """Append to both."""
        first = self.model.last + 1
        columns = [[keys.index_value(get(event)) for _, event, _ in batch] for get in self.getters]
        ts, bodies = [row[0] for row in batch], [row[2] for row in batch]
        self.backend.append(Batch(first, ts, bodies, columns, first))
        for id, (at, event, body) in enumerate(batch, first):
            self.model.events.append(Stored(id, at, event, body))
            self.model.last = id

    def settle(self) -> None:
        """Let a store that works in the background come to rest; a subclass may know how."""
        for _ in range(100_000):
            if not self.backend.tidy():
                return
        raise AssertionError("there is always more to tidy up")

    def reopen(self) -> None:
        """Close it and open it as another process would."""
        if self.persistent:
            self.backend.close()
            self.backend = self.make(self.url)
            assert self.backend.open(None).id == self.model.last

    def walk(self, walk: Walk) -> None:
        """Walk through both, and compare the pages."""
        expected = [
            stored
            for stored in self.model.slice(walk.filter, walk.since, walk.until)
            if walk.before is None or stored.place < walk.before
        ]
        expected.sort(key=lambda stored: stored.place, reverse=True)
        late, offset, skipped = list(walk.late), walk.offset, 0
        before = None if walk.before is None else Position(*walk.before)
        head: int | None = None
        found: list[tuple[int, int, bytes]] = []
        while True:
            page = self.backend.items(
                Query(
                    keys.normalize(walk.filter, KEYS), walk.since, walk.until, before, head,
                    offset, walk.limit, walk.max_bytes,
                )
            )  # fmt: skip
            assert page.head == self.model.last
            assert len(page.ids) <= walk.limit
            assert len(page.ids) <= 1 or sum(map(len, page.bodies)) <= walk.max_bytes
            found += zip(page.ids, page.ts, page.bodies, strict=True)
            skipped += page.skipped
            offset -= page.skipped
            head = page.head if head is None else head
            if page.next is None:
                break
            assert before is None or page.next < before
            assert not page.ids or page.next <= (page.ts[-1], page.ids[-1])
            before = page.next
            if late:
                self.append(late.pop())
        assert skipped == min(walk.offset, len(expected))
        assert found == [(s.id, s.ts, s.body) for s in expected[walk.offset :]]

    def replay(self, replay: Replayed) -> None:
        """Replay from both, and compare."""
        expected = [s for s in self.model.slice(replay.filter, None, None) if s.id > replay.after]
        query = Query(
            keys.normalize(replay.filter, KEYS), limit=replay.limit, max_bytes=replay.max_bytes
        )
        found: list[tuple[int, int, bytes]] = []
        after = replay.after
        while True:
            page = self.backend.replay(query, after)
            assert page.head == self.model.last
            assert len(page.ids) <= replay.limit
            assert len(page.ids) <= 1 or sum(map(len, page.bodies)) <= replay.max_bytes
            found += zip(page.ids, page.ts, page.bodies, strict=True)
            if page.upto >= page.head:
                break
            assert page.upto > after
            after = page.upto
        assert found == [(s.id, s.ts, s.body) for s in expected]


class BackendModel:
    """A test that leads a store through random histories."""

    #: Whether what was stored is there again after ``close`` and ``open``.
    persistent: ClassVar[bool] = True
    #: How a store is compared with the list; a subclass may know how its store comes to rest.
    checked: ClassVar[type[Checked]] = Checked
    #: Of the examples that Hypothesis is set to try, which part: less for a slow store.
    share: ClassVar[float] = 1.0

    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        """The URL of a store that has no event yet, for one history; a subclass overrides it."""
        raise NotImplementedError("give the model a method 'fresh_url'")
        yield

    def make(self, url: str) -> Backend:
        """Make the backend, not yet open; a subclass may do it in another way."""
        return open_backend(url)

    def test_the_store_answers_as_the_list_does(self) -> None:
        """After every step, whatever came before."""

        # Made here, and not a method: Hypothesis wants a method of its own for each class.
        @settings(
            max_examples=max(int(settings().max_examples * self.share), 1), deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        )  # fmt: skip
        @given(history=st.lists(batches, max_size=3), steps=steps)
        def lead(history: list[Any], steps: list[Any]) -> None:
            with self.fresh_url() as url:
                checked = self.checked(self.make, url, persistent=self.persistent)
                try:
                    for step in [*history, *steps]:
                        note(repr(step))
                        checked.step(step)
                finally:
                    checked.backend.close()

        lead()
