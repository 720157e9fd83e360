"""Retention: what is forgotten when, and how often the store is asked."""

from collections.abc import Iterator

import pytest

from zstream import times
from zstream.backends.base import Batch
from zstream.backends.memory import MemoryBackend
from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable, Error, Unavailable
from zstreamd import retention
from zstreamd.kinds import Keep
from zstreamd.retention import Retention

SECOND = 1_000_000


class Clock:
    """Both clocks stand still until they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 1_000.0
        monkeypatch.setattr(retention.time, "monotonic", lambda: self.s)
        monkeypatch.setattr(times, "now", lambda: round(self.s * SECOND))


class Store(MemoryBackend):
    """Counts what it is asked, and fails when told to."""

    def __init__(self) -> None:
        super().__init__("memory:")
        self.fails = False
        self.error: type[BackendError] = BackendUnavailable
        self.trims: list[int] = []
        self.tidied = self.untidy = 0

    def trim(self, floor: int) -> int:
        self.trims.append(floor)
        if self.fails:
            raise self.error("away")
        return super().trim(floor)

    def tidy(self, idle: bool = True) -> bool:
        self.tidied += 1
        if self.fails:
            raise BackendUnavailable("away")
        self.untidy = max(0, self.untidy - 1)
        return self.untidy > 0

    def fill(self, count: int) -> None:
        arrival = times.now()
        columns: list[list[str | None]] = [[None] * count] * 3
        first = self.last_id() + 1
        self.append(Batch(first, [arrival] * count, [b"\x80"] * count, columns, arrival))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    store.open(None)
    yield store
    store.close()


def test_a_number_is_kept_and_looked_at_once_a_second(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, Keep(events=10))
    store.fill(25)
    kept.turn(25, busy=True)
    assert (kept.floor, store.stats().events) == (15, 10)
    store.fill(5)
    kept.turn(30, busy=True)
    assert (kept.floor, store.trims) == (15, [15])
    clock.s += 1
    kept.turn(30, busy=False)
    assert (kept.floor, store.trims) == (20, [15, 20])
    clock.s += 1
    kept.turn(30, busy=False)  # nothing changed: the store is not asked
    assert store.trims == [15, 20]


def test_an_age_goes_by_arrival_and_never_too_early(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, Keep(age_us=60 * SECOND))
    begin = clock.s
    arrived: list[float] = []
    for _ in range(100):
        store.fill(2)
        arrived += [clock.s] * 2
        clock.s += 0.7
        kept.turn(store.last_id(), busy=True)
        young = sum(clock.s - moment <= 60 for moment in arrived)
        assert store.stats().events >= young
        # A mark a second, a look a second.
        assert store.stats().events <= young + 2 * 2 / 0.7 + 2
    assert clock.s > begin + 60
    clock.s += 62
    kept.turn(store.last_id(), busy=False)
    assert store.stats().events == 0


def test_an_age_beyond_1970_keeps_all(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, Keep(age_us=2_000 * SECOND))
    store.fill(5)
    kept.turn(5, busy=True)
    assert (kept.floor, store.trims) == (0, [])


def test_of_both_the_stricter_counts(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, Keep(age_us=10 * SECOND, events=4))
    store.fill(6)
    kept.turn(6, busy=True)
    assert kept.floor == 2
    clock.s += 11
    kept.turn(6, busy=False)
    assert kept.floor == 6


def test_without_keep_nothing_is_forgotten_unless_asked(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, None)
    store.fill(9)
    kept.turn(9, busy=True)
    assert (kept.floor, store.trims) == (0, [])
    told: list[object] = []
    kept.trim(4, told.append)
    kept.trim(2, told.append)
    kept.trim(5, told.append)
    assert told == [(4, 4), (0, 4), (1, 5)]
    assert store.trims == [4, 5]


def test_it_tidies_a_slice_a_commit_and_without_pause_when_idle(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, None)
    kept.turn(0, busy=False)
    assert kept.wait_s(None) == 1.0
    assert kept.wait_s(0.2) == 0.2
    assert kept.wait_s(5.0) == 1.0
    store.untidy, store.tidied = 5, 0
    for turns in (1, 2):
        kept.turn(0, busy=True)
        assert (store.tidied, kept.wait_s(None)) == (turns, 0.0)
    while kept.wait_s(None) == 0.0:
        kept.turn(0, busy=False)
    assert (store.untidy, store.tidied) == (0, 5)
    kept.turn(0, busy=False)  # woken for something else
    assert store.tidied == 5
    clock.s += 1
    kept.turn(0, busy=False)
    assert store.tidied == 6


def test_a_store_that_is_away_is_asked_again(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Retention(store, 0, None)
    store.fill(9)
    store.fails = True
    told: list[tuple[int, int] | Error] = []
    kept.trim(4, told.append)
    assert isinstance(told[0], Unavailable)
    # Readers are told of it, as it may have happened.
    assert kept.floor == 4
    for _ in range(3):
        clock.s += 1
        kept.turn(9, busy=False)
        assert kept.wait_s(None) == 1.0
    assert store.trims == [4, 4, 4, 4]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    store.fails = False
    clock.s += 1
    kept.turn(9, busy=False)
    assert (store.stats().events, store.trims) == (5, [4] * 5)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_store_that_is_lost_ends_the_writer_and_is_told(store: Store, clock: Clock) -> None:
    kept = Retention(store, 0, None)
    store.fill(9)
    store.fails, store.error = True, BackendCorrupt
    told: list[tuple[int, int] | Error] = []
    with pytest.raises(BackendCorrupt):
        kept.trim(4, told.append)
    assert isinstance(told[0], Unavailable)
