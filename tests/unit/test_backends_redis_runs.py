"""How the Redis store seals, reads and frees: every step, and what is at the edges."""

import random
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from zstream.backends import (
    redis_look,
    redis_lookups,
    redis_runs,
    redis_scripts,
    redis_sealing,
    redis_times,
    redis_walk,
)
from zstream.backends.base import Batch, Position, Query
from zstream.backends.redis_keeper import Keeper
from zstream.backends.redis_link import Script
from zstream.errors import BackendCorrupt, BackendUnavailable
from zstream.keys import Value
from zstream.limits import MAX_INTEGER

from ..servers.redis import Redis
from .redis_support import Small, add, batch, check, keys_of, listed, pieces, prefix_of, until


class Large(Small):
    SEAL_ROWS = 1 << 20


@pytest.fixture
def prefix(redis: Redis) -> Iterator[str]:
    name = redis.prefix()
    yield name
    redis.drop(name)


@pytest.fixture
def backend(redis: Redis, prefix: str) -> Iterator[Small]:
    backend = Small(redis.url(prefix))
    backend.open(["kind", "user"])
    yield backend
    backend.close()


def store(backend: Small, ts: list[int], *columns: list[Value], body: bytes = b"x") -> None:
    first = backend.last_id() + 1
    backend.append(Batch(first, ts, [body] * len(ts), columns, first))


def ids(backend: Small, key: int, *values: str, **more: Any) -> list[int]:
    return list(backend.items(Query(((key, values),), **more)).ids)


def is_tidy(redis: Redis, backend: Small) -> None:
    """No piece is there of which nobody knows."""
    prefix = prefix_of(backend)
    assert listed(redis, prefix, "unfinished") == set()
    assert pieces(redis, prefix) == listed(redis, prefix)


# ---------------------------------------------------------------- every step


class Interrupted:
    """Keepers fail at a step, before it is done or after, and go on failing until it is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, done: bool) -> None:
        self.left, self.done, self.over = at, done, False
        self.failed: Script | None = None
        run = Keeper._run

        def interrupted(keeper: Keeper, script: Script, *args: Any) -> Any:
            self.left -= 1
            if self.left > 0 or self.over:
                return run(keeper, script, *args)
            if self.left == 0 and self.done:
                run(keeper, script, *args)
            self.failed = self.failed or script
            raise BackendUnavailable("as if the server were away")

        monkeypatch.setattr(Keeper, "_run", interrupted)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("reopened", [False, True])
def test_an_index_that_is_interrupted_at_each_step(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, done: bool, reopened: bool
) -> None:
    monkeypatch.setattr(redis_sealing, "STEP_BYTES", 1_500)
    monkeypatch.setattr(redis_sealing, "STEP_KEYS", 2)
    monkeypatch.setattr(Keeper, "STEP_LISTS", 1)
    monkeypatch.setattr(Keeper, "RETRY_S", 0.001)
    monkeypatch.setattr(Keeper, "IDLE_S", 0.001)
    met: set[Script | None] = set()
    at = 1
    while True:
        prefix = redis.prefix()
        backend = Small(redis.url(prefix))
        with monkeypatch.context() as patch:
            step = Interrupted(patch, at, done)
            backend.open(["kind", "user"])
            add(backend, 200)
            add(backend, 9)
            backend.trim(201)
            until(lambda: step.failed or backend.settle(0.05))  # noqa: B023
            check(backend, 209, 201)
            if reopened:
                backend.close()
            step.over = True
        if reopened:
            backend.open(None)
        assert backend.settle(20)
        check(backend, 209, 201)
        if not reopened:
            # A number whose answer was lost stands there until the store is opened again.
            backend.close()
            backend.open(None)
            assert backend.settle(20)
        is_tidy(redis, backend)
        assert backend.trim(209) == 8
        assert backend.settle(20)
        check(backend, 209, 209)
        backend.close()
        assert backend.check(lambda *_: None) == []
        redis.drop(prefix)
        if step.failed is None:
            break
        met.add(step.failed)
        at += 1
    assert met == {
        redis_lookups.BEGIN_RUN, redis_lookups.PUT, redis_lookups.END_RUN, redis_lookups.RETIRE,
        redis_lookups.FREE, redis_scripts.SWEEP,
    }  # fmt: skip


def test_the_keepers_connection_is_cut_at_any_moment(redis: Redis, backend: Small) -> None:
    chance = random.Random(5)
    for _ in range(40):
        first = backend.last_id() + 1
        try:
            backend.append(batch(first, 8))
        except BackendUnavailable:
            if backend.last_id() < first:
                backend.append(batch(first, 8))
        listing: bytes = redis.ask("CLIENT", "LIST")
        ours = [line for line in listing.decode().splitlines() if "name=zstreamd" in line]
        number = chance.choice(ours).split()[0].removeprefix("id=")
        redis.ask("CLIENT", "KILL", "ID", number)
        try:
            backend.tidy()
        except BackendUnavailable:
            backend.tidy()
    assert backend.settle(30)
    check(backend, 320)
    backend.close()
    backend.open(None)
    assert backend.settle(20)
    check(backend, 320)
    is_tidy(redis, backend)


# ---------------------------------------------------------------- memory


def test_what_is_trimmed_is_freed(redis: Redis, backend: Small) -> None:
    for _ in range(40):
        add(backend, 50)
    assert backend.settle(20)
    before = len(keys_of(redis, prefix_of(backend)))
    assert before > 150
    assert backend.trim(1_000) == 1_000
    assert backend.settle(20)
    check(backend, 2_000, 1_000)
    assert len(keys_of(redis, prefix_of(backend))) < before * 0.7
    assert backend.trim(2_000) == 1_000
    assert backend.settle(20)
    names = keys_of(redis, prefix_of(backend))
    assert redis.ask("HGET", prefix_of(backend), "swept") == b"%d" % (2_000 // 128)
    rows = f"{prefix_of(backend)}:rows:{2_000 // redis_scripts.BLOCK}"
    assert rows in names  # the list that is begun
    assert len(names) <= 5
    is_tidy(redis, backend)
    add(backend, 20)
    check(backend, 2_020, 2_000)


def test_rows_that_are_in_memory_only_can_be_trimmed(redis: Redis, prefix: str) -> None:
    backend = Large(redis.url(prefix))
    backend.open(["kind", "user"])
    add(backend, 300)
    backend.trim(299)
    assert backend.settle(20)
    check(backend, 300, 299)
    backend.close()
    backend.open(None)
    check(backend, 300, 299)
    backend.close()


def test_marks_are_dropped_with_what_they_are_of(redis: Redis, backend: Small) -> None:
    second = 1_000_000
    for id in range(1, 41):
        backend.append(Batch(id, [id], [b"x"], [["a"], ["b"]], id * second))
    marks = f"{prefix_of(backend)}:marks"
    assert redis.ask("LLEN", marks) == 40
    assert [backend.arrived(n * second) for n in (0, 1, 7, 40, 41)] == [0, 0, 6, 39, 40]
    assert backend.arrived(7 * second - 1) == 5
    assert backend.arrived(7 * second + 1) == 6
    backend.trim(30)
    assert redis.ask("LLEN", marks) == 10
    assert [backend.arrived(n * second) for n in (30, 31, 32, 40)] == [0, 30, 31, 39]
    backend.close()
    assert backend.open(None).arrival == 40 * second
    backend.append(Batch(41, [1], [b"x"], [["a"], ["b"]], 40 * second))  # the clock stood still
    assert redis.ask("LLEN", marks) == 10
    backend.append(Batch(42, [1], [b"x"], [["a"], ["b"]], 41 * second))
    assert redis.ask("LLEN", marks) == 11
    backend.append(Batch(43, [1], [b"x"], [["a"], ["b"]], 5))  # it never runs backwards
    assert redis.ask("HGET", prefix_of(backend), "arrival") == b"%d" % (41 * second)


# ---------------------------------------------------------------- values


def test_long_texts_and_their_likes(backend: Small) -> None:
    texts = ["x" * size for size in (1, 63, 64, 65, 254, 255)]
    texts += [
        "é" * 32,
        "é" * 33,
        "x" * 254 + "y",
        "",
        " ",
        "\n",
        "=",
        ":",
        "a=b",
        "🙂",
        "%s",
        "\x01",
    ]
    for text in texts:
        store(backend, [5, 6], [text, None], [(text, "other"), text])
    assert backend.settle(20)
    for number, text in enumerate(texts):
        assert ids(backend, 0, text) == [2 * number + 1], text
        assert ids(backend, 1, text) == [2 * number + 2, 2 * number + 1], text
        assert backend.count(Query(((1, (text,)),))) == 2
    assert ids(backend, 0, *texts) == list(range(2 * len(texts) - 1, 0, -2))
    assert backend.count(Query(((1, ("other", *texts)),))) == 2 * len(texts)
    assert ids(backend, 0, "y", "x" * 62, "é" * 31) == []


@pytest.mark.parametrize("rows", [14, 15, 16, 17, 300])
def test_values_of_few_rows_and_of_many(redis: Redis, prefix: str, rows: int) -> None:
    """Those of many stand in strings of their own; five bytes tell of it."""
    backend = Large(redis.url(prefix))
    backend.SEAL_ROWS = rows * 2  # type: ignore[misc]
    backend.open(["kind", "user"])
    store(backend, [5] * rows * 2, ["a", "b"] * rows, [("a", "c"), None] * rows)
    assert backend.settle(20)
    dense = [name for name in keys_of(redis, prefix) if "=" in name]
    assert bool(dense) == (rows > redis_runs.FEW)
    odd = list(range(rows * 2 - 1, 0, -2))
    for key, values in ((0, ("a",)), (1, ("a",)), (1, ("a", "c"))):
        assert ids(backend, key, *values) == odd
        assert backend.count(Query(((key, values),))) == rows
        query = Query(((key, values), (0, ("a", "b"))), limit=3)
        assert list(backend.items(query).ids) == odd[:3]
        assert list(backend.replay(query, 0).ids) == odd[::-1][:3]
    assert backend.trim(rows) == rows
    assert ids(backend, 0, "a") == [id for id in odd if id > rows]
    backend.trim(rows * 2)
    assert backend.settle(20)
    assert pieces(redis, prefix) == set()
    backend.close()


def test_many_values_of_one_hash(redis: Redis, prefix: str) -> None:
    """Whoever chooses his values so that they meet in one hash does no harm."""
    backend = Large(redis.url(prefix))
    rows, wanted = 1 << 18, 6_000
    buckets = wanted // redis_runs._BUCKET
    values = [f"v{n}" for n in range(rows * 4) if zlib.crc32(b"v%d" % n) % buckets == 7][:wanted]
    assert len(values) == wanted
    backend.SEAL_ROWS = wanted  # type: ignore[misc]
    backend.open(["kind", "user"])
    store(backend, [5] * wanted, values, [None] * wanted)
    assert backend.settle(20)
    assert listed(redis, prefix) == {1}
    assert ids(backend, 0, values[0], values[-1]) == [wanted, 1]
    backend.close()


# ---------------------------------------------------------------- places and sizes


def test_times_at_the_ends(backend: Small) -> None:
    times = [0, MAX_INTEGER, 1, MAX_INTEGER - 1, 0, MAX_INTEGER, 1 << 32, (1 << 32) - 1]
    store(backend, times, ["a"] * 8, ["b"] * 8)
    assert backend.settle(20)
    order = sorted(range(1, 9), key=lambda id: (times[id - 1], id), reverse=True)
    for query in (Query(), Query(((0, ("a",)),)), Query(((0, ("a",)), (1, ("b",))))):
        page = backend.items(query)
        assert list(page.ids) == order
        assert list(page.ts) == [times[id - 1] for id in order]
        assert list(backend.replay(query, 0).ts) == times
        walked, before = [], None
        while True:
            some = backend.items(Query(query.filter, before=before, limit=1))
            walked += some.ids
            before = some.next
            if before is None:
                break
        assert walked == order
    for ts in set(times):
        newer = [id for id in order if times[id - 1] >= ts]
        assert ids(backend, 0, "a", since=ts) == newer
        assert ids(backend, 0, "a", until=ts) == order[len(newer) :]
        assert backend.count(Query(((0, ("a",)),), since=ts)) == len(newer)
        assert backend.count(Query((), until=ts)) == 8 - len(newer)
    assert ids(backend, 0, "a", before=Position(MAX_INTEGER, 6)) == [2, 4, 7, 8, 3, 5, 1]


@pytest.mark.parametrize("apart", [(1 << 32) - 1, 1 << 32, (1 << 32) + 1])
def test_times_that_are_far_apart(backend: Small, apart: int) -> None:
    """Four bytes hold them, or eight."""
    store(backend, [7, 7 + apart] * 4, ["a"] * 8, ["b"] * 8)
    assert backend.settle(20)
    assert list(backend.items(Query()).ts) == [7 + apart] * 4 + [7] * 4
    assert ids(backend, 0, "a", since=7 + apart) == [8, 6, 4, 2]


def test_equal_times_over_the_edge_of_a_chunk(
    backend: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (redis_runs, redis_times):
        monkeypatch.setattr(module, "CHUNK", 4)
    times = [0, 1, 1, 1, 1, 1, 2, 3]
    store(backend, times, ["a"] * 8, ["b"] * 8)
    assert backend.settle(20)
    for ts in range(5):
        newer = [id for id in range(8, 0, -1) if times[id - 1] >= ts]
        assert ids(backend, 0, "a", since=ts) == newer
        assert ids(backend, 0, "a", until=ts) == list(range(8 - len(newer), 0, -1))
        assert backend.count(Query(((0, ("a",)),), since=ts)) == len(newer)
    for id in range(1, 9):
        assert ids(backend, 0, "a", before=Position(times[id - 1], id)) == list(
            range(id - 1, 0, -1)
        )


def test_values_of_which_some_are_fetched_at_first(
    redis: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two values of a key are cut off at different rows, and another key has to match."""
    for module in (redis_look, redis_walk):
        monkeypatch.setattr(module, "TRIED", 2)
    backend = Large(redis.url(prefix))
    backend.SEAL_ROWS = 400  # type: ignore[misc]
    backend.open(["kind", "user"])
    kinds: list[Value] = ["a" if n % 2 else "b" if n % 20 == 0 else None for n in range(400)]
    users: list[Value] = ["u" if n % 7 == 0 else "v" if n % 7 < 5 else "w" for n in range(400)]
    store(backend, list(range(400)), kinds, users)
    assert backend.settle(20)
    for one, other in (("a", "b"), ("b", "a")):
        for user in ("u", "v"):
            query = Query(((0, (one, other)), (1, (user, "w"))), limit=50)
            wanted = [n + 1 for n in range(400) if kinds[n] and users[n] in (user, "w")]
            found, after = list[int](), 0
            while after < 400:
                page = backend.replay(query, after)
                found, after = found + list(page.ids), page.upto
            assert found == wanted
            found, before = list[int](), None
            while True:
                some = backend.items(replace(query, before=before))
                found, before = found + list(some.ids), some.next
                if before is None:
                    break
            assert found == wanted[::-1]
    backend.close()


@pytest.mark.parametrize("rows", [16, 64])
def test_late_rows_and_heads(backend: Small, rows: int) -> None:
    chance = random.Random(3)
    times = [chance.randrange(50) for _ in range(64)]
    for start in range(0, 64, rows):
        some = times[start : start + rows]
        store(backend, some, ["a"] * rows, [f"u{ts % 3}" for ts in some])
    assert backend.settle(20)
    every = [id for id in range(1, 65) if times[id - 1] % 3 == 1]
    found, after = list[int](), 0
    while after < 64:
        page = backend.replay(Query(((1, ("u1",)), (0, ("a",))), limit=2), after)
        found, after = found + list(page.ids), page.upto
        one = backend.replay(Query(((1, ("u1",)),), limit=2), after)
        assert list(one.ids) == [id for id in every if id > after][:2]
    assert found == every
    backend.trim(11)
    order = sorted(range(12, 65), key=lambda id: (times[id - 1], id), reverse=True)
    for head in (64, 40, 13, 12):
        wanted = [id for id in order if id <= head]
        assert ids(backend, 0, "a", head=head) == wanted
        assert ids(backend, 0, "a", head=head, offset=3, limit=5) == wanted[3:8]
        user = [id for id in wanted if times[id - 1] % 3 == 1]
        assert ids(backend, 1, "u1", head=head) == user
    replay = backend.replay(Query(((1, ("u1",)),)), 0)
    assert list(replay.ids) == [id for id in range(12, 65) if times[id - 1] % 3 == 1]
    assert list(replay.ts) == [times[id - 1] for id in replay.ids]
    assert backend.count(Query(((1, ("u1",)),), since=10, until=40)) == sum(
        10 <= times[id - 1] < 40 and times[id - 1] % 3 == 1 for id in range(12, 65)
    )


def test_high_ids(redis: Redis, backend: Small) -> None:
    """Ids are below 2^53; Lua has no integers."""
    add(backend, 8)
    assert backend.settle(20)
    backend.trim(8)
    assert backend.settle(20)
    backend.close()
    far = (1 << 52) + 128 * 7 - 3
    redis.ask("HSET", prefix_of(backend), "last", far, "floor", far, "swept", far // 128)
    redis.ask("DEL", f"{prefix_of(backend)}:rows:0")
    filler = [b"gone"] * (far % 128)
    redis.ask("RPUSH", f"{prefix_of(backend)}:rows:{far // 128}", *filler)
    redis.ask("DEL", f"{prefix_of(backend)}:marks")
    backend.open(None)
    backend.append(batch(far + 1, 20))
    assert backend.settle(20)
    check(backend, far + 20, far)
    backend.append(batch(far + 21, 150))
    assert backend.settle(20)
    check(backend, far + 170, far)
    assert backend.trim(far + 160) == 160
    assert backend.settle(20)
    check(backend, far + 170, far + 160)
    is_tidy(redis, backend)


def test_large_bodies(backend: Small) -> None:
    large = random.Random(1).randbytes(1 << 20)
    store(backend, [1, 2, 3], ["a"] * 3, ["b"] * 3, body=large)
    store(backend, [4, 5], ["a"] * 2, ["b"] * 2, body=b"")
    store(backend, [6] * 9, ["a"] * 9, ["b"] * 9, body=large[:300_000])
    for _ in range(2):
        page = backend.items(Query(max_bytes=1 << 20))
        assert list(page.ids) == [14, 13, 12]
        page = backend.items(Query(before=Position(6, 6), max_bytes=1 << 20))
        assert (list(page.ids), list(page.bodies)) == ([5, 4, 3], [b"", b"", large])
        page = backend.items(Query(before=page.next, max_bytes=10))
        assert (list(page.ids), list(page.bodies)) == ([2], [large])
        replay = backend.replay(Query(max_bytes=(1 << 20) - 1), 0)
        assert (list(replay.ids), replay.upto) == ([1], 1)
        assert backend.settle(20)


def test_every_way_through_lists_of_bodies(backend: Small) -> None:
    """Neighbours are read at once, in either direction."""
    count = 3 * redis_scripts.BLOCK + 5
    add(backend, count)
    chance = random.Random(9)
    reader = backend._opened().read
    every = list(range(1, count + 1))
    shuffled = chance.sample(every, count)
    for wanted in (
        every,
        every[::-1],
        shuffled,
        every[::2],
        every[::-7],
        [128, 129, 127, 1, count],
    ):
        bodies = reader(lambda it: it._bodies(wanted, 1 << 20))  # noqa: B023
        assert bodies == [b"event %d" % id for id in wanted]


def test_rows_that_cannot_be_indexed_any_more(redis: Redis, backend: Small) -> None:
    add(backend, 3)
    backend.close()
    redis.ask("DEL", f"{prefix_of(backend)}:newest")
    with pytest.raises(BackendCorrupt, match="from 1 to 3 are not indexed"):
        backend.open(None)


# ---------------------------------------------------------------- at once


def together(backend: Small, read: Callable[[], object], write: Callable[[], object]) -> None:
    """Have threads read until it is written."""
    over = threading.Event()
    failed: list[BaseException] = []

    def reading() -> None:
        try:
            while not over.is_set():
                read()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failed.append(error)

    readers = [threading.Thread(target=reading) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        write()
    finally:
        over.set()
        for reader in readers:
            reader.join(60)
    if failed:
        raise failed[0]


def test_readers_see_all_rows_once_while_they_are_sealed(backend: Small) -> None:
    add(backend)

    def read() -> None:
        before = backend.items(Query(limit=1)).head
        page = backend.items(Query(((0, ("a",)),)))
        assert backend.last_id() >= page.head >= before
        assert list(page.ids) == list(range(page.head, max(page.head - len(page.ids), 0), -1))
        assert len(page.ids) == min(page.head, 1_000)
        assert list(page.ts) == [1_000 + id for id in page.ids]
        after = max(page.head - 20, 0)
        replay = backend.replay(Query(((0, ("a",)),)), after)
        assert list(replay.ids) == list(range(after + 1, replay.upto + 1))
        assert page.head <= backend.count(Query(((0, ("a",)),))) <= backend.last_id()

    def write() -> None:
        for _ in range(300):
            backend.append(batch(backend.last_id() + 1, 5))

    together(backend, read, write)
    assert backend.settle(20)
    assert len(backend._opened().newest.layouts) > 100


def test_rows_are_sealed_between_two_looks_of_a_reader(
    backend: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    run = Keeper._run

    def waiting(keeper: Keeper, script: Script, *args: Any) -> Any:
        assert script is not redis_lookups.END_RUN or goes_on.wait(30)
        return run(keeper, script, *args)

    monkeypatch.setattr(Keeper, "_run", waiting)
    opened = backend._opened()
    newest = opened.newest

    class Between:
        """Has what is first asked for before the rows are sealed, and all else after that."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(newest, name)
            goes_on.set()
            assert newest.settle(20)
            return found

    query = Query(((0, ("a",)),))
    for ask, wanted in (
        (lambda: list(backend.items(query).ids), list(range(9, 0, -1))),
        (lambda: list(backend.replay(query, 0).ids), list(range(1, 19))),
        (lambda: backend.count(query), 27),
    ):
        goes_on.clear()
        backend.append(batch(newest.view.head + 1, 9))
        monkeypatch.setattr(opened, "newest", Between())
        assert ask() == wanted
        monkeypatch.setattr(opened, "newest", newest)


def test_readers_see_what_is_left_while_more_is_trimmed(backend: Small) -> None:
    add(backend, 1_000)

    def read() -> None:
        page = backend.items(Query(((0, ("a",)), (1, ("u",)))))
        kept = list(range(page.ids[-1], page.head + 1))
        assert list(page.ids) == [id for id in reversed(kept) if id % 3]
        assert list(page.bodies) == [b"event %d" % id for id in page.ids]
        replay = backend.replay(Query(), 0)
        assert list(replay.ids) == list(range(replay.ids[0], replay.upto + 1))

    def write() -> None:
        for floor in range(0, 2_000, 7):
            backend.trim(floor)
            add(backend, 7)

    together(backend, read, write)


def test_a_store_is_closed_under_its_readers(redis: Redis, backend: Small) -> None:
    add(backend, 20)

    def read() -> None:
        with suppress(BackendUnavailable):
            assert len(backend.items(Query(((0, ("a",)),))).ids) == 20
            assert backend.last_id() == 20
        with suppress(BackendUnavailable):
            backend.probe()
        backend.interrupt()

    def write() -> None:
        for _ in range(30):
            backend.close()
            backend.LOCK_S = 10.0  # type: ignore[misc]
            backend.open(None)

    together(backend, read, write)
    backend.close()
    backend.open(None)
    check(backend, 20)
