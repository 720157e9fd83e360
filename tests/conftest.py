"""What every test may use."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import zmq
from hypothesis import settings

if TYPE_CHECKING:
    from .servers.mariadb import MariaDB
    from .servers.postgres import Postgres
    from .servers.redis import Redis

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# In CI the same examples each time: a red run can be repeated, and a green one is not luck. At
# home new ones each time; what fails is kept in .hypothesis and tried first.
settings.register_profile("ci", max_examples=100, derandomize=True, deadline=None, database=None)
settings.register_profile("home", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=5_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if CI else "home"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Three at least: a third of the time tests wait for processes and sockets.

    Faults are timed beside each other, and keep to the cores.
    """
    if any("faults" in str(each) for each in config.args):
        return None
    return max(3, os.cpu_count() or 1)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real events and test vectors, which is no part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data is not here: ../shared/data does not exist")
    return folder


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """What a test calls when a server or program that it needs is not there.

    At home the test is skipped. In CI it fails, because there a skip would hide that the test
    has not run for months.
    """

    def give_up(what: str) -> NoReturn:
        if CI:
            pytest.fail(f"{what} is missing, and in CI it must not be", pytrace=False)
        pytest.skip(f"{what} is missing")

    return give_up


@pytest.fixture(scope="session")
def mariadb(missing: Callable[[str], NoReturn]) -> Iterator["MariaDB"]:
    """A running MariaDB server, one a test process."""
    from .servers.mariadb import serving

    with serving(missing) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(missing: Callable[[str], NoReturn]) -> Iterator["Postgres"]:
    """A running PostgreSQL server, one a test process."""
    from .servers.postgres import serving

    with serving(missing) as server:
        yield server


@pytest.fixture(scope="session")
def redis(missing: Callable[[str], NoReturn]) -> Iterator["Redis"]:
    """A running Redis server, one a test process."""
    from .servers.redis import serving

    with serving(missing) as server:
        yield server


@pytest.fixture
def zmq_context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context of its own whose sockets never linger and whose end is checked."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.linger = 0
    yield context
    # destroy() would wait for ever for a socket that another thread still uses.
    end = threading.Thread(target=context.destroy, kwargs={"linger": 0}, daemon=True)
    end.start()
    end.join(10)
    if end.is_alive():
        pytest.fail("a socket of this test is still in use by another thread")


@pytest.fixture
def zmq_socket(
    zmq_context: zmq.Context[zmq.Socket[bytes]],
) -> Iterator[Callable[[int, str], zmq.Socket[bytes]]]:
    """Make a connected socket: ``zmq_socket(zmq.REQ, endpoint)``; closed after the test.

    It gives up after 10 s of waiting with ``zmq.Again``.
    """
    made: list[zmq.Socket[bytes]] = []

    def connect(kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = zmq_context.socket(kind)
        made.append(socket)
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = 10_000
        socket.ipv6 = endpoint.startswith("tcp://[")
        socket.connect(endpoint)
        return socket

    yield connect
    for socket in made:
        socket.close()
