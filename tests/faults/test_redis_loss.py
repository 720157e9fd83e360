"""The Redis store when answers, connections, the server or its newest data are lost."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from zstream import errors
from zstream.backends import redis_lookups, redis_scripts
from zstream.backends.base import Batch, Producer, Query, Registration
from zstream.backends.redis_keeper import Keeper
from zstream.backends.redis_link import Script

from ..servers.network import Network
from ..servers.redis import Redis, serving
from ..unit.redis_support import Small, add, batch, check, connection, until


class Quick(Small):
    READ_S = 0.5
    WRITE_S = 0.5


@pytest.fixture
def own(missing: Callable[[str], NoReturn]) -> Iterator[Redis]:
    """A server for one test, which may do to it what it likes."""
    with serving(missing) as server:
        yield server
        server.kill()


@pytest.fixture
def network(own: Redis) -> Iterator[Network]:
    made = Network({"redis": own.socket})
    yield made
    made.close()


@pytest.fixture
def backend(network: Network) -> Iterator[Quick]:
    """A store over a network that fails."""
    backend = Quick(f"redis://127.0.0.1:{network.ports['redis']}/0?prefix=a")
    backend.open(["kind", "user"])
    add(backend, 3)
    yield backend
    backend.close()


@pytest.fixture
def near(own: Redis) -> Iterator[Small]:
    """A store over a socket, of which nothing is lost but the server."""
    backend = Small(own.url("a"))
    backend.open(["kind", "user"])
    add(backend, 3)
    yield backend
    backend.close()


def words(script: Script) -> bytes:
    return script.hash.encode()


def producers(first: int, last: int, **more: Any) -> Batch:
    """A batch without events."""
    row = Producer(b"p" * 16, 1, last, 0, b"", 5)
    return Batch(first, [], [], [[], []], 9, [row], **more)


def ids(backend: Small) -> list[int]:
    return list(backend.replay(Query(), 0).ids)


# ---------------------------------------------------------------- doubts


@pytest.mark.parametrize("how", ["append", "last_id", "another"])
def test_an_answer_that_is_lost(network: Network, backend: Quick, how: str) -> None:
    doubtful = batch(4, 2)
    network.trap(words(redis_scripts.APPEND))
    with pytest.raises(errors.BackendUnavailable):
        backend.append(doubtful)
    assert network.sprung("redis") == 1
    assert ids(backend) == [1, 2, 3]  # nobody has confirmed it
    if how == "last_id":
        assert backend.last_id() == 5
        check(backend, 5)
    if how == "append":
        backend.append(doubtful)
    backend.append(batch(6))
    check(backend, 6)
    backend.close()
    assert backend.check(lambda *_: None) == []
    backend.open(None)
    check(backend, 6)


def test_another_batch_after_one_that_was_stored_all_the_same(
    network: Network, backend: Quick
) -> None:
    network.trap(words(redis_scripts.APPEND))
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(4, 2))
    with pytest.raises(errors.BackendConflict, match="begins with 4, but the last id is 5"):
        backend.append(batch(4, 1))
    backend.append(batch(6))
    check(backend, 6)


def test_a_batch_that_never_arrived(network: Network, backend: Quick) -> None:
    network.drop()
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(4, 2))
    network.mend()
    assert backend.last_id() == 3
    backend.append(batch(4, 3))  # nobody has to come with the same one
    check(backend, 6)


def late(
    network: Network, own: Redis, backend: Quick, do: Callable[[], object]
) -> Callable[[], None]:
    """Have what is done now arrive when the function is called that is returned."""
    before = connection(own, backend)
    network.hold(words(redis_scripts.APPEND))
    with pytest.raises(errors.BackendUnavailable):
        do()
    network.mend(old=False)

    def arrive() -> None:
        network.mend()
        until(lambda: not own.ask("CLIENT", "LIST", "ID", before).strip())

    return arrive


def test_a_batch_that_arrives_when_it_was_stored_again(
    network: Network, own: Redis, backend: Quick
) -> None:
    doubtful = batch(4, 2)
    arrive = late(network, own, backend, lambda: backend.append(doubtful))
    backend.append(doubtful)
    arrive()
    check(backend, 5)
    backend.append(batch(6, 2))
    check(backend, 7)


def test_a_batch_that_arrives_when_its_connection_was_given_up(
    network: Network, own: Redis, backend: Quick
) -> None:
    """Upon the very head that it was meant for."""
    arrive = late(network, own, backend, lambda: backend.append(batch(4, 2)))
    assert backend.last_id() == 3
    arrive()
    assert backend.last_id() == 3
    backend.append(batch(4, 3))
    check(backend, 6)


def test_rows_of_producers_are_not_moved_back_by_what_arrives_late(
    network: Network, own: Redis, backend: Quick
) -> None:
    arrive = late(network, own, backend, lambda: backend.append(producers(4, 7)))
    backend.append(producers(4, 8))
    arrive()
    backend.close()
    assert backend.open(None).producers[b"p" * 16].last == 8


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
def test_a_batch_without_events_in_doubt(
    network: Network, backend: Quick, arrives: bool, asked: bool
) -> None:
    named = Registration(b"n" * 16, "{}", 5)
    doubtful = producers(4, 7, filters=[named])
    network.trap(words(redis_scripts.APPEND)) if arrives else network.drop()
    with pytest.raises(errors.BackendUnavailable):
        backend.append(doubtful)
    network.mend()
    if asked:
        assert backend.last_id() == 3
    backend.append(doubtful)
    backend.close()
    head = backend.open(None)
    assert head.producers[b"p" * 16].last == 7
    assert list(head.filters.values()) == [named]
    check(backend, 3)


def test_a_lock_that_is_taken_late(network: Network, own: Redis, backend: Quick) -> None:
    network.trap(words(redis_scripts.RELOCK))
    network.cut()
    for _ in range(2):
        with pytest.raises(errors.BackendUnavailable):
            backend.append(batch(4))
    backend.append(batch(4))
    network.hold(words(redis_scripts.RELOCK))
    network.cut()
    for _ in range(2):
        with pytest.raises(errors.BackendUnavailable):
            backend.append(batch(5))
    network.mend(old=False)
    backend.append(batch(5))
    holder = connection(own, backend)
    network.mend()
    until(lambda: own.ask("CLIENT", "LIST").count(b"name=zstreamd") <= 3)
    assert connection(own, backend) == holder
    backend.append(batch(6))
    check(backend, 6)


def test_a_trim_whose_answer_is_lost(network: Network, backend: Quick) -> None:
    assert backend.trim(1) == 1
    network.trap(words(redis_scripts.TRIM))
    with pytest.raises(errors.BackendUnavailable):
        backend.trim(2)
    backend.trim(2)
    check(backend, 3, 2)


# ---------------------------------------------------------------- connections


def test_readers_do_not_notice_connections_that_were_closed(own: Redis, near: Small) -> None:
    check(near, 3)
    own.ask("CLIENT", "KILL", "TYPE", "normal")
    assert ids(near) == [1, 2, 3]
    own.restart()
    assert ids(near) == [1, 2, 3]
    with pytest.raises(errors.BackendUnavailable):
        near.append(batch(4))
    near.append(batch(4))
    check(near, 4)


def test_scripts_that_were_forgotten(own: Redis, near: Small) -> None:
    own.ask("SCRIPT", "FLUSH")
    near.append(batch(4, 20))
    own.ask("SCRIPT", "FLUSH")
    assert near.settle(20)
    own.ask("SCRIPT", "FLUSH")
    check(near, 23)
    own.ask("SCRIPT", "FLUSH")
    assert near.trim(5) == 5
    check(near, 23, 5)


def test_a_server_that_stopped_answering(own: Redis, backend: Quick) -> None:
    add(backend, 20)
    own.pause()
    try:
        for ask in (
            lambda: backend.items(Query()),
            lambda: backend.append(batch(24)),
            backend.tidy,
            backend.probe,
            backend.last_id,
        ):
            with pytest.raises(errors.BackendUnavailable):
                ask()
    finally:
        own.resume()
    backend.probe()
    assert backend.last_id() in (23, 24)
    backend.append(batch(backend.last_id() + 1))
    assert backend.settle(20)
    check(backend, backend.last_id())


def test_settings_that_do_not_arrive_are_not_taken_for_others(
    own: Redis, network: Network, backend: Quick
) -> None:
    own.ask("CONFIG", "SET", "appendonly", "yes")
    backend.probe()
    assert backend.durability == "second"
    network.trap(b"CONFIG")
    with pytest.raises(errors.BackendUnavailable):
        backend.probe()
    assert backend.durability == "second"
    backend.probe()
    assert backend.durability == "second"


def test_what_waits_for_a_server_can_be_ended(own: Redis) -> None:
    class Patient(Small):
        READ_S = WRITE_S = 60.0

    backend = Patient(own.url("a"))
    backend.open(["kind", "user"])
    add(backend, 3)
    failed: list[Exception] = []

    def asking(ask: Callable[[], object]) -> None:
        try:
            ask()
        except errors.BackendUnavailable as error:
            failed.append(error)

    asks = [lambda: backend.items(Query()), lambda: backend.append(batch(4))]
    own.pause()
    threads = [threading.Thread(target=asking, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    try:
        store = backend._opened()
        until(lambda: any(each._asking for each in store._readers._busy))
        until(lambda: store._writer._session is not None and store._writer._session._asking)
        backend.interrupt()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    finally:
        own.resume()
    assert len(failed) == 2
    backend.append(batch(backend.last_id() + 1))
    check(backend, backend.last_id())
    backend.close()


def test_taking_the_lock_again_can_be_ended(own: Redis, network: Network) -> None:
    class Patient(Small):
        WRITE_S = 60.0

    backend = Patient(f"redis://127.0.0.1:{network.ports['redis']}/0?prefix=a")
    backend.open(["kind", "user"])
    add(backend, 3)
    network.cut()
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(4))
    network.hold(words(redis_scripts.RELOCK))
    failed: list[Exception] = []

    def append() -> None:
        try:
            backend.append(batch(4))
        except errors.BackendUnavailable as error:
            failed.append(error)

    thread = threading.Thread(target=append)
    thread.start()
    until(lambda: network.sprung("redis"))
    backend.interrupt()
    thread.join(20)
    assert not thread.is_alive()
    assert failed
    network.mend()
    backend.append(batch(4))
    check(backend, 4)
    backend.close()


def test_a_connection_that_says_nothing_is_given_up_soon(own: Redis) -> None:
    class Patient(Small):
        READ_S = WRITE_S = 600.0

    backend = Patient(own.url("a"))
    own.pause()
    try:
        with pytest.raises(errors.BackendUnavailable, match=r"[Tt]imeout"):
            backend.open(None)
    finally:
        own.resume()
    backend.open(None)
    session = backend._opened()._writer._session
    assert session is not None
    assert session._connection._sock.gettimeout() == 600.0
    backend.close()


def test_who_is_interrupted_with_the_answer_in_hand_can_go_on(near: Small) -> None:
    assert ids(near) == [1, 2, 3]
    (idle,) = near._opened()._readers._idle
    idle._asking = True
    idle.interrupt()
    idle._asking = False
    assert ids(near) == [1, 2, 3]


def test_a_server_that_is_away_while_the_store_is_closed(own: Redis, near: Small) -> None:
    near.append(batch(4, 20))
    own.ask("SAVE")
    own.kill()
    near.close()
    own.start()
    near.LOCK_S = 10.0
    assert near.open(None).id == 23
    assert near.settle(20)
    check(near, 23)


def test_a_lost_connection_does_not_keep_its_own_daemon_out(
    network: Network, own: Redis, backend: Quick
) -> None:
    """Nor does what it still has to say when it is heard of again."""
    before = connection(own, backend)
    network.freeze()
    backend.close()
    network.mend(old=False)
    assert own.ask("CLIENT", "LIST", "ID", before)
    with pytest.raises(errors.StoreLocked):
        Quick(own.url("a")).open(None)
    assert backend.open(None).id == 3
    network.mend()
    until(lambda: not own.ask("CLIENT", "LIST", "ID", before).strip())
    backend.append(batch(4))
    check(backend, 4)


# ---------------------------------------------------------------- a server that declines


def test_a_server_without_memory(own: Redis, near: Small) -> None:
    own.ask("CONFIG", "SET", "maxmemory", 1)
    for _ in range(2):
        with pytest.raises(errors.BackendUnavailable, match="no memory left: raise its maxmemory"):
            near.append(batch(4))
    check(near, 3)
    own.ask("CONFIG", "SET", "maxmemory", 0)
    near.append(batch(4))
    check(near, 4)


def test_a_server_that_has_become_a_replica(own: Redis, near: Small) -> None:
    own.ask("REPLICAOF", "127.0.0.1", "1")
    for _ in range(2):
        with pytest.raises(errors.BackendUnavailable, match="a replica or read-only"):
            near.append(batch(4))
    check(near, 3)
    own.ask("REPLICAOF", "NO", "ONE")
    near.append(batch(4))
    check(near, 4)


def test_a_server_that_cannot_write_its_disk(own: Redis, near: Small) -> None:
    target = own.folder / "dump.rdb"
    target.mkdir()
    own.ask("CONFIG", "SET", "save", "3600 1")
    own.ask("BGSAVE")
    until(lambda: own.ask("INFO")["rdb_last_bgsave_status"] == "err")
    for _ in range(2):
        with pytest.raises(errors.BackendUnavailable, match="cannot write to its disk"):
            near.append(batch(4))
    check(near, 3)
    target.rmdir()
    own.ask("SAVE")
    near.append(batch(4))
    check(near, 4)


def test_a_server_that_is_busy(own: Redis, near: Small) -> None:
    own.ask("CONFIG", "SET", "lua-time-limit", 10)
    busy = threading.Thread(target=lambda: suppressed(own, "EVAL", "while true do end", 0))
    busy.start()
    until(lambda: is_busy(own))
    for ask in (lambda: near.append(batch(4)), lambda: near.items(Query())):
        with pytest.raises(errors.BackendUnavailable, match="busy with somebody's script"):
            ask()
    own.ask("SCRIPT", "KILL")
    busy.join(20)
    near.append(batch(4))
    check(near, 4)


def suppressed(own: Redis, *command: str | int) -> None:
    with suppress(Exception):
        own.ask(*command)


def is_busy(own: Redis) -> bool:
    try:
        own.ask("PING")
    except Exception as error:  # noqa: BLE001 - of whichever kind the driver makes it
        return "BUSY" in str(error) or "busy" in str(error).lower()
    return False


# ---------------------------------------------------------------- a server that lost something


class Held:
    """A keeper that waits."""

    def __init__(self) -> None:
        self.reached, self.goes_on = threading.Event(), threading.Event()


def held_at(monkeypatch: pytest.MonkeyPatch, where: Script) -> Held:
    """Have keepers wait before they execute a script."""
    made = Held()
    run = Keeper._run

    def waiting(self: Keeper, script: Script, *args: Any) -> Any:
        if script is where:
            made.reached.set()
            assert made.goes_on.wait(30)
        return run(self, script, *args)

    monkeypatch.setattr(Keeper, "_run", waiting)
    return made


def all_rewound(backend: Small, match: str) -> None:
    store = backend._opened()
    last = store._opened.head
    asks: list[Callable[[], object]] = [
        lambda: backend.items(Query()),
        lambda: backend.replay(Query(), 0),
        lambda: backend.replay(Query(((1, ("u",)),)), 0),
        lambda: backend.arrived(5),
        lambda: backend.append(batch(last + 1)),
        lambda: backend.trim(2),
        backend.last_id,
        backend.tidy,
    ]
    if store.newest.layouts:  # what is in memory alone is counted there
        asks.append(lambda: backend.count(Query(((1, ("u",)),), since=0, until=9_999)))
    for ask in asks:
        with pytest.raises(errors.StoreRewound, match=match):
            eventually(ask)


def eventually(ask: Callable[[], object]) -> object:
    """Ask again when it was the first to notice that the connection is lost."""
    try:
        return ask()
    except errors.BackendUnavailable:
        return ask()


def test_a_server_that_lost_its_end(own: Redis, near: Small) -> None:
    near.append(batch(4, 9))
    assert near.settle(20)
    run = near._opened()._opened.run
    own.ask("SAVE")
    near.append(batch(13, 9))
    own.kill()
    own.start()
    all_rewound(near, "events up to 12 only, and had them up to 21")
    near.close()
    head = near.open(None)
    assert head.id == 12
    assert head.runs == ((run, 12), (head.run, 12))
    check(near, 12)
    near.append(batch(13))
    check(near, 13)


def test_a_server_that_was_emptied(own: Redis, near: Small) -> None:
    own.ask("FLUSHDB")
    all_rewound(near, "emptied")
    near.close()
    assert near.open(["kind", "user"]).id == 0
    add(near, 3)
    check(near, 3)


def test_a_copy_of_before_the_opening(own: Redis, near: Small) -> None:
    near.close()
    own.ask("SAVE")
    before = near.open(None)
    own.kill()
    own.start()
    all_rewound(near, "older copy")
    near.close()
    head = near.open(None)
    # What the copy does not know of is no run of the store.
    assert [run for run, _ in head.runs] == [before.runs[0][0], head.run]
    check(near, 3)


def test_a_server_that_lost_the_end_of_a_run(
    own: Redis, near: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But no event: nothing of the head tells of it."""
    end = held_at(monkeypatch, redis_lookups.END_RUN)
    near.append(batch(4, 9))
    assert end.reached.wait(20)
    own.ask("SAVE")
    end.goes_on.set()
    assert near.settle(20)
    check(near, 12)
    own.kill()
    own.start()
    all_rewound(near, "lost what was done last")
    near.close()
    assert near.open(None).id == 12
    assert near.settle(20)
    check(near, 12)
    assert own.ask("HLEN", "a:unfinished") == 0


def test_a_server_that_lost_rows_of_producers_only(own: Redis, near: Small) -> None:
    near.append(producers(4, 7))
    own.ask("SAVE")
    near.append(producers(4, 8))
    own.kill()
    own.start()
    all_rewound(near, "lost what was done last")


def test_a_doubtful_batch_and_a_server_that_lost_its_end(
    own: Redis, network: Network, backend: Quick
) -> None:
    own.ask("SAVE")
    add(backend, 2)
    doubtful = batch(6, 2)
    network.trap(words(redis_scripts.APPEND))
    with pytest.raises(errors.BackendUnavailable):
        backend.append(doubtful)
    own.kill()
    own.start()
    for ask in (lambda: backend.append(doubtful), backend.last_id):
        with pytest.raises(errors.StoreRewound):
            eventually(ask)


def test_another_server_took_its_place(own: Redis, near: Small) -> None:
    own.ask("FLUSHDB")
    other = Small(near.url)
    other.open(["kind", "user"])
    add(other, 1)
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        eventually(lambda: near.append(replace(batch(4))))
    check(other, 1)
    other.close()


@pytest.mark.parametrize("script", ["BEGIN_RUN", "PUT", "END_RUN"])
def test_the_index_of_a_store_that_was_lost_is_not_written_on(
    own: Redis, near: Small, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    own.ask("SAVE")
    lost = held_at(monkeypatch, getattr(redis_lookups, script))
    near.append(batch(4, 5))
    assert lost.reached.wait(20)
    own.kill()
    own.start()
    lost.goes_on.set()
    until(lambda: isinstance(near._opened().newest.trouble, errors.StoreRewound))
    with pytest.raises(errors.StoreRewound):
        near.tidy()
    assert own.ask("HLEN", "a:unfinished") == 0
    near.close()
    assert near.open(None).id == 3
    check(near, 3)
