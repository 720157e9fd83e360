"""Many followers, and bad ones: who is slow or stopped costs little and slows nobody."""

import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import zmq

from zstream import Client
from zstream.testing import server
from zstreamd.sockets import PUBLISH_HWM

Socket = zmq.Socket[bytes]
Connect = Callable[[int, str], Socket]


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use now."""
    [kib] = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(kib) << 10


def stalled(connect: Connect, endpoint: str, topic: bytes) -> Socket:
    """A subscriber whose libzmq takes one message and no more, as if it were stopped."""
    sub = connect(zmq.SUB, endpoint)
    sub.disconnect(endpoint)
    sub.setsockopt(zmq.RCVHWM, 1)
    sub.setsockopt(zmq.RCVBUF, 64 << 10)
    sub.subscribe(topic)
    sub.connect(endpoint)
    assert sub.recv_multipart()[0] == topic
    return sub


def test_stalled_followers_cost_bounded_memory_and_slow_nobody(
    tmp_path: Path, zmq_socket: Connect
) -> None:
    size, count, others, alike = 100_000, 3 * PUBLISH_HWM, 5, 2
    with server(store=f"sqlite:///{tmp_path}/store.db") as running, Client(running.url) as client:
        for n in range(others):
            topic = json.dumps({"kind": ["large", str(n)]}).encode()
            stalled(zmq_socket, running.endpoints.publish, topic)
        for _ in range(alike):
            stalled(zmq_socket, running.endpoints.publish, b'{"kind": "large"}')
        before = resident_bytes(running.pid)
        with client.tail(kind="large") as tail:
            for first in range(0, count, 20):
                numbers = list(range(first, first + 20))
                client.insert_many({"kind": "large", "n": n, "text": "x" * size} for n in numbers)
                assert [event["n"] for event in islice(tail, 20)] == numbers
        grown = resident_bytes(running.pid) - before
    # What is held for those who stand alone, and once for those who follow the same; and what
    # passes through the daemon itself.
    bound = (others + 1) * PUBLISH_HWM * size + (80 << 20)
    unbounded = (others + 1) * count * size
    assert bound < unbounded * 0.6
    assert grown < bound, f"{grown >> 20} MiB"
