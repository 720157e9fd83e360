"""``zstream tail`` and closed pipes, as a shell runs them."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from zstream import Client
from zstream.testing import server

from .support import environment, start_zstream, wait_until, zstream, zstream_ok


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


def test_it_goes_on_over_a_restart_of_the_daemon(tmp_path):
    with (
        server(store=f"sqlite:///{tmp_path}/s.db") as running,
        following(running.url, "--meta") as process,
    ):
        for n in range(1, 4):
            zstream_ok(running.url, "insert", f"n:={n}")
            line = json.loads(process.stdout.readline())
            assert (line["id"], line["event"]) == (n, {"n": n})
            running.restart(kill=n == 2)


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
