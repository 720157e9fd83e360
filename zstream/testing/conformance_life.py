"""The part of the conformance suite about opening, appending, trimming and closing."""

import json
import re
from typing import ClassVar

import pytest

from zstream import errors
from zstream.backends.base import Backend, Batch, Producer, Query, Registration
from zstream.testing.conformance_store import Store, only

_PRODUCER = Producer(b"a producer of it", 3, 17, 2, b"\x00refused\xff", 1_700_000_000_000_000)


_FILTER = Registration(b"0123456789abcdef", '{"kind":["a"]}', 1_700_000_000_000_000)
_NAUGHTY = '{"kind":["it\'s","\\\\","\\n","%s ? :x $1","\U0001f600\u00e9\u2028\x7f","); --"]}'


class LifeCases:
    """A store is opened, appended to, trimmed and closed."""

    persistent: ClassVar[bool] = True

    def make(self, url: str) -> Backend:
        """Make the backend; see the suite itself."""
        raise NotImplementedError

    def _only_if_persistent(self) -> None:
        if not self.persistent:
            pytest.skip("this store does not outlive its process")

    # ------------------------------------------------------------ opening

    def test_new_store_is_empty(self, store: Store) -> None:
        """Nothing is in it, and its opening began a run."""
        head = store.head
        assert (head.id, head.floor, head.arrival, head.keys) == (0, 0, 0, ("kind", "user"))
        assert head.runs == ((head.run, 0),)
        assert 0 < head.run < 1 << 53
        assert not head.producers
        assert store.backend.last_id() == 0
        page = store.backend.items(Query())
        assert (list(page.ids), page.next, page.head) == ([], None, 0)
        replay = store.backend.replay(Query(), 0)
        assert (list(replay.ids), replay.upto, replay.head) == ([], 0, 0)
        assert store.count() == 0
        assert store.backend.arrived(5) == 0
        assert store.backend.trim(7) == 0
        assert store.backend.stats().events == 0

    def test_keys_of_a_new_store(self, url: str) -> None:
        """Without keys a new store gets the usual three."""
        backend = self.make(url)
        assert backend.open(None).keys == ("kind", "user", "repo")
        backend.close()

    def test_any_key_names(self, url: str) -> None:
        """Key names are not confused with columns, whatever is in them."""
        names = ("id", "ts", "date", "body", "Id", "a.b", 'x"y', "o'k", "k0", "%s", "ключ", "[1]")
        store = Store(lambda: self.make(url))
        try:
            assert store.open(names).keys == names
            store.add((5, *names), (6, *reversed(names)))
            for position, name in enumerate(names):
                assert store.ids(((position, (name,)),)) == [1]
        finally:
            store.close()

    def test_reopening_keeps_everything(self, store: Store) -> None:
        """Events, keys, floor, arrival and producers are there again."""
        self._only_if_persistent()
        store.add((9, "a", ("u", "v")), (7, None, "u"), bodies=[b"\x00\xff", b""], arrival=44)
        store.add((8, "b"), arrival=55, producers=[_PRODUCER])
        store.backend.trim(1)
        head = store.reopen()
        assert (head.id, head.floor, head.arrival, head.keys) == (3, 1, 55, ("kind", "user"))
        assert head.producers == {_PRODUCER.id: _PRODUCER}
        assert store.ids() == [3, 2]
        assert store.backend.items(Query(only(user="u"))).bodies == [b""]
        assert store.add((1, "c")) == [4]

    def test_every_opening_begins_a_run(self, store: Store) -> None:
        """Each is listed with the last id that it may have given."""
        self._only_if_persistent()
        runs = [store.head.run]
        store.add((1,), (2,))
        runs.append(store.reopen().run)
        runs.append(store.reopen().run)
        store.add((3,))
        head = store.reopen()
        assert len({*runs, head.run}) == 4
        assert head.runs == ((runs[0], 2), (runs[1], 2), (runs[2], 3), (head.run, 3))

    def test_keys_of_an_existing_store(self, store: Store) -> None:
        """The same keys in another order will do; others are refused, and harm nothing."""
        self._only_if_persistent()
        store.add((1, "a", "b"))
        assert store.reopen(("user", "kind")).keys == ("kind", "user")
        for keys in (("kind",), ("kind", "user", "repo"), ("kind", "User")):
            store.close()
            with pytest.raises(errors.StoreMismatch) as caught:
                store.backend.open(keys)
            assert "kind,user" in str(caught.value)
            assert ",".join(keys) in str(caught.value)
        assert store.reopen().keys == ("kind", "user")
        assert store.ids(only(kind="a", user="b")) == [1]

    def test_impossible_keys(self, url: str) -> None:
        """What cannot be a key is refused before anything is made."""
        for keys in ((), ("",), ("a", "a"), ("a..b",)):
            with pytest.raises(errors.ConfigError):
                self.make(url).open(keys)

    def test_one_daemon_at_a_time(self, store: Store, url: str) -> None:
        """A second one is told that the store is in use, and the first goes on."""
        self._only_if_persistent()
        with pytest.raises(errors.StoreLocked):
            self.make(url).open(None)
        assert store.add((1,)) == [1]

    def test_closing(self, store: Store) -> None:
        """A closed store says so; closing again does nothing."""
        store.add((1,))
        store.close()
        store.close()
        backend = store.backend
        for call in (
            backend.last_id,
            lambda: backend.items(Query()),
            lambda: backend.replay(Query(), 0),
            lambda: backend.count(Query()),
            lambda: backend.append(Batch(2, [], [], [[], []], 1)),
            lambda: backend.trim(1),
        ):
            with pytest.raises(errors.BackendUnavailable):
                call()

    # ------------------------------------------------------------ appending

    def test_ids_follow_each_other(self, store: Store) -> None:
        """A batch is readable when ``append`` returns, under ids without a gap."""
        assert store.add((5,), (4,)) == [1, 2]
        assert store.add((6,)) == [3]
        assert store.backend.last_id() == 3
        page = store.backend.items(Query())
        assert list(page.ids) == [3, 1, 2]
        assert list(page.ts) == [6, 5, 4]
        assert list(page.bodies) == [b"event 3", b"event 1", b"event 2"]
        assert page.head == 3

    def test_another_writer_is_detected(self, store: Store) -> None:
        """A batch that does not begin after the last id is refused, and nothing of it stored."""
        store.add((1,), (2,), (3,))
        for first in (0, 1, 3, 5, 1000):
            with pytest.raises(errors.BackendConflict):
                store.add((9,), first=first)
        assert store.ids() == [3, 2, 1]
        assert store.add((4,)) == [4]

    def test_a_batch_is_stored_whole_or_not(self, store: Store) -> None:
        """What cannot be stored takes its batch and its producers with it; then all is well."""
        store.add((1, "a"))
        bodies = [b"fine"] * 600 + [object()]
        with pytest.raises(Exception):  # noqa: B017, PT011  # whatever the driver makes of it
            store.add(*[(2, "a")] * 601, bodies=bodies, producers=[_PRODUCER])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=re.escape("2")):
            store.backend.append(Batch(2, [2, 2], [b"", b""], [["a", "a"], ["u"]], 3))
        with pytest.raises(ValueError, match=re.escape("2")):
            store.backend.append(Batch(2, [2, 2], [b"", b""], [["a", "a"]], 3))
        assert store.backend.last_id() == 1
        assert store.ids(only(kind="a")) == [1]
        assert store.count(only(kind="a")) == 1
        assert store.replayed() == [1]
        store.add(*[(2, "a", ("u", "v"))] * 3)
        assert store.ids(only(kind="a")) == [4, 3, 2, 1]
        assert store.count(only(kind="a")) == 4
        assert store.ids(only(user=("u", "v"))) == [4, 3, 2]
        if self.persistent:
            assert not store.reopen().producers

    def test_a_batch_may_move_producers_only(self, store: Store) -> None:
        """No event at all is a batch too."""
        assert store.add(producers=[_PRODUCER]) == []
        assert store.backend.last_id() == 0
        with pytest.raises(errors.BackendConflict):
            store.add(first=2)
        moved = _PRODUCER._replace(last=18)
        other = _PRODUCER._replace(id=bytes(16))
        store.add((1,), producers=[moved, other])
        assert store.ids() == [1]
        if self.persistent:
            assert store.reopen().producers == {moved.id: moved, other.id: other}

    def test_filters_are_registered(self, store: Store) -> None:
        """Whatever is in their text, with events or without, and again under the same name."""
        assert not store.head.filters
        assert store.add(filters=[_FILTER]) == []
        naughty = _FILTER._replace(name=b"'\\%_\"\x00\xff?:;--)(" + bytes(2), text=_NAUGHTY)
        large = _FILTER._replace(name=bytes(16), text=json.dumps({"kind": ["x" * 255] * 4_000}))
        assert store.add((1,), filters=[naughty, large]) == [1]
        again = _FILTER._replace(seen=_FILTER.seen + 1)
        assert store.add((1,), (2,), filters=[again], producers=[_PRODUCER]) == [2, 3]
        with pytest.raises(errors.BackendConflict):
            store.add((9,), first=9, filters=[_FILTER._replace(name=b"y" * 16)])
        assert store.ids() == [3, 2, 1]
        if self.persistent:
            head = store.reopen()
            assert head.filters == {each.name: each for each in (again, naughty, large)}
            assert head.producers == {_PRODUCER.id: _PRODUCER}

    def test_what_is_forgotten_is_gone(self, store: Store) -> None:
        """Rows of producers and of filters go, those that are not there too; others stay."""
        self._only_if_persistent()
        numbered = [_PRODUCER._replace(id=n.to_bytes(16, "big")) for n in range(1_500)]
        named = [_FILTER._replace(name=each.id) for each in numbered[:20]]
        store.add((1,), producers=numbered, filters=named)
        gone = [each.id for each in numbered[:1_490]]
        store.add(forgotten_producers=[*gone, b"is not there ..."], forgotten_filters=gone[:18])
        store.add((2,), forgotten_filters=gone[18:19], producers=numbered[:1])
        head = store.reopen()
        assert head.producers.keys() == {each.id for each in (numbered[0], *numbered[1_490:])}
        assert head.filters == {named[19].name: named[19]}
        assert store.ids() == [2, 1]

    def test_a_large_batch(self, store: Store) -> None:
        """More rows than any statement takes."""
        count = 12_345
        store.add(*((n, f"k{n % 7}", f"u{n}") for n in range(count)))
        assert store.backend.last_id() == count
        assert store.ids(only(user=("u0", "u4095", "u12344"))) == [12_345, 4_096, 1]
        assert store.count(only(kind="k3")) == len(range(3, count, 7))
        assert store.ids(only(kind="k3")) == [n + 1 for n in reversed(range(3, count, 7))]

    # ------------------------------------------------------------ trimming

    def test_trim_hides_at_once(self, store: Store) -> None:
        """Every way of reading forgets the events up to the floor; ids go on."""
        store.add(*((20 - n, "a", ("u", "v")) for n in range(10)))
        before = store.backend.items(Query(limit=3)).next
        assert store.backend.trim(4) == 4
        assert store.backend.trim(4) == 0
        assert store.backend.trim(2) == 0
        left = [5, 6, 7, 8, 9, 10]
        assert store.ids() == store.ids(only(kind="a")) == left
        assert store.ids(before=before) == left
        assert store.replayed() == store.replayed(only(user="u")) == left
        for filter in ((), only(kind="a"), only(user=("u", "v")), only(kind="a", user="v")):
            assert store.count(filter) == 6
            assert store.count(filter, since=12, until=15) == 3
        assert store.backend.stats().events == 6
        assert store.backend.last_id() == 10

    def test_the_head_survives_a_trim_of_everything(self, store: Store) -> None:
        """The ids that were given are never given again."""
        store.add(*((n, "a") for n in range(5)))
        assert store.backend.trim(1_000) == 5
        assert store.backend.last_id() == 5
        assert store.ids() == store.replayed() == []
        page = store.backend.replay(Query(), 0)
        assert (page.upto, page.head) == (5, 5)
        assert store.add((9, "a")) == [6]
        assert store.ids(only(kind="a")) == [6]
        if self.persistent:
            store.backend.trim(6)
            head = store.reopen()
            assert (head.id, head.floor) == (6, 6)
            assert store.add((9, "a")) == [7]

    # ------------------------------------------------------------ arrival

    def test_after_a_time_of_arrival(self, store: Store) -> None:
        """Marks about each second lead from a time to an id, never too late a one."""
        second = 1_000_000
        arrivals = [10 * second + n * 300_000 for n in range(20)]
        for arrival in arrivals:
            store.add((5,), (arrival,), arrival=arrival)
        for since in [0, *arrivals, 11 * second, 13 * second + 1, 99 * second]:
            last = store.backend.arrived(since)
            exact = 2 * sum(arrival < since for arrival in arrivals)
            early = 2 * sum(arrival < since - second for arrival in arrivals)
            assert early <= last <= exact

    def test_marks_survive(self, store: Store) -> None:
        """Of events that arrived together none is taken for earlier than another."""
        store.add((1,), arrival=5_000_000)
        store.add((2,), arrival=5_000_000)
        if self.persistent:
            store.reopen()
        store.add((3,), arrival=5_000_000)
        store.add((4,), arrival=9_000_000)
        assert store.backend.arrived(5_000_000) == 0
        assert 0 <= store.backend.arrived(5_000_001) <= 3
        assert store.backend.arrived(9_000_000) == 3
        assert store.backend.arrived(9_000_001) == 4
        store.backend.trim(3)
        assert store.backend.arrived(9_000_000) == 3
