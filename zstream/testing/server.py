"""A daemon in a subprocess, for as long as a test needs it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from zstream.endpoints import Endpoints
from zstream.errors import ConfigError, Unavailable

_LOG_LINES = 1000
#: The daemon's exit code when somebody else listens on one of its endpoints, and until a next try.
_PORT_TAKEN = 5
_PAUSE_S = 0.1


class Server:
    """A ``zstreamd`` process.

    Attributes:
        url: The query endpoint, to be given to ``Client``.
        endpoints: All three.
        keys: The store's keys.
        store: The store's URL.
        version: The daemon's version.
        pid: Of the process.
        log: The newest 1,000 lines that the daemon wrote to stderr.
    """

    url: str
    endpoints: Endpoints
    keys: tuple[str, ...]
    store: str
    version: str
    pid: int
    log: deque[str]

    def __init__(
        self, options: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> None:
        self._options = list(options)
        self._environment = dict(environment)
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        self._hello: dict[str, Any] | None = None
        self.log = deque(maxlen=_LOG_LINES)

    def start(self) -> None:
        """Start the daemon and wait until it serves; a second start uses the same endpoints.

        If somebody else has taken one of them meanwhile, it waits for that to be over.

        Raises:
            Unavailable: It ended, or said nothing for ``timeout`` seconds. The message has what
                it wrote.
        """
        if self._process is not None:
            raise ConfigError("the server runs already")
        until = time.monotonic() + self._timeout
        is_again = hasattr(self, "url")
        while (code := self._try()) is not None:
            if code != _PORT_TAKEN or not is_again or time.monotonic() > until:
                said = "\n".join(self.log) or "nothing"
                raise Unavailable(f"zstreamd did not start (exit {code}); it wrote:\n{said}")
            time.sleep(_PAUSE_S)

    def _try(self) -> int | None:
        """Start the daemon; its exit code if it did not come to serve."""
        command = [sys.executable, "-m", "zstreamd", *self._options, "--log-format", "json"]
        self._ready.clear()
        self._hello = None
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            errors="replace", env=self._environment,
        )  # fmt: skip
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name="zstream-testing", daemon=True
        )
        self._reader.start()
        answered = self._ready.wait(self._timeout)
        if self._hello is None:
            return self.kill() if not answered else self._wait()
        self._take(self._hello)
        return None

    def stop(self, *, timeout: float = 10.0) -> int:
        """Stop the daemon as a supervisor does, with SIGTERM, and wait for its end.

        Args:
            timeout: Seconds until it is killed.

        Returns:
            The exit code, 0 if all went well; negative is the signal that ended it.
        """
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> int:
        """Kill the daemon with SIGKILL, as a crash would, and wait for its end."""
        return self._end(signal.SIGKILL, self._timeout)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) the daemon and start it again on the same endpoints and store.

        A store ``memory:`` is empty afterwards.
        """
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.log.append(line.rstrip("\n"))
                if self._hello is None and '"ready"' in line:
                    self._hello = _ready_line(line)
                    if self._hello is not None:
                        self._ready.set()
        self._ready.set()

    def _take(self, hello: Mapping[str, Any]) -> None:
        self.url = hello["query"]
        self.endpoints = Endpoints(hello["query"], hello["insert"], hello["publish"])
        self.keys = tuple(hello["keys"])
        self.store, self.version, self.pid = hello["store"], hello["version"], hello["pid"]
        _replace(self._options, "--listen", self.endpoints.query)
        _replace(self._options, "--insert", self.endpoints.insert)
        _replace(self._options, "--publish", self.endpoints.publish)

    def _end(self, number: int, timeout: float) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._wait()

    def _wait(self) -> int:
        assert self._process is not None
        assert self._reader is not None
        code = self._process.wait()
        self._reader.join()
        self._process = None
        return code


@contextmanager
def server(
    *,
    keys: Sequence[str] | None = ("kind", "user", "repo"),
    store: str = "memory:",
    listen: str = "tcp://127.0.0.1:*",
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    timeout: float = 20.0,
) -> Iterator[Server]:
    """Run a real daemon for the length of a ``with`` block.

    Args:
        keys: The keys to index; None leaves them to the store or the daemon's default.
        store: The store's URL; ``memory:`` forgets all at the end.
        listen: The query endpoint; by default three free ports on loopback.
        options: More options of ``zstreamd``.
        environment: Variables to set. ``ZSTREAMD_*`` of this process are not passed on, so that
            a test does not depend on who runs it.
        timeout: Seconds that the daemon may take to start.

    Yields:
        The running server.

    Raises:
        Unavailable: The daemon did not start; the message has what it wrote.
    """
    command = ["--store", store, "--listen", listen]
    if keys is not None:
        command += ["--keys", ",".join(keys)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAMD_")}
    running = Server([*command, *options], {**inherited, **(environment or {})}, timeout)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def _ready_line(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("event") == "ready" else None


def _replace(options: list[str], name: str, value: str) -> None:
    if name in options:
        options[options.index(name) + 1] = value
    else:
        options += [name, value]
