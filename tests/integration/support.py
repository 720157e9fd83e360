"""What the integration tests share: child processes, and a client made of bare sockets."""

import os
import signal
import struct
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack
import pytest
import zmq

#: Seconds until a test gives up waiting for something that should happen at once.
PATIENCE_S = 30.0

#: Of a publication, from `docs/protocol.md` by hand.
HEADER: Final = struct.Struct(">2sBBHHQQQQ")
DATA, HELLO, BEAT, BYE = 1, 2, 3, 8

Socket = Callable[[int, str], "zmq.Socket[bytes]"]


def environment(url: str | None = None) -> dict[str, str]:
    """The environment of a child: nothing of zstream's but the URL, and its commands in PATH."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAM")}
    path = os.pathsep.join([sysconfig.get_path("scripts"), inherited.get("PATH", os.defpath)])
    return {**inherited, "PATH": path, **({"ZSTREAM_URL": url} if url else {})}


def zstream(
    url: str, *args: str | Path, stdin: bytes | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run the command ``zstream`` to its end."""
    command = Path(sysconfig.get_path("scripts")) / "zstream"
    return subprocess.run(
        [command, *args], env=environment(url), timeout=100, check=False, capture_output=True,
        **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
    )  # fmt: skip


def start_zstream(url: str, *args: str | Path) -> "subprocess.Popen[bytes]":
    """Start the command ``zstream``, with a pipe to its stdin."""
    command = Path(sysconfig.get_path("scripts")) / "zstream"
    return subprocess.Popen(
        [command, *args], env=environment(url), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def zstream_ok(url: str, *args: str | Path, stdin: bytes | None = None) -> bytes:
    """Run the command ``zstream``, which must succeed; gives what it wrote to stdout."""
    done = zstream(url, *args, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def ask(url: str, op: str, **fields: object) -> dict[str, Any]:
    """Ask the daemon over a REQ socket of its own; gives the reply, good or bad."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = round(PATIENCE_S * 1000)
        socket.connect(url)
        socket.send(msgpack.packb({"op": op, **fields}))
        reply = msgpack.unpackb(socket.recv())
    assert isinstance(reply, dict)
    return reply


def ask_well(url: str, op: str, **fields: object) -> dict[str, Any]:
    """Ask the daemon, which must give a good reply."""
    reply = ask(url, op, **fields)
    assert reply["ok"], reply
    return reply


class Publication(NamedTuple):
    """What came under a topic: complete for it from ``prev`` to ``id``."""

    kind: int
    run: int
    prev: int
    id: int
    entries: list[tuple[int, int, dict[str, Any]]]


def receive(subscriber: "zmq.Socket[bytes]", topic: bytes) -> Publication:
    """The next publication that a bare SUB socket gets, which must be of this topic."""
    name, header, body = subscriber.recv_multipart()
    assert name == topic
    magic, version, kind, node, flags, run, prev, id, _ = HEADER.unpack(header)
    assert (magic, version, node, flags) == (b"ZT", 1, 0, 0)
    entries = msgpack.unpackb(body)
    assert bool(entries) == (kind == DATA)
    return Publication(kind, run, prev, id, [tuple(each) for each in entries or ()])


def everything(url: str, **fields: object) -> list[tuple[int, int, dict[str, Any]]]:
    """All events of the store by id, as a bare socket's `replay` gives them."""
    found: list[tuple[int, int, dict[str, Any]]] = []
    after = 0
    while True:
        reply = ask_well(url, "replay", after=after, **fields)
        found += [(id, ts, event) for id, ts, event in reply["events"]]
        after = reply["upto"]
        if after == reply["head"]:
            return found


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Ask again and again until something happened."""
    until = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > until:
            pytest.fail(f"{what}: not within {PATIENCE_S:g} s")


def run_silent(url: str, kind: str, code: str) -> None:
    """Run a script, with all warnings as errors; it must end well and say nothing."""
    script = f"kind = {kind!r}\n{textwrap.dedent(code)}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script], env=environment(url),
        timeout=PATIENCE_S, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = (done.returncode, done.stdout, done.stderr)
    assert said == (0, "", ""), said


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that is there and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # kill() returns before every thread of the process stands still.
        threads = [task / "stat" for task in Path(f"/proc/{pid}/task").glob("*")]
        wait_until(
            lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads),
            "all of its threads stand still",
        )
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
