"""The commands that ask and that insert a single event, as a shell runs them."""

import csv
import io
import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from zstream import Client
from zstream.cli import app
from zstream.testing import Server, server

from .support import environment, start_zstream, zstream, zstream_ok

USERS = [{"kind": "friend", "user": n % 7, "n": n} for n in range(2_500)]


@pytest.fixture(scope="module")
def stored() -> Iterator[Server]:
    """A daemon with 2,500 events that no test adds to."""
    with server() as running, Client(running.url) as client:
        client.insert_many(USERS)
        client.flush()
        yield running


def run(url: str, *words: str, stdin: bytes | None = None) -> Result:
    """Run a command in this process, which is quicker; the rest is as from a shell."""
    return CliRunner().invoke(
        app.cli, words, input=stdin, env={"ZSTREAM_URL": url}, prog_name="zstream"
    )


def ask(url: str, *words: str, stdin: bytes | None = None) -> bytes:
    """Run a command, which must succeed; gives what it wrote to stdout."""
    done = run(url, *words, stdin=stdin)
    assert done.exit_code == 0, done.stderr
    return done.stdout_bytes


def lines(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_ping_and_info(stored):
    assert re.fullmatch(rb"zstreamd \S+ at \S+ answered in [\d.]+ ms\n", ask(stored.url, "ping"))
    (info,) = lines(ask(stored.url, "info"))
    assert info["keys"] == ["kind", "user", "repo"]
    assert info["stored"] == 2_500
    assert b'keys         ["kind","user","repo"]\n' in ask(stored.url, "info", "--format", "table")


def test_the_url_may_stand_before_and_behind_the_command(stored):
    nowhere = "tcp://127.0.0.1:1"
    for words in (["--url", stored.url, "count"], ["count", "--url", stored.url]):
        assert ask(nowhere, *words) == b"2500\n"


def test_items_are_newest_first(stored):
    assert lines(ask(stored.url, "items")) == USERS[:-21:-1]
    of_two = [event for event in reversed(USERS) if event["user"] in (3, 5)]
    assert lines(ask(stored.url, "items", "user=3", "user=5", "-n", "9")) == of_two[:9]
    assert (
        lines(ask(stored.url, "items", "user:=[3,5]", "--start", "9", "-n", "9")) == (of_two[9:18])
    )
    assert ask(stored.url, "items", "user=nobody") == b""


def test_values_come_from_a_file_and_from_stdin(stored, tmp_path):
    (tmp_path / "ids.txt").write_text("3\n\n5\n")
    expected = ask(stored.url, "count", "user=3", "user=5")

    assert ask(stored.url, "count", f"user=@{tmp_path / 'ids.txt'}") == expected
    assert ask(stored.url, "count", "user=@-", stdin=b"3\n5\n") == expected


def test_many_items_are_walked_by_token(stored):
    assert lines(ask(stored.url, "items", "-n", "100000")) == USERS[::-1]
    assert (
        lines(ask(stored.url, "items", "-n", "2300", "--start", "100")) == (USERS[::-1][100:2400])
    )


def test_a_walk_of_a_script(stored, tmp_path):
    token = tmp_path / "token"
    found = lines(ask(stored.url, "items", "-n", "999", "--next", str(token)))
    while token.read_text():
        before = token.read_text().strip()
        found += lines(
            ask(stored.url, "items", "-n", "999", "--before", before, "--next", str(token))
        )

    assert found == USERS[::-1]


def test_meta_and_times(stored):
    newest = lines(ask(stored.url, "items", "--meta", "-n", "2"))
    assert [each["id"] for each in newest] == [2500, 2499]
    assert [each["event"] for each in newest] == USERS[:-3:-1]

    second = newest[0]["ts"] / 1e6
    assert ask(stored.url, "count", "--since", "1h") == b"2500\n"
    assert ask(stored.url, "count", "--until", "1h") == b"0\n"
    assert ask(stored.url, "count", "--until", f"{second - 3600:.6f}") == b"0\n"
    assert ask(stored.url, "count", "--since", "2015-01-31", "--tz", "UTC") == b"2500\n"


def test_csv_and_table(stored):
    rows = list(csv.DictReader(io.StringIO(
        ask(stored.url, "items", "-n", "3", "--format", "csv").decode()
    )))  # fmt: skip
    assert rows == [{name: str(value) for name, value in event.items()} for event in USERS[:-4:-1]]

    table = ask(stored.url, "items", "-n", "1", "--format", "table").decode().splitlines()
    assert re.fullmatch(r"id +date +kind +user +event", table[0])
    assert re.fullmatch(r'2500  \S+Z  friend  0     \{"n":2499\}', table[1])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["items", "nokey=1"], 2, "'nokey' is not an indexed key; indexed are: kind, user, repo"),
        (["items", "kind=" + "x" * 300], 2, "over 255 bytes"),
        (["items", "--before", "p1.1.1.1.1"], 1, "another store"),
        (["items", "--next", "/nowhere/token"], 1, "No such file or directory: /nowhere/token"),
        (["tail", "--after", "99999999"], 1, "its run of the store ended at"),
        (["tail", "nokey=1"], 2, "not an indexed key"),
        (["insert", "friend"], 2, "write key=value, as in kind=friend or user:=23"),
        (["insert", "n:=18446744073709551616"], 4, "integers are from -2^63 to 2^64 - 1"),
        (["insert", "kind=x", "--date", "2200-01-01T00:00:00Z"], 2, "24 h ahead"),
        (["--url", "nonsense", "ping"], 2, "write tcp://host:port or ipc://path"),
        (["--url", "tcp://127.0.0.1:1", "--timeout", "0.3", "ping"], 3, "is it running"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_clear_line_and_an_exit_code(stored, words, code, says):
    done = run(stored.url, *words)

    error = done.stderr
    assert done.exit_code == code, error
    assert says in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if says in line]) == 1


def test_help_and_version(stored):
    assert ask(stored.url, "--version").startswith(b"zstream 0.")
    for word in ("--help", "-h"):
        assert b"zstream items kind=friend" in ask(stored.url, "items", word)


def test_insert_by_words_prints_the_id(zstream_server):
    url = zstream_server.url
    assert zstream_ok(url, "insert", "kind=friend", "user:=23", "tags:=[1, null]") == b"1\n"
    assert zstream_ok(url, "insert", '{"kind": "raw", "b": {"$bytes": "/wA="}}') == b"2\n"
    assert zstream_ok(url, "insert", "kind=old", "--date", "2015-01-31", "--tz", "UTC") == b"3\n"

    with Client(url) as client:
        assert client.items() == [
            {"kind": "raw", "b": b"\xff\0"},
            {"kind": "friend", "user": 23, "tags": [1, None]},
            {"kind": "old"},
        ]
        assert client.items(kind="old")[0].date.isoformat() == "2015-01-31T00:00:00+00:00"
    assert lines(zstream_ok(url, "items", "kind=raw")) == [{"kind": "raw", "b": {"$bytes": "/wA="}}]


def test_insert_from_stdin_stores_each_line_as_it_comes(zstream_server):
    url = zstream_server.url
    with Client(url) as client, client.tail() as tail:
        process = start_zstream(url, "insert")
        assert process.stdin is not None
        for n in range(3):
            process.stdin.write(b'{"kind":"x","n":%d}\n' % n)
            process.stdin.flush()
            assert tail.get(20) == {"kind": "x", "n": n}
        process.stdin.write(b'oops\n{"kind":"x","n":3}')
        _, error = process.communicate(timeout=20)

        assert tail.get(20) == {"kind": "x", "n": 3}
    assert process.returncode == 4
    assert error.decode().splitlines() == [
        "zstream: line 4: not JSON (Expecting value at column 1)",
        "stored 4 events",
        "refused 1:",
        "  1  not JSON: line 4 (Expecting value at column 1)",
    ]


def test_a_date_for_all_of_stdin(zstream_server):
    url = zstream_server.url
    done = zstream(url, "insert", "--date", "1420070400.5", stdin=b'{"a":1}\n{"a":2}\n')

    assert (done.returncode, done.stderr) == (0, b"stored 2 events\n")
    assert [each["ts"] for each in lines(zstream_ok(url, "items", "--meta"))] == (
        [1_420_070_400_500_000] * 2
    )


def test_the_shell_has_a_connected_client(stored):
    done = zstream(stored.url, "shell", stdin=b"print(c.count(), c.items(user=3, end=1))\n1/0\n")

    assert done.returncode == 0
    assert b"2500 [{'kind': 'friend', 'user': 3, 'n': 2495}]" in done.stdout
    assert b"memory:, 2,500 events, keys kind, user, repo" in done.stderr
    assert b"ZeroDivisionError" in done.stderr


def test_the_shell_completes_commands_and_options(stored):
    for words, expected in (("zstream it", "items"), ("zstream items --form", "--format")):
        done = subprocess.run(
            ["zstream"], check=False, capture_output=True, timeout=60, env={
                **environment(), "_ZSTREAM_COMPLETE": "bash_complete", "COMP_WORDS": words,
                "COMP_CWORD": str(words.count(" ")),
            },
        )  # fmt: skip
        assert done.stdout.decode() == f"plain,{expected}\n"
