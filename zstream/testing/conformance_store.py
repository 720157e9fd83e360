"""How the conformance suite speaks to a store: events as short tuples, walks as one call."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from zstream.backends.base import Backend, Batch, Head, Page, Position, Producer, Query
from zstream.keys import Filter, Value

T = TypeVar("T")
_TIDIED_S = 30.0

#: An event: its time and its values, in the order of the keys.
Row = tuple[Any, ...]


def only(**wanted: Sequence[str] | str) -> Filter:
    """A filter on the keys ``kind`` and ``user``, in normal form."""
    terms = []
    for position, key in enumerate(("kind", "user")):
        if key in wanted:
            values = wanted[key]
            texts = (values,) if isinstance(values, str) else tuple(sorted(set(values)))
            terms.append((position, texts))
    return tuple(terms)


class Store:
    """A backend, and what a test would otherwise write again and again.

    Attributes:
        backend: The one that is open.
        head: What its opening gave.
    """

    backend: Backend
    head: Head

    def __init__(self, make: Callable[[], Backend]) -> None:
        """Remember how to make the backend; nothing is opened yet."""
        self._make = make
        self._arrival = 1_000_000

    def open(self, keys: Sequence[str] | None) -> Head:
        """Make a backend and open it."""
        self.backend = self._make()
        self.head = self.backend.open(keys)
        return self.head

    def reopen(self, keys: Sequence[str] | None = None) -> Head:
        """Close it and open it by a backend of its own, as another process would."""
        self.close()
        return self.open(keys)

    def close(self) -> None:
        """Close it."""
        self.backend.close()

    def add(
        self,
        *rows: Row,
        bodies: Sequence[bytes] | None = None,
        arrival: int | None = None,
        producers: Sequence[Producer] = (),
        first: int | None = None,
        **more: Any,
    ) -> list[int]:
        """Append rows as one batch, with bodies that name their ids, and return their ids.

        ``more`` is for what else a `Batch` has.
        """
        first = self.backend.last_id() + 1 if first is None else first
        ids = list(range(first, first + len(rows)))
        columns: list[list[Value]] = [[] for _ in self.head.keys]
        for _, *values in rows:
            for position, column in enumerate(columns):
                column.append(values[position] if position < len(values) else None)
        if arrival is None:
            arrival = self._arrival
        self._arrival = max(arrival, self._arrival) + 1
        if bodies is None:
            bodies = [b"event %d" % id for id in ids]
        ts = [row[0] for row in rows]
        self.backend.append(Batch(first, ts, bodies, columns, arrival, producers, **more))
        return ids

    def ids(self, filter: Filter = (), **query: Any) -> list[int]:
        """The ids of a slice, newest first: follows ``next`` to the end."""
        return [id for page in self.pages(Query(filter, **query)) for id in page.ids]

    def pages(self, query: Query) -> list[Page]:
        """All pages of a slice. The offset counts once."""
        pages = []
        while True:
            page = self.backend.items(query)
            pages.append(page)
            if page.next is None:
                return pages
            before, query = query.before, after(query, page)
            assert before is None or page.next < before, "a page that leads nowhere"

    def replayed(self, filter: Filter = (), start: int = 0, **query: Any) -> list[int]:
        """The ids of a slice, oldest first: replays on to the end."""
        ids: list[int] = []
        while True:
            page = self.backend.replay(Query(filter, **query), start)
            ids += page.ids
            if page.upto == page.head:
                return ids
            assert page.upto > start, "a replay that leads nowhere"
            start = page.upto

    def count(self, filter: Filter = (), **query: Any) -> int:
        """How many events a slice has."""
        return self.backend.count(Query(filter, **query))

    def tidied(self) -> None:
        """Let it tidy up until it says that there is no more to do."""
        due = time.monotonic() + _TIDIED_S
        while self.backend.tidy():
            assert time.monotonic() < due, "there is always more to tidy up"


def after(query: Query, page: Page) -> Query:
    """The query for the page that follows."""
    assert page.next is not None
    before = Position(*page.next)
    head = page.head if query.head is None else query.head
    return replace(query, before=before, offset=query.offset - page.skipped, head=head)


def elsewhere(call: Callable[[], T]) -> T:
    """What a call returns or raises in a thread that lives only for it."""
    found: list[T] = []
    with beside(lambda: lambda: found.append(call()), once=True):
        pass
    return found[0]


@contextmanager
def beside(*readers: Callable[[], Callable[[], None]], once: bool = False) -> Iterator[None]:
    """Read on and on beside a block, and once more after it; raise what a reader raised.

    Args:
        readers: Each makes what its thread calls.
        once: Read once only.
    """
    errors: list[BaseException] = []
    done = threading.Event()

    def run(make: Callable[[], Callable[[], None]]) -> None:
        try:
            read, finished = make(), once
            while not errors:
                read()
                if finished:
                    return
                finished = done.is_set()
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    with ExitStack() as ends:
        # As the daemon has it: a writer would wait 5 ms for each busy reader at each of its calls.
        ends.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(0.0005)
        for reader in readers:
            thread = threading.Thread(target=run, args=(reader,))
            thread.start()
            ends.callback(thread.join)
        ends.callback(done.set)
        yield
    if errors:
        raise errors[0]
