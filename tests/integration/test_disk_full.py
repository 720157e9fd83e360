"""A disk that fills up: inserts wait, nothing is confirmed falsely, and it goes on by itself."""

import json
import resource
from pathlib import Path

import pytest

from zstream import Client
from zstream.errors import FlushError, Unavailable
from zstream.testing import server

EVENT = {"kind": "filler", "text": "x" * 20_000}

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="the limit of a running process is set by prlimit(2)"
)


def fill(client: Client, most: int) -> int:
    """Insert until no more is confirmed; how many were."""
    confirmed = 0
    for _ in range(most):
        for _ in range(20):
            client.insert(EVENT)
        try:
            client.flush(1.0)
        except FlushError:
            return confirmed
        confirmed += 20
    pytest.fail("the disk never became full")


def test_a_full_disk_stops_inserts_and_room_lets_them_go_on(tmp_path: Path) -> None:
    with server(store=f"sqlite:///{tmp_path / 'full.db'}") as running:
        # Given a daemon whose files cannot grow beyond 2 MiB: writing fails as on a full disk.
        _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (2 << 20, hard))
        with Client(running.url) as client:
            confirmed = fill(client, 50)
            # Then it says so, still answers queries, and refuses to promise anything.
            assert client.info()["down"]
            assert client.count(kind="filler") >= confirmed
            with pytest.raises(Unavailable):
                client.insert({"kind": "one"}, wait=True)
            # When there is room again, what waited is stored, once.
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (hard, hard))
            client.flush(20.0)
            assert client.info()["down"] is None
            assert client.count(kind="filler") == confirmed + 20
            assert client.insert({"kind": "one"}, wait=True) == confirmed + 21
        assert running.stop() == 0
    stopped = next(line for line in reversed(running.log) if "received" in line)
    assert f'"stored": {confirmed + 21}' in stopped


def test_a_stop_on_a_full_disk_says_what_is_not_stored(tmp_path: Path) -> None:
    with server(store=f"sqlite:///{tmp_path / 'full.db'}") as running:
        _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (2 << 20, hard))
        client = Client(running.url)
        confirmed = fill(client, 50)
        assert running.stop() == 3
        stopped = json.loads(next(line for line in reversed(running.log) if "received" in line))
        # The last try may find room for a little of what waits; all of it is accounted for.
        assert stopped["stored"] >= confirmed
        assert stopped["lost"] > 0
        assert stopped["stored"] + stopped["lost"] == stopped["received"] == confirmed + 20
        with pytest.raises(FlushError):
            client.flush(0.5)
        client.close()
        running.start()
        with Client(running.url) as other:
            assert other.count() == stopped["stored"]
