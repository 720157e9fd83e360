"""What is forgotten with time: never too early, whatever the clock does, and not all at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zstream import topics
from zstream.backends.base import Backend, Batch, Head, Producer, Registration
from zstream.backends.sqlite import SQLiteBackend
from zstream.errors import BackendUnavailable
from zstream.wire import BatchHeader
from zstreamd import expiry as expiry_
from zstreamd.expiry import EVERY_S, SLICE, Expiry
from zstreamd.follow import Followers
from zstreamd.producers import Producers
from zstreamd.registrations import KEEP_US, Registrations

KEYS = ("kind",)
DAY = 24 * 3600 * 1_000_000
KEEP = 30 * DAY
NOW = 20_000 * DAY


def id_of(n: int) -> bytes:
    return n.to_bytes(16, "big")


class Daemon:
    """The writer's part around it, over a real store; the clocks are a test's to move."""

    def __init__(self, path: Path, keep_us: int | None = KEEP) -> None:
        self.backend: Backend = SQLiteBackend(f"sqlite:///{path}")
        self.keep_us = keep_us
        self.now_s, self.now = 1_000.0, NOW
        self.start()

    def start(self) -> None:
        self.head: Head = self.backend.open(KEYS)
        self.producers = Producers(self.head.producers)
        self.registrations = Registrations(self.head.filters, 10_000)
        self.followers = Followers(
            KEYS, 0, 1, 0, self.producers.stored, self.registrations.stored, 10_000
        )
        self.expiry = Expiry(
            self.backend, 1, self.producers, self.registrations, self.followers, self.keep_us,
            self.now_s, self.now,
        )  # fmt: skip

    def restart(self) -> None:
        self.backend.close()
        self.start()

    def fill(self, *producers: Producer, filters: tuple[Registration, ...] = ()) -> None:
        self.backend.append(Batch(1, [], [], [[]], self.now, producers=producers, filters=filters))
        self.restart()

    def passes(self, seconds: float, jump_us: int = 0) -> None:
        """Let time pass, and the clock jump; then look as long as there is something to do."""
        self.now_s += seconds
        self.now += round(seconds * 1e6) + jump_us
        for _ in range(20):
            self.expiry.turn(0, self.now, self.now_s, self.now)

    def hear(self, n: int) -> None:
        self.producers.judge(BatchHeader(id_of(n), 0, 1, 0, 0), self.now)


def numbered(*ages: int) -> list[Producer]:
    return [Producer(id_of(n), 0, 1, 0, b"\x90", NOW - age) for n, age in enumerate(ages)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "store.db")
    yield made
    made.backend.close()


def known(daemon: Daemon) -> list[int]:
    """Who is in memory, and is there again after a restart."""
    before = set(daemon.producers.stored)
    daemon.restart()
    assert set(daemon.producers.stored) == before
    return sorted(int.from_bytes(each, "big") for each in before)


def test_who_was_not_heard_of_for_long_is_forgotten(daemon: Daemon) -> None:
    daemon.fill(*numbered(KEEP + 2 * DAY, KEEP - DAY, 0, 99 * KEEP))
    daemon.passes(EVERY_S - 1)
    assert len(daemon.producers.stored) == 4, "in the first hour nobody is"
    daemon.passes(1)
    assert known(daemon) == [1, 2]


def test_for_ever_is_for_ever(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "store.db", None)
    daemon.fill(*numbered(99 * KEEP))
    daemon.passes(EVERY_S)
    assert known(daemon) == [0]
    daemon.backend.close()


def test_whoever_is_heard_of_stays_without_being_written_each_time(daemon: Daemon) -> None:
    daemon.fill(*numbered(99 * KEEP, 99 * KEEP, 0))
    daemon.hear(0)
    daemon.producers.hear(id_of(7), NOW)  # nobody knows it
    assert daemon.producers.changes() == [], "a batch that was dealt with before writes nothing"
    daemon.passes(EVERY_S)
    assert known(daemon) == [0, 2]
    assert daemon.head.producers[id_of(0)].seen == NOW, "but in time it is noted"
    daemon.hear(2)
    daemon.passes(EVERY_S)
    assert daemon.producers.stored[id_of(2)].seen == NOW


def test_an_age_begins_when_one_was_last_heard_of(daemon: Daemon) -> None:
    daemon.fill(*numbered(0, 0))
    for _ in range(40):
        daemon.passes(24 * 3600)
        daemon.hear(1)
    assert known(daemon) == [1]
    # A restart just after does not count from what was written long ago.
    assert daemon.now - daemon.producers.stored[id_of(1)].seen <= 2 * DAY


def test_a_clock_that_jumps_ahead_forgets_nobody_who_is_there(daemon: Daemon) -> None:
    year = 365 * DAY
    daemon.fill(*numbered(0, DAY, 2 * DAY))
    daemon.passes(EVERY_S, jump_us=year)
    daemon.passes(EVERY_S)
    assert len(daemon.producers.stored) == 3, "while the daemon runs, seconds count"
    daemon.hear(0)
    daemon.passes(EVERY_S)
    daemon.restart()
    daemon.hear(1)  # within the first hour
    daemon.passes(EVERY_S)
    assert known(daemon) == [0, 1], "who said nothing since is taken for a year old"
    daemon.passes(EVERY_S, jump_us=-year)
    daemon.passes(EVERY_S)
    assert known(daemon) == [0, 1], "what seems to be of the future is not old"


def test_a_clock_that_is_put_right_after_the_start(daemon: Daemon) -> None:
    daemon.fill(*numbered(0))
    daemon.now += 365 * DAY
    daemon.restart()
    daemon.passes(EVERY_S / 2, jump_us=-365 * DAY)
    daemon.passes(EVERY_S / 2)
    assert known(daemon) == [0]


def test_many_are_forgotten_in_slices(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.fill(*numbered(*[99 * KEEP] * (2 * SLICE + 5)))
    sizes: list[int] = []
    append: Callable[[Batch], None] = daemon.backend.append

    def noted(batch: Batch) -> None:
        sizes.append(len(batch.forgotten_producers))
        append(batch)

    monkeypatch.setattr(daemon.backend, "append", noted)
    daemon.passes(EVERY_S)
    assert (sum(sizes), max(sizes), len(sizes)) == (2 * SLICE + 5, SLICE, 3)
    assert known(daemon) == []


def test_a_store_that_is_away_is_asked_again_later(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.fill(*numbered(99 * KEEP))
    tries: list[Batch] = []

    def fails(batch: Batch) -> None:
        tries.append(batch)
        raise BackendUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(daemon.backend, "append", fails)
        daemon.passes(EVERY_S)
        assert (len(tries), len(daemon.producers.stored)) == (1, 1)
    daemon.passes(EVERY_S)
    assert known(daemon) == []


def test_filters_go_unless_they_are_followed_or_registered_again(daemon: Daemon) -> None:
    old = NOW - KEEP_US - 2 * DAY
    rows = [Registration(id_of(n), f'{{"kind":["{n}"]}}', old) for n in range(3)]
    fresh = Registration(id_of(3), "{}", NOW - KEEP_US)
    daemon.fill(filters=(*rows, fresh))
    daemon.followers.subscribe(topics.of_registered(rows[0].name), 0.0, daemon.now)
    daemon.registrations.register(rows[1].name, rows[1].text, daemon.now)
    assert daemon.registrations.changes() == []
    daemon.passes(EVERY_S)
    assert set(daemon.registrations.stored) == {id_of(n) for n in (0, 1, 3)}
    daemon.restart()
    assert set(daemon.registrations.stored) == {id_of(n) for n in (0, 1, 3)}
    assert daemon.registrations.stored[id_of(0)].seen == daemon.now
    # Now nobody follows it any more.
    daemon.passes(EVERY_S + KEEP_US / 1e6)
    assert set(daemon.registrations.stored) == {id_of(0), id_of(1)}
    daemon.passes(EVERY_S + 2 * 24 * 3600)
    assert daemon.registrations.stored == {}


def test_what_is_stale_is_less_than_what_is_allowed_for() -> None:
    assert expiry_.STALE_US + EVERY_S * 1e6 < expiry_._SLACK_US
