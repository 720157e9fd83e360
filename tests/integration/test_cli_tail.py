"""``zstream tail`` and closed pipes, as a shell runs them."""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zstream import Client
from zstream.testing import server

from .support import PATIENCE_S, environment, start_zstream, wait_until, zstream, zstream_ok


@contextmanager
def following(url: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """``zstream tail``, subscribed."""
    with Client(url) as client:
        before = client.info()["filters"]
        with start_zstream(url, "tail", *words) as process:
            try:
                wait_until(lambda: client.info()["filters"] > before, "the tail follows")
                yield process
            finally:
                process.kill()


def shell(url: str, script: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a script as a person types it."""
    return subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, env=environment(url), timeout=60
    )


def test_each_event_is_written_at_once(zstream_server):
    url = zstream_server.url
    with Client(url) as client, following(url, "kind=friend") as process:
        for n in range(3):
            client.insert({"kind": "other", "n": n})
            client.insert({"kind": "friend", "n": n})
            assert json.loads(process.stdout.readline()) == {"kind": "friend", "n": n}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_quietly(zstream_server, number):
    with following(zstream_server.url) as process:
        process.send_signal(number)

        assert process.wait(30) == 130
        assert process.stdout.read() + process.stderr.read() == b""


def test_it_begins_where_it_is_told_and_stops_after_n(zstream_server):
    url = zstream_server.url
    with Client(url) as client:
        client.insert_many({"kind": "x", "n": n} for n in range(3000))
        client.flush()
        cursor = client.tail(after=2998).cursor

    def ids(*words):
        lines = zstream_ok(url, "tail", "--meta", *words).splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert ids("--after", "0", "-n", "3000") == list(range(1, 3001))
    assert ids("kind=x", "--after", "10", "-n", "2") == [11, 12]
    assert ids("--after", cursor, "-n", "2") == [2999, 3000]
    assert ids("--since", "1h", "-n", "1") == [1]


def test_it_goes_on_over_a_restart_of_the_daemon_and_says_so_once(tmp_path):
    with (
        server(store=f"sqlite:///{tmp_path}/s.db") as running,
        following(running.url, "--meta") as process,
    ):
        away = f"zstream: the daemon at {running.url} is away; waiting for it\n"
        for n in range(1, 4):
            zstream_ok(running.url, "insert", f"n:={n}")
            line = json.loads(process.stdout.readline())
            assert (line["id"], line["event"]) == (n, {"n": n})
            if n < 3:
                (running.kill if n == 2 else running.stop)()
                assert process.stderr.readline() == away.encode()
                running.start()
                assert process.stderr.readline() == b"zstream: the daemon is back\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert process.stdout.read() + process.stderr.read() == b""


def test_a_reader_that_is_too_slow_misses_nothing(zstream_server):
    url = zstream_server.url
    count, pad = 7000, "x" * 5000  # 35 MB; a tail keeps 16 MiB for its reader
    with Client(url) as client, following(url) as process:
        client.insert_many({"n": n, "pad": pad} for n in range(count))
        client.flush(60)
        wait_until(lambda: client.info()["stored"] == count, "all is stored")

        assert [json.loads(process.stdout.readline())["n"] for _ in range(count)] == (
            list(range(count))
        )


def test_another_store_is_told_and_not_passed_over(tmp_path):
    with server() as running, following(running.url) as process:
        zstream_ok(running.url, "insert", "a=1")
        assert process.stdout.readline() == b'{"a":"1"}\n'
        running.restart()  # a store in memory is empty then

        assert process.wait(30) == 1
        assert b"of another store" in process.stderr.read()


def test_it_ends_with_its_reader(zstream_server):
    with following(zstream_server.url) as process:
        process.stdout.close()  # and no event comes

        assert process.wait(30) == 0
        assert process.stderr.read() == b""


# ---------------------------------------------------------------- the cursor file


def place(client: Client, id: int) -> str:
    """A cursor as a file has it, which stands behind this id."""
    with client.tail(after=id) as tail:
        if id < client.info()["head"]:
            tail.get(PATIENCE_S)
        return tail.cursor + "\n"


def stands_behind(file: Path, id: int) -> bool:
    return file.exists() and int(file.read_text().rpartition("-")[2], 16) == id


def test_a_cursor_file_is_made_and_used(zstream_server, tmp_path):
    url, file = zstream_server.url, tmp_path / "place"
    words = ("--meta", "--cursor-file", file)
    with Client(url) as client:
        client.insert_many([{"n": n} for n in range(20)], wait=True)

        def ids(*more):
            lines = zstream_ok(url, "tail", *words, *more).splitlines()
            return [json.loads(line)["id"] for line in lines]

        assert ids("--after", "3", "-n", "4") == [4, 5, 6, 7]
        assert stands_behind(file, 7)
        # The file wins, and is the one whose place moves on.
        assert ids("--after", "3", "-n", "5") == [8, 9, 10, 11, 12]
        assert ids("--since", "1h", "-n", "1") == [13]
        assert stands_behind(file, 13)
        assert os.listdir(tmp_path) == ["place"]
        # Without a word of where to begin: now, which is kept before the first event.
        file.unlink()
        with following(url, *words) as process:
            wait_until(lambda: stands_behind(file, 20), "the place is kept")
            # Of what does not match it keeps the place too.
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 130
        client.insert_many([{"n": n} for n in range(3)], wait=True)
        assert ids("-n", "2") == [21, 22]
        with following(url, "kind=none", "--cursor-file", file):
            client.insert({"n": 0}, wait=True)
            wait_until(lambda: stands_behind(file, 24), "it moves on with the store")


def is_stuck(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it sleeps, with the pipe to its reader full but for the last page."""
    (size,) = struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4))
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return size > 50_000 and state == "S"


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "closed pipe", "killed"])
def test_what_is_written_is_behind_the_cursor(zstream_server, tmp_path, end):
    """Ended in the middle, again and again, it writes each event once; killed, at least once."""
    url, file, count = zstream_server.url, tmp_path / "place", 20_000
    with Client(url) as client:
        client.insert_many({"n": n, "pad": "x" * 50} for n in range(count))
        client.flush(PATIENCE_S)
    seen: list[int] = []
    for part in (2_000, 5_000, 3_000):
        words = ("tail", "--after", "0", "--meta", "--cursor-file", file)
        with start_zstream(url, *words) as process:
            lines = [process.stdout.readline() for _ in range(part)]
            if end == "closed pipe":
                process.stdout.close()
                assert process.wait(30) == 0
                assert process.stderr.read() == b""
            elif end == "killed":
                wait_until(file.exists, "a place is kept")
                process.kill()
                lines += process.stdout.readlines()
            else:
                if end == "SIGTERM":  # with a line in its hand that has no room in the pipe
                    wait_until(lambda: is_stuck(process), "the pipe is full")
                process.send_signal(signal.Signals[end])
                lines += process.stdout.readlines()
                assert process.wait(30) == 130
        got = [json.loads(line)["id"] for line in lines if line.endswith(b"\n")]
        assert got == list(range(got[0], got[-1] + 1))
        if end == "closed pipe":
            # What was in the pipe was handed on, and is behind the cursor.
            assert got[0] == 1 if not seen else got[0] > seen[-1]
        elif end == "killed":
            assert got[0] <= len(set(seen)) + 1, "nothing is skipped"
        else:
            assert got[0] == len(seen) + 1, "nothing is skipped, and nothing comes twice"
        seen += got
    if end != "killed":
        assert sorted(set(seen)) == seen


def test_a_daemon_that_is_killed_and_a_cursor_file(tmp_path):
    file = tmp_path / "place"
    with server(store=f"sqlite:///{tmp_path}/s.db") as running, Client(running.url) as client:
        client.insert_many([{"n": n} for n in range(2_000)], wait=True)
        words = ("--after", "0", "--meta", "--cursor-file", file)
        seen = []
        with start_zstream(running.url, "tail", *words) as process:
            for part in (500, 2_000, 1_000):
                seen += [json.loads(process.stdout.readline())["id"] for _ in range(part)]
                running.restart(kill=True)
                client.insert_many([{"n": n} for n in range(750)], wait=True)
            seen += [json.loads(process.stdout.readline())["id"] for _ in range(750)]
            process.send_signal(signal.SIGTERM)
            assert (process.wait(30), process.stdout.read()) == (130, b"")
    assert seen == list(range(1, 4_251))
    assert stands_behind(file, 4_250)


def test_a_cursor_file_that_is_of_no_use(zstream_server, tmp_path):
    url, file = zstream_server.url, tmp_path / "place"

    def refused(*words):
        done = zstream(url, "tail", "--cursor-file", file, *words)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
        return done.stderr.decode()

    for text in ("", "42\n", "c1.zz", "p1.1.1.1.1", "\0" * 50, "c1.1.0-1\n" * 9_999):
        file.write_text(text)
        assert f"{file} holds no cursor; give another --cursor-file, or remove it" in refused()
        assert file.read_text() == text
    with Client(url) as client:
        client.insert_many([{"n": n} for n in range(9)], wait=True)
        kept = place(client, 3)
        with server() as other, Client(other.url) as stranger:
            stranger.insert_many([{"n": n} for n in range(9)], wait=True)
            file.write_text(place(stranger, 3))
        assert f"the cursor is that of {file}: remove the file to begin anew" in refused()
        file.write_text(kept)
        client.trim(upto=7)
        assert f"the cursor is that of {file}: remove the file" in refused()
        assert file.read_text() == kept
    file.unlink()
    assert "at 99, but" in refused("--after", "99")
    assert not file.exists(), "a place that the store does not know is not kept"
    file.mkdir()
    assert zstream(url, "tail", "--cursor-file", file).returncode == 2
    done = zstream(url, "tail", "--cursor-file", tmp_path / "no" / "place")
    assert done.stderr.startswith(b"zstream: No such file or directory: ")
    assert done.returncode == 1


# ---------------------------------------------------------------- closed pipes


def test_head_ends_a_command_quietly(zstream_server):
    with Client(zstream_server.url) as client:
        client.insert_many({"kind": "x", "pad": "y" * 1000} for _ in range(1000))
        client.flush()

    for words in ("items -n 100000", "tail --after 0", "items --format csv -n 9999"):
        done = shell(zstream_server.url, f"set -o pipefail; zstream {words} | head -1")

        assert (done.returncode, done.stderr) == (0, b""), words
        assert done.stdout.count(b"\n") == 1, words


def test_a_full_disk_is_told(zstream_server):
    zstream_ok(zstream_server.url, "insert", "a=1")
    for words in ("info", "items", "export", "tail --after 0", "insert a=2"):
        done = shell(zstream_server.url, f"zstream {words} > /dev/full")

        assert done.returncode == 1, words
        assert done.stderr == b"zstream: No space left on device\n", words


def test_a_closed_stdout_is_told(zstream_server):
    done = shell(zstream_server.url, "zstream count >&-")

    assert (done.returncode, done.stderr) == (1, b"zstream: stdout is closed\n")


def test_jq_reads_it(zstream_server, missing):
    if shutil.which("jq") is None:
        missing("jq")
    url = zstream_server.url
    zstream_ok(url, "insert", "kind=friend", "user:=23", "name=ä\u2028")
    done = shell(url, "zstream tail kind=friend --after 0 -n 1 | jq -c '[.user, .name]'")

    assert done.stdout.decode() == '[23,"ä\u2028"]\n'


def test_it_is_utf8_whatever_the_locale(zstream_server):
    url = zstream_server.url
    zstream_ok(url, "insert", "kind=ü𝄞")
    for form, expected in (("jsonl", '{"kind":"ü𝄞"}\n'), ("csv", "kind\nü𝄞\n")):
        done = subprocess.run(
            ["zstream", "items", "--format", form], check=False, capture_output=True,
            env={**environment(url), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            timeout=60,
        )  # fmt: skip
        assert done.stdout.decode() == expected
    assert zstream(url, "count", "kind=ü𝄞").stdout == b"1\n"
