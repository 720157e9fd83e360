"""Stores behind a network that fails: what waits ends when it is told to, and nothing is twice."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pytest

from zstream import errors
from zstream.backends import open_backend
from zstream.backends.base import PROBE_S, Backend, Batch, Query
from zstream.backends.postgres import PostgresBackend

from ..servers.mariadb import MariaDB
from ..servers.network import Network
from ..servers.postgres import Postgres

#: Seconds until something that should happen at once has failed, on a machine with much to do.
PATIENCE_S: Final = 20.0


@dataclass
class Store:
    """A store whose server is reached over a network that can fail.

    Attributes:
        url: Its URL.
        network: The network.
        ask: Executes a statement in the store's place, past the network.
        last: The last id, past the network.
        locks: What takes the lock, as it goes over the network.
    """

    url: str
    network: Network
    ask: Callable[[str], Any]
    last: Callable[[], int]
    locks: bytes


@pytest.fixture
def postgres_store(postgres: Postgres) -> Iterator[Store]:
    network = Network({"store": postgres.folder / ".s.PGSQL.5432"})
    name = postgres.schema()
    at = f"127.0.0.1:{network.ports['store']}"
    url = f"postgresql://postgres@{at}/postgres?schema={name.replace(' ', '%20')}"

    def ask(statement: str) -> Any:
        return postgres.ask(f'SET search_path = "{name}"; {statement}')

    def last() -> int:
        return int(postgres.ask(f'SELECT last FROM "{name}".head')[0][0])

    yield Store(url, network, ask, last, b"pg_try_advisory_lock")
    network.close()
    postgres.drop(name)


@pytest.fixture
def mysql_store(mariadb: MariaDB) -> Iterator[Store]:
    network = Network({"store": mariadb.socket})
    name = mariadb.database()
    url = f"mysql://root@127.0.0.1:{network.ports['store']}/{name}"

    def ask(statement: str) -> Any:
        return mariadb.ask(statement, database=name)

    def last() -> int:
        return int(ask("SELECT last FROM head")[0][0])

    yield Store(url, network, ask, last, b"GET_LOCK")
    network.close()
    mariadb.drop(name)


@pytest.fixture(params=["postgres", "mysql"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_store")  # type: ignore[no-any-return]


@pytest.fixture
def backend(store: Store) -> Iterator[Backend]:
    made = open_backend(store.url)
    made.open(["kind"])
    if isinstance(made, PostgresBackend):
        assert made.settle(PATIENCE_S)  # what the tests do to connections is not meant for its own
    yield made
    store.network.mend()
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def batch(first: int, count: int = 100) -> Batch:
    """So many that every store has a COMMIT of its own for it."""
    bodies = [b"event %d" % id for id in range(first, first + count)]
    return Batch(first, [5] * count, bodies, [["a"] * count], first)


def check(backend: Backend, last: int) -> None:
    assert backend.last_id() == last
    found = backend.replay(Query(), 0)
    assert list(found.ids) == list(range(1, last + 1))
    assert list(found.bodies) == [b"event %d" % id for id in found.ids]
    assert backend.count(Query(((0, ("a",)),))) == last


def until(condition: Callable[[], object]) -> None:
    pause, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        pause.wait(0.01)


def probe_fails(backend: Backend) -> None:
    began = time.monotonic()
    with pytest.raises(errors.BackendUnavailable):
        backend.probe()
    assert time.monotonic() - began < PROBE_S + 1.0


def ended(*calls: "Future[Any]") -> None:
    """They have been interrupted."""
    began = time.monotonic()
    for call in calls:
        with pytest.raises(errors.BackendUnavailable):
            call.result(PATIENCE_S)
    assert time.monotonic() - began < 1.5


def stored(backend: Backend, number: int) -> None:
    """Append a batch as the daemon does after a failure."""
    for _ in range(50):
        try:
            if backend.last_id() < number:
                backend.append(batch(number))
            return
        except errors.BackendUnavailable:
            continue
    pytest.fail("it never came back")


@pytest.mark.parametrize("how", ["freeze", "drop"])
def test_calls_that_wait_are_interrupted(
    store: Store, backend: Backend, pool: ThreadPoolExecutor, how: str
) -> None:
    backend.append(batch(1))
    backend.probe()
    reads: list[Callable[[], Any]] = [
        lambda: backend.items(Query()), lambda: backend.count(Query(((0, ("a",)),))),
        lambda: backend.replay(Query(), 0),
    ]  # fmt: skip
    for read in reads:
        read()
    getattr(store.network, how)()
    calls = [pool.submit(read) for read in reads]
    calls.append(pool.submit(backend.append, batch(101)))
    probe_fails(backend)
    probe_fails(backend)  # also when it has to connect
    assert not any(call.done() for call in calls[3:])
    backend.interrupt()
    ended(*calls)
    # Who comes now waits for a connection, and not for long.
    began = time.monotonic()
    ended_by_itself = pool.submit(reads[0])
    with pytest.raises(errors.BackendUnavailable):
        ended_by_itself.result(PATIENCE_S)
    assert time.monotonic() - began < 4.0
    store.network.mend(old=False)  # the server has not heard of the ends of the sessions
    backend.probe()
    stored(backend, 101)
    check(backend, 200)
    store.network.mend()
    check(backend, 200)
    backend.append(batch(201))
    check(backend, 300)


def test_idle_sessions_are_interrupted_too(store: Store, backend: Backend) -> None:
    """They are made again without an error in between."""
    backend.append(batch(1))
    check(backend, 100)
    backend.interrupt()
    check(backend, 100)
    backend.append(batch(101))
    backend.interrupt()
    backend.append(batch(201))
    check(backend, 300)


def test_a_commit_whose_answer_is_lost(store: Store, backend: Backend) -> None:
    backend.append(batch(1))
    for number in range(101, 501, 100):
        store.network.trap(b"COMMIT")
        with pytest.raises(errors.BackendUnavailable):
            backend.append(batch(number))
        until(lambda number=number: store.last() == number + 99)  # type: ignore[misc]
        assert backend.last_id() == number + 99
    check(backend, 500)
    backend.append(batch(501))
    check(backend, 600)


def test_a_commit_that_is_still_on_its_way_never_comes(
    store: Store, backend: Backend, pool: ThreadPoolExecutor
) -> None:
    """It stands in the network, before a server whose session has the lock and waits for it."""
    backend.append(batch(1))
    store.network.hold(b"COMMIT")
    late = pool.submit(backend.append, batch(101))
    until(lambda: store.network.sprung("store"))
    backend.probe()  # other connections are well
    backend.interrupt()
    ended(late)
    assert backend.last_id() == 100
    store.network.mend()  # now it would come
    backend.append(batch(101))
    check(backend, 200)


def test_a_session_that_took_the_lock_again_and_was_lost(store: Store, backend: Backend) -> None:
    """Each of those that were lost one after the other may have the lock."""
    backend.append(batch(1))
    for _ in range(2):
        backend.interrupt()
        store.network.trap(store.locks)
        with pytest.raises(errors.BackendUnavailable):
            backend.last_id()
    stored(backend, 101)
    check(backend, 200)


def test_the_lock_of_a_frozen_session_is_taken_over(
    store: Store, backend: Backend, pool: ThreadPoolExecutor
) -> None:
    backend.append(batch(1))
    for times in (1, 2):
        store.network.freeze()
        backend.interrupt()
        store.network.mend(old=False)
        store.network.hold(store.locks)
        call = pool.submit(backend.last_id)
        until(lambda times=times: store.network.sprung("store") == times)  # type: ignore[misc]
        backend.interrupt()
        ended(call)
    stored(backend, 101)
    check(backend, 200)
    store.network.mend()
    check(backend, 200)


def test_another_daemon_is_still_noticed(store: Store, backend: Backend) -> None:
    backend.append(batch(1))
    store.network.freeze()
    backend.interrupt()
    store.network.mend(old=False)
    store.ask("INSERT INTO runs (run, began_after) VALUES (7, 100)")
    store.ask("UPDATE head SET last = last" if "postgres" in store.url else "UPDATE head SET run=7")
    with pytest.raises(errors.BackendConflict, match="another daemon"):
        backend.append(batch(101))


@pytest.mark.parametrize("what", ["last", "run", "all"])
def test_a_store_that_went_back(store: Store, backend: Backend, what: str) -> None:
    backend.append(batch(1))
    backend.append(batch(101))
    if what != "all":
        backend.interrupt()
    if what == "run":
        store.ask("DELETE FROM runs")
    else:
        store.ask("UPDATE head SET last = 100")
    with pytest.raises(errors.StoreRewound, match="earlier state"):
        backend.append(batch(201))
    if what != "all":
        with pytest.raises(errors.StoreRewound):
            backend.last_id()


def test_a_slow_network_is_not_an_outage(store: Store, backend: Backend) -> None:
    store.network.delay(0.02)
    backend.probe()
    backend.append(batch(1))
    check(backend, 100)
    store.network.delay(3.0)
    probe_fails(backend)
    probe_fails(backend)
    store.network.mend()
    backend.probe()


def test_a_network_that_is_cut_and_back(store: Store, backend: Backend) -> None:
    backend.append(batch(1))
    store.network.refuse()
    probe_fails(backend)
    with pytest.raises(errors.BackendUnavailable):
        backend.append(batch(101))
    with pytest.raises(errors.BackendUnavailable):
        backend.items(Query())
    store.network.mend()
    backend.probe()
    stored(backend, 101)
    check(backend, 200)


def test_closing_does_not_wait_for_a_network(store: Store, backend: Backend) -> None:
    backend.append(batch(1))
    check(backend, 100)
    store.network.freeze()
    began = time.monotonic()
    backend.close()
    assert time.monotonic() - began < 8.0
