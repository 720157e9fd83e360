"""The contract of a store. `zstream.testing.conformance` is its executable form."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from zstream.backends.batch import Batch as Batch
from zstream.backends.batch import Producer as Producer
from zstream.backends.batch import Registration as Registration
from zstream.backends.batch import check_batch as check_batch
from zstream.backends.upkeep import Upkeep
from zstream.keys import Filter
from zstream.limits import PAGE_BYTES, PAGE_EVENTS

#: The keys of a new store that was not told any.
DEFAULT_KEYS: Final = ("kind", "user", "repo")

#: What is still there of what was confirmed, after the store's machine lost its power:
#: all (``synced``), all but about the last second (``second``), or nobody knows (``unsynced``).
Durability = Literal["synced", "second", "unsynced"]
#: How long a probe may take before it has failed, in seconds.
PROBE_S: Final = 1.0


class Position(NamedTuple):
    """A place in the order of ``items``: by (ts, id)."""

    ts: int
    id: int


@dataclass(frozen=True, slots=True)
class Head:
    """What a store knows of itself when it is opened.

    Attributes:
        run: The run that this opening began: random, below 2^53.
        runs: Every run of the store with the last id it may have given; the current one is
            the last, with the id that it began after.
        node: The node whose ids this store gives.
        id: The last id ever appended, 0 if none.
        floor: Events up to this id were trimmed.
        arrival: The newest arrival noted, in microseconds; the clock must not go below it.
        keys: The declared keys, in their order.
        producers: The known producers.
        filters: The filters that are registered, by their names.
    """

    run: int
    runs: tuple[tuple[int, int], ...]
    node: int
    id: int
    floor: int
    arrival: int
    keys: tuple[str, ...]
    producers: Mapping[bytes, Producer]
    filters: Mapping[bytes, Registration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """A slice and a piece of it.

    Attributes:
        filter: In normal form, see `zstream.keys`.
        since: Only ``ts >= since``.
        until: Only ``ts < until``.
        before: Only what is older than this place.
        head: Only ids up to this one, so that late arrivals do not shift a walk.
        offset: How many of the newest to pass over.
        limit: Events of a page at the most; 1 to ``PAGE_EVENTS``.
        max_bytes: Bytes of bodies of a page at the most, but for one event.
    """

    filter: Filter = ()
    since: int | None = None
    until: int | None = None
    before: Position | None = None
    head: int | None = None
    offset: int = 0
    limit: int = PAGE_EVENTS
    max_bytes: int = PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Page:
    """Events of a slice, newest first.

    Attributes:
        ids, ts, bodies: The events.
        next: Where the next page begins (its ``before``), or None at the end. A page may be
            short, even empty, and have a ``next``: the work of one page is bounded.
        skipped: How much of ``offset`` this page passed over; less than asked for only where
            the slice ended or the work was spent before.
        head: The last id committed in the snapshot that the page was read from.
    """

    ids: Sequence[int]
    ts: Sequence[int]
    bodies: Sequence[bytes]
    next: Position | None
    skipped: int
    head: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Events of a slice, oldest first by id.

    Attributes:
        ids, ts, bodies: The events.
        upto: The page is complete up to this id; a next one begins after it.
        head: The last id committed in the snapshot; ``upto == head`` means that it is the end.
    """

    ids: Sequence[int]
    ts: Sequence[int]
    bodies: Sequence[bytes]
    upto: int
    head: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures about a store.

    Attributes:
        events: Events that can be read.
        size_bytes: What the store occupies, as far as it can tell; None if it cannot.
        more: Whatever else the backend has to tell.
    """

    events: int
    size_bytes: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


class Backend(Upkeep, ABC):
    """A store.

    One thread calls ``append`` and ``trim``; any thread reads. Readers see committed events
    only. Bodies are opaque. Nothing here publishes, stamps, retries or logs an event.

    Errors of the driver come out as ``BackendUnavailable`` (retry), ``BackendConflict`` and
    ``BackendCorrupt`` (stop), and ``StoreRewound`` (open anew), with the cause chained. Any method
    may raise them.
    """

    #: What the daemon says of the store.
    name: str = ""

    @property
    def durability(self) -> Durability:
        """What the store promises of a batch when ``append`` returns, as it is set just now."""
        return "synced"

    def __init__(self, url: str) -> None:
        """Take the URL apart.

        Raises:
            ConfigError: It is not one that this backend takes.
        """
        super().__init__(url)

    @abstractmethod
    def open(self, keys: Sequence[str] | None) -> Head:
        """Open for writing: make or upgrade the schema and begin a run.

        Args:
            keys: The keys that the caller wants; None takes those of an existing store, and
                for a new one ``("kind", "user", "repo")``.

        Raises:
            StoreLocked: Another daemon has it open.
            StoreMismatch: The store has other keys, or a newer schema.
            BackendUnavailable: It cannot be reached or made.
            BackendCorrupt: It is damaged, or not a store of zstream.
        """

    @abstractmethod
    def append(self, batch: Batch) -> None:
        """Store a batch and its producers: all or nothing, durable on return.

        Raises:
            BackendConflict: ``batch.first`` is not the last id + 1: another writer was here.
            BackendUnavailable: It may be stored or not; compare ``last_id`` before a retry.
        """

    @abstractmethod
    def last_id(self) -> int:
        """The last id ever appended, 0 if none; survives ``trim``."""

    @abstractmethod
    def items(self, query: Query) -> Page:
        """Read a page of a slice, newest first by (ts, id)."""

    @abstractmethod
    def replay(self, query: Query, after: int) -> Replay:
        """Read a page of a slice, oldest first by id, from above the id ``after``.

        Of the query, ``filter``, ``limit`` and ``max_bytes`` count.
        """

    @abstractmethod
    def count(self, query: Query) -> int:
        """Count the distinct events of a slice; ``filter``, ``since``, ``until`` count."""

    @abstractmethod
    def arrived(self, since: int) -> int:
        """The last id that arrived before this time, by the marks noted about each second.

        Args:
            since: Microseconds since 1970 UTC.

        Returns:
            An id such that every event above it may have arrived at or after ``since`` and
            every event up to it arrived before; at most a second's events too early.
        """

    @abstractmethod
    def trim(self, floor: int) -> int:
        """Forget the events up to an id: masked at once, atomically; return how many."""

    def tidy(self, idle: bool = True) -> bool:
        """Do a small part of what was put off, such as freeing what was trimmed.

        Called by the thread that appends, between two batches and while nothing comes.

        Args:
            idle: Nothing waits to be stored, so what may never be needed can be done, too.

        Returns:
            Whether there is more to do.
        """
        return False

    def probe(self) -> None:
        """Tell whether the store answers, by a question that costs nothing.

        Called about twice a second, by a thread of its own, beside all other calls; it must not
        wait for them, nor longer than ``PROBE_S``. A store that no server keeps has nothing to do.
        One that is closed, or being closed, returns or raises: nobody asks what it says.

        Raises:
            BackendUnavailable: No answer came.
        """
        return

    def interrupt(self) -> None:
        """Have the calls under way that wait for a server raise ``BackendUnavailable`` at once.

        Called by any thread when the store has stopped answering, so that no thread waits for a
        connection that will never say anything. What was asked for may happen all the same. When
        nothing is under way, or the store is not open, it does nothing; later calls go on as usual.
        """
        return

    @abstractmethod
    def stats(self) -> Stats:
        """Tell the store's figures."""

    @abstractmethod
    def close(self) -> None:
        """Close it; a second time does nothing."""
