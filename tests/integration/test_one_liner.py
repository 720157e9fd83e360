"""One line that inserts and ends: it is stored, or somebody is told."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import pytest

from zstream import Client
from zstream.testing import server

from .support import environment

TIMES: Final = 100
#: Far more than it takes; nothing is measured here.
PATIENCE_S: Final = 30
LINE: Final = 'from zstream import Client; Client().insert({"kind": "hello", "user": %d})'


def run(url: str, code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(url), timeout=PATIENCE_S, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_it_is_stored_each_time() -> None:
    with server() as running:
        with ThreadPoolExecutor(4) as pool:
            ends = list(pool.map(lambda n: run(running.url, LINE % n), range(TIMES)))
        for end in ends:
            assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
        with Client(running.url) as client:
            assert client.count(kind="hello") == TIMES
            stored = client.items(kind="hello", end=2 * TIMES)
            assert sorted(event["user"] for event in stored) == list(range(TIMES))


@pytest.mark.parametrize(("listens", "many"), [(False, 1), (True, 1), (False, 1_000)])
def test_without_a_daemon_it_says_so_and_ends(listens: bool, many: int) -> None:
    """Nobody listens there, or somebody who never says a word."""
    # Bound all the time, so that nobody else can get the port.
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        if listens:
            taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        insert = f'c = Client(); [c.insert({{"kind": "hello"}}) for _ in range({many})]'
        end = run(url, f"from zstream import Client; {insert}")
    assert end.stdout == ""
    (warning,) = end.stderr.splitlines()
    assert url in warning
    assert str(many) in warning
    assert "Traceback" not in end.stderr
    assert end.returncode == 0
