"""The recipes of docs/frameworks.md as files, and the programs that run them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
PATIENCE_S: Final = 40.0

FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The first line of a block: where it belongs.
NAME: Final = re.compile(r"# ([\w./]+)\n")


def sections(page: str) -> dict[str, list[str]]:
    """The code blocks of each section of a page."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return {
        title: [body for _, body in FENCE.findall(text)]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def files(section: str) -> dict[str, str]:
    """The files of a section by their names."""
    found = {}
    for body in sections(PAGE.read_text())[section]:
        name = NAME.match(body)
        assert name, f"a block of {section} does not begin with its name:\n{body}"
        found[name[1]] = body
    return found


def write(section: str, folder: Path) -> Path:
    """Write the files of a section into a folder."""
    for name, body in files(section).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
    return folder


def environment(url: str) -> dict[str, str]:
    """The environment of a program: of zstream's only where the daemon is."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ZSTREAM", "DJANGO"))}
    return {**inherited, "ZSTREAM_URL": url, "PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "1"}


def run(folder: Path, url: str, *args: str) -> str:
    """Run Python in a recipe's folder to its end; gives what it wrote to stdout."""
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment(url), timeout=PATIENCE_S, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Program:
    """A Python program that serves, in a recipe's folder."""

    def __init__(self, folder: Path, url: str, *args: str) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *args], cwd=folder, env=environment(url), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Wait until it has written a line like this."""

        def written() -> "re.Match[str] | None":
            return next((each for line in self.lines if (each := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(lambda: written() or not self._reader.is_alive(), PATIENCE_S)
            found = written()
        assert found, f"it never wrote {pattern!r}:\n{''.join(self.lines)}"
        return found

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; gives its exit code."""
        self._process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end."""
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            pytest.fail(f"it did not end:\n{''.join(self.lines)}")

    def kill(self) -> None:
        """Make sure that it is gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_S)


@contextmanager
def program(folder: Path, url: str, *args: str) -> Iterator[Program]:
    """Run a program for as long as the block takes."""
    running = Program(folder, url, *args)
    try:
        yield running
    finally:
        running.kill()


def ask(address: str, path: str, data: Any = None) -> tuple[int, Any]:
    """Send a request, with JSON if there is some; gives the status, and the JSON of the answer."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        if data is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(data), headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None
    finally:
        connection.close()


@contextmanager
def stream(address: str, path: str, last: str | None = None) -> Iterator[Iterator[dict[str, str]]]:
    """Read Server-Sent Events as a browser does: their fields, comments left out."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        headers = {} if last is None else {"Last-Event-ID": last}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (
            200, "text/event-stream; charset=utf-8",
        )  # fmt: skip
        yield _events(answer)
        answer.close()
    finally:
        connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in answer:
        name, _, value = line.decode().rstrip("\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif fields:
            yield fields
            fields = {}


def host(url: str) -> str:
    """The host and port of a URL."""
    return urllib.parse.urlsplit(url).netloc


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Ask again and again until something happened."""
    moment = threading.Event()
    for _ in range(round(PATIENCE_S / 0.01)):
        if happened():
            return
        moment.wait(0.01)
    pytest.fail(f"{what}: not within {PATIENCE_S:g} s")
