"""The commands on a terminal: tables, colour, the progress bar, prompts."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest

from zstream import Client

from .support import PATIENCE_S, environment

BOLD, RED, OFF = "\x1b[1m", "\x1b[31m", "\x1b[0m"


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal of 60 columns."""

    def __init__(self, url, *words, **variables):
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 60, 0, 0))
        env = {k: v for k, v in environment(url).items() if k not in ("NO_COLOR", "COLUMNS")}
        self._process = subprocess.Popen(
            ["zstream", *words], stdin=theirs, stdout=theirs, stderr=theirs,
            env={**env, "TERM": "xterm", **variables}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self._raw, self._at = b"", 0

    @property
    def shown(self):
        return self._raw.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text):
        os.write(self._own, text.encode())

    def wait_for(self, text):
        """Read until this is shown, behind what was waited for before."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.shown[self._at :]:
            assert self._read(until), f"{text!r} does not come, but: {self.shown!r}"
        self._at = self.shown.index(text, self._at) + len(text)

    def end(self):
        """Read to the end; gives the exit code."""
        while self._read(time.monotonic() + PATIENCE_S):
            pass
        os.close(self._own)
        return self._process.wait(PATIENCE_S)

    def _read(self, until):
        if not select.select([self._own], [], [], max(0.0, until - time.monotonic()))[0]:
            self._process.kill()
            return False
        try:
            data = os.read(self._own, 65536)
        except OSError:  # Linux's end of a terminal
            return False
        self._raw += data
        return bool(data)


@pytest.fixture
def url(zstream_server):
    with Client(zstream_server.url) as client:
        client.insert({"kind": "friend", "user": 23, "text": "x" * 100}, date=0)
        client.insert({"kind": "\x1b[2J", "user": "日本語"}, date=1)
        client.flush()
    return zstream_server.url


def test_items_are_a_table_cut_at_the_edge(url):
    terminal = Terminal(url, "items", "-n", "1000")

    assert terminal.end() == 0
    lines = terminal.shown.splitlines()
    assert lines[0] == f"{BOLD}id  date                  kind       user    event{OFF}"
    assert lines[1:] == [
        r"2   1970-01-01T00:00:01Z  \u001b[2J  日本語",
        '1   1970-01-01T00:00:00Z  friend     23      {"text":"xxxxx…',
    ]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_turned_off(url, variables):
    terminal = Terminal(url, "items", "--format", "table", **variables)

    assert terminal.end() == 0
    assert "\x1b" not in terminal.shown
    assert terminal.shown.startswith("id  date")


def test_no_colour_variable_may_be_empty(url):
    terminal = Terminal(url, "items", NO_COLOR="")

    assert terminal.end() == 0
    assert terminal.shown.startswith(BOLD)


def test_what_more_there_is_is_said(url):
    terminal = Terminal(url, "items", "-n", "1")
    assert terminal.end() == 0
    assert re.search(r"\nmore: --before p1\.[0-9a-f.]+\n$", terminal.shown)

    terminal = Terminal(url, "items", "kind=nobody")
    assert terminal.end() == 0
    assert terminal.shown == "no events\n"


def test_json_lines_are_the_same_as_in_a_pipe(url):
    terminal = Terminal(url, "items", "kind=friend", "--format", "jsonl")

    assert terminal.end() == 0
    assert terminal.shown.replace("\n", "") == (
        '{"kind":"friend","user":23,"text":"' + "x" * 100 + '"}'
    )


def test_an_error_is_red(url):
    terminal = Terminal(url, "count", "nokey=1")

    assert terminal.end() == 2
    assert terminal.shown.startswith(f"{RED}zstream:{OFF} 'nokey' is not an indexed key")


def test_an_import_shows_how_far_it_is(url, tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_bytes(b'{"kind":"a","user":1,"repo":2,"pad":"%s"}\n' % (b"x" * 50) * 100_000)

    terminal = Terminal(url, "import", str(file))

    assert terminal.end() == 0
    assert re.search(
        r"\r\x1b\[K +\d+% \[#*-*\]  [\d,]+ events  [\d,]+/s  \d+:\d\d left", terminal.shown
    )
    last = terminal.shown.rpartition("\r\x1b[K")[2]
    assert re.fullmatch(r"stored 100,000 events in [\d.]+ s \([\d,]+/s\)\n", last)


def test_a_silent_terminal_is_told_what_insert_waits_for(url):
    terminal = Terminal(url, "insert")
    terminal.wait_for("reading JSON Lines from the terminal; Ctrl-D ends\n")
    terminal.type('{"kind": "typed"}\nwhat?\n')
    terminal.wait_for("line 2: not JSON")
    terminal.type("\x04")

    assert terminal.end() == 4
    assert "stored 1 event\nrefused 1:\n" in terminal.shown


def test_import_does_not_wait_for_a_terminal(url):
    terminal = Terminal(url, "import")

    assert terminal.end() == 2
    assert "name a file, or - for stdin" in terminal.shown


def test_ctrl_c_ends_a_tail(url):
    terminal = Terminal(url, "tail", "--after", "0")
    terminal.wait_for('"user":"日本語"}\n')
    terminal.type("\x03")

    assert terminal.end() == 130
    assert terminal.shown.endswith('"user":"日本語"}\n^C')


def test_the_shell(url):
    terminal = Terminal(url, "shell")
    terminal.wait_for('c is the client:  c.insert({"kind": "hello"})')
    terminal.wait_for(">>> ")
    terminal.type('c.items(kind="friend")[0]["user"] + 1000\n')
    terminal.wait_for("1023\n")
    terminal.wait_for(">>> ")
    terminal.type("\x04")

    assert terminal.end() == 0


def test_trim_asks_first(zstream_server):
    with Client(zstream_server.url) as client:
        for _ in range(5):
            client.insert({"kind": "a"})
        client.flush()
        terminal = Terminal(zstream_server.url, "trim", "--upto", "3")
        terminal.wait_for("Forget 3 events, up to id 3, of 5 in memory:?")
        terminal.type("n\n")
        terminal.wait_for("nothing was forgotten")
        assert terminal.end() == 1
        assert client.count() == 5
        terminal = Terminal(zstream_server.url, "trim", "--before", "30s")
        terminal.wait_for("Forget all events that arrived before 2")
        terminal.type("y\n")
        terminal.wait_for("forgot 0 events")
        assert terminal.end() == 0
        terminal = Terminal(zstream_server.url, "trim", "--upto", "3", "--yes")
        terminal.wait_for("forgot 3 events")
        assert terminal.end() == 0
        assert client.count() == 2
