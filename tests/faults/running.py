"""Processes under fault: the daemon, and clients of it; and what is in the store at last."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import msgpack
import pytest
import zmq

from .process import Process
from .traffic import KEYS, Row, make_event

HOST: Final = Path(__file__).with_name("host.py")
CLIENTS: Final = Path(__file__).with_name("clients.py")
#: Seconds until something that should happen soon has failed; a fault may come in between.
PATIENCE_S: Final = 60.0


def wait_until(happened: Callable[[], object], what: str, timeout: float = PATIENCE_S) -> None:
    """Look every few milliseconds until something happened."""
    until, pause = time.monotonic() + timeout, threading.Event()
    while not happened():
        if time.monotonic() > until:
            pytest.fail(f"{what}: not within {timeout:g} s")
        pause.wait(0.005)


class Child:
    """A process of a test, ended with it.

    Attributes:
        log: What it wrote to stdout and stderr.
    """

    def __init__(self, log: Path, command: Sequence[str | Path], **popen: Any) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **popen
            )
        self.pid = self.process.pid
        self._pidfd = os.pidfd_open(self.pid)
        Process.running.add(self)  # type: ignore[arg-type]

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Its exit code; a failure if it does not end."""
        if not select.select([self._pidfd], [], [], timeout)[0]:
            pytest.fail(f"still runs after {timeout:g} s: {self.process.args}\n{self.said()}")
        return self.end()

    def wait_well(self, timeout: float = PATIENCE_S) -> None:
        """Wait for its end, which must be a good one."""
        code = self.wait(timeout)
        assert code == 0, f"exit {code} of {self.process.args}:\n{self.said()}"

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0)[0]

    def send(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> int:
        """End it with SIGKILL, if it has not ended."""
        self.send(signal.SIGKILL)
        return self.end()

    def end(self) -> int:
        """The exit code of what has ended or is about to."""
        code = self.process.wait(PATIENCE_S)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            Process.running.discard(self)  # type: ignore[arg-type]
        return code

    def said(self) -> str:
        """The last that it wrote."""
        return self.log.read_text(errors="replace")[-3000:]


class Daemon:
    """A daemon in a folder, again and again.

    Attributes:
        url: Its query endpoint, the same in every life.
        store: The file of its store.
        store_url: Its URL, if it is kept elsewhere.
        clock: A file with the microseconds that its clock is ahead.
        kills: How often it was killed.

    What it is run ``under`` is a command that executes another one in its own place.
    """

    starting: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self, folder: Path, *options: str, store_url: str = "", under: Sequence[str | Path] = ()
    ) -> None:
        self.folder = folder
        self.url = f"ipc://{folder}/s"
        self.store, self.clock = folder / "store.db", folder / "clock"
        self.store_url = store_url or f"sqlite:///{self.store}"
        self.clock.write_text("0")
        self.kills = 0
        self._options, self._under = options, under
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The process of this life, or of the last one."""
        assert self._child is not None
        return self._child

    def start(self, *, ready: bool = True, **plan: Any) -> None:
        """Start it, and wait until it serves unless that is not wanted.

        Args:
            ready: Whether to wait.
            plan: Where it is to die: see `host`.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAM")}
        plan["clock"] = str(self.clock)
        command = [
            *self._under, sys.executable, HOST, "--store", self.store_url, "--listen", self.url,
            "--log-format", "json", "--keys", ",".join(KEYS), *self._options,
        ]  # fmt: skip
        environment["HOST"] = json.dumps(plan)
        self._child = Child(self.folder / "daemon.log", command, env=environment)
        if ready:
            self.ask("ping")

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.child.kill() == -9, self.child.said()
        self.kills += 1

    def stop(self) -> None:
        """End it with SIGTERM."""
        self.child.send(signal.SIGTERM)
        self.child.wait_well()

    def run(self, *words: str | Path) -> None:
        """Run a command of an operator on the store, to its good end."""
        command = [sys.executable, "-m", "zstreamd", *words, "--store", self.store_url]
        Child(self.folder / "operator.log", command).wait_well()

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask it over a bare socket; the reply must be good."""
        with self._socket() as (socket, poller):
            socket.send_multipart([b"", msgpack.packb({"op": op, **fields})])
            ready = dict(poller.poll(PATIENCE_S * 1000))
            if socket not in ready:
                pytest.fail(f"{op}: {'it ended' if ready else 'no reply'}\n{self.child.said()}")
            reply = msgpack.unpackb(socket.recv_multipart()[1])
        assert reply["ok"], reply
        return dict(reply)

    @contextmanager
    def _socket(self) -> Iterator[tuple["zmq.Socket[bytes]", zmq.Poller]]:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger, socket.reconnect_ivl = 0, 10
            socket.connect(self.url)
            poller = zmq.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(self.child._pidfd, zmq.POLLIN)
            yield socket, poller

    def head(self) -> int:
        """The last id in its store."""
        return int(self.ask("ping")["head"])

    def insert_end(self, number: int = 0) -> int:
        """Insert the event that tells all followers that this is the end; its id."""
        from .traffic import END

        return int(self.ask("insert", events=[make_event(END, number)])["ids"][0])

    def rows(self) -> list[Row]:
        """Walk the store; every event must be as it was inserted, and no id may be missing."""
        found: list[Row] = []
        after, floor = 0, int(self.ask("info")["floor"])
        while True:
            reply = self.ask("replay", after=max(after, floor), limit=1000)
            for id, _, event in reply["events"]:
                assert event == make_event(event["p"], event["n"]), f"event {id} was changed"
                found.append((id, event["p"], event["n"]))
            after = reply["upto"]
            if after == reply["head"]:
                break
        assert [row[0] for row in found] == list(range(floor + 1, reply["head"] + 1))
        return found


class Clients:
    """The clients of a test: processes that run `clients.py`, and what they wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: dict[str, tuple[str, dict[str, Any]]] = {}
        self.running: dict[str, Child] = {}

    def start(self, name: str, role: str, **told: Any) -> Child:
        """Start one; it writes to files of its name in the folder."""
        self._started[name] = role, told
        argument = json.dumps({"folder": str(self.folder), "name": name, **told})
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAM")}
        child = Child(
            self.folder / f"{name}.log", [sys.executable, CLIENTS, role, argument], env=environment
        )
        self.running[name] = child
        return child

    def again(self, name: str) -> Child:
        """Start one again that was killed."""
        role, told = self._started[name]
        return self.start(name, role, **told)

    def kill(self, name: str) -> None:
        """End one with SIGKILL."""
        self.running.pop(name).kill()

    def check(self) -> None:
        """Fail if one has ended badly."""
        for name, child in list(self.running.items()):
            if not child.is_alive() and child.process.poll():
                pytest.fail(f"{name} ended with {child.process.poll()}:\n{child.said()}")

    def await_started(self, *names: str) -> None:
        """Wait until these have begun."""

        def all_have() -> bool:
            self.check()
            return all((self.folder / f"{name}.began").exists() for name in names)

        wait_until(all_have, f"{names} begin")

    def count(self, name: str) -> int:
        """How many events it has inserted so far, or got."""
        with suppress(OSError, ValueError):
            return int((self.folder / f"{name}.count").read_text())
        return 0

    def stop(self, name: str) -> None:
        """Tell a producer that it is enough."""
        (self.folder / f"{name}.stop").touch()

    def result(self, name: str, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for its good end; what it says of itself."""
        self.running.pop(name).wait_well(timeout)
        return dict(json.loads((self.folder / f"{name}.result").read_text()))

    def got(self, name: str) -> list[Row]:
        """What a follower got, in its order."""
        path = self.folder / f"{name}.got"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [tuple(map(int, line.split()[:3])) for line in lines if line[0] != "#"]  # type: ignore[misc]

    def notes(self, name: str) -> list[str]:
        """The notes among what a follower wrote: how it began, and the errors it met."""
        path = self.folder / f"{name}.got"
        if not path.exists():
            return []
        return [line[2:] for line in path.read_text().splitlines() if line.startswith("#")]
