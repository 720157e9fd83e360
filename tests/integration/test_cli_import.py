"""Import and export, as a shell runs them."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
from hashlib import blake2b

import click
import msgpack
import pytest

from zstream import Client
from zstream.cli.app import cli
from zstream.cli.lines import producer_of
from zstream.cli.loader import Loader, StoreReplaced
from zstream.cli.loading import Parser
from zstream.cli.progress import Progress
from zstream.cli.reading import Source
from zstream.testing import server

from .support import (
    ask_well,
    environment,
    everything,
    start_zstream,
    wait_until,
    zstream,
    zstream_ok,
)

ENVELOPE = b'{"id":7,"ts":1420070400000001,"event":{"kind":"friend"}}\n'


def said(done):
    return done.stderr.decode().splitlines()


def test_nothing_good_is_lost_among_bad_lines(zstream_server, tmp_path):
    good = [b'{"n":%d}' % n for n in range(6)]
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(
        b"\xef\xbb\xbf" + good[0] + b"\r\n\r\n" + good[1] + b"\n{oops\n" + good[2] + b"\n[1]\n"
        + b'{"x":NaN}\n{"x":1e999}\n{"x":1,"x":2}\n{"x":18446744073709551616}\n{"x":"\\ud800"}\n'
        + b'{"x":"\xff"}\n' + good[3] + b'\n{"x":"' + b"y" * (1 << 20) + b'"}\n'
        + b'{"x":"' + b"y" * (9 << 20) + b'"}\n' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"\n"
        + b"[" * 100_000 + b"\n" + good[4] + b"\n" + b"9" * 5000 + b"\n" + good[5]
    )  # fmt: skip

    done = zstream(zstream_server.url, "import", file)

    assert [event["n"] for _, _, event in everything(zstream_server.url)] == list(range(6))
    assert done.returncode == 4
    assert [line.partition(" (event['a']")[0] for line in said(done)] == [
        "stored 6 events",
        "refused 13:",
        "   3  a number out of range: line 7, 8, 19 (NaN is not JSON)",
        "   1  not JSON: line 4 (Expecting property name enclosed in double quotes at column 2)",
        "   1  not an object: line 6 (a list; if the file is one JSON array, `jq -c '.[]'` makes"
        " lines of it)",
        "   1  a key stands twice: line 9 ('x')",
        "   1  integers are from -2^63 to 2^64 - 1: line 10 (event['x'] is 18446744073709551616)",
        "   1  text must be valid Unicode: line 11 (event['x'] has a lone surrogate at 0)",
        "   1  not UTF-8: line 12 (byte 0xff at column 7)",
        "   1  the event is over 1048576 bytes packed: line 14",
        "   1  too large: line 15 (a line has at most 8 MiB)",
        "   1  is nested deeper than 64 levels: line 16",
        "   1  not an event: line 17 (nested too deeply)",
    ]


def test_files_gzip_and_stdin_in_one_go(zstream_server, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"n":1}\n')
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(b'{"n":2}\n') + gzip.compress(b'{"n":3}'))
    (tmp_path / "not.gz").write_bytes(b'{"n":4}\nbad\n')
    (tmp_path / "empty").write_bytes(b"")
    os.chdir(tmp_path)

    done = zstream(
        zstream_server.url, "import", "a.jsonl", "packed.jsonl", "not.gz", "empty", "-",
        stdin=gzip.compress(b'{"n":5}\nbad'),
    )  # fmt: skip

    assert [event["n"] for _, _, event in everything(zstream_server.url)] == [1, 2, 3, 4, 5]
    assert done.returncode == 4
    assert said(done) == [
        "stored 5 events",
        "refused 2:",
        "  2  not JSON: line not.gz:2, stdin:2 (Expecting value at column 1)",
    ]


def test_a_file_that_is_cut_off_is_a_failure_and_the_next_is_read(zstream_server, tmp_path):
    packed = gzip.compress(b"".join(b'{"n":%d,"r":%d}\n' % (n, hash((n, 1))) for n in range(5000)))
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "next.jsonl").write_bytes(b'{"n":-1}\n')

    done = zstream(zstream_server.url, "import", tmp_path / "cut.gz", tmp_path / "next.jsonl")

    stored = [event["n"] for _, _, event in everything(zstream_server.url)]
    assert len(stored) > 1000
    assert stored == [*range(len(stored) - 1), -1]
    assert done.returncode == 1
    assert said(done)[-1] == (
        f"zstream: {tmp_path / 'cut.gz'}: the gzip data is cut off before its end"
        f" (after line {len(stored) - 1:,})"
    )


def test_dates_from_a_field(zstream_server, tmp_path):
    file = tmp_path / "quakes.jsonl"
    file.write_bytes(
        b'{"p":{"t":1423450290580}}\n{"p":{}}\n{"p":{"t":"1423450290581"}}\n{"p":{"t":"now"}}\n'
    )

    done = zstream(zstream_server.url, "import", file, "--date", "p.t", "--date-unit", "ms")

    assert [ts for _, ts, _ in everything(zstream_server.url)] == [
        1_423_450_290_580_000, 1_423_450_290_581_000,
    ]  # fmt: skip
    assert done.returncode == 4
    assert said(done) == [
        "stored 2 events",
        "refused 2:",
        "  1  no date: line 2 ('p.t' is missing or null)",
        "  1  a bad date: line 4 (p.t: a text is no date in ms)",
    ]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nofile"], 2, "'nofile' does not exist"),
        (["--url", "tcp://127.0.0.1:1", "--timeout", "0.3", "-"], 3, "daemon answers at"),
    ],
)
def test_what_cannot_be_begun(zstream_server, words, code, says):
    done = zstream(zstream_server.url, "import", *words, stdin=b'{"a":1}\n')

    assert done.returncode == code
    assert says in done.stderr.decode()
    assert everything(zstream_server.url) == []


def random_value(source, depth=0):
    kinds = "nbifsxlm" if depth < 3 else "nbifsx"
    match source.choice(kinds):
        case "n":
            return None
        case "b":
            return source.random() < 0.5
        case "i":
            return source.choice([0, -(2**63), 2**64 - 1, source.randrange(1 << 40)])
        case "f":
            return source.choice([0.0, -0.0, 1.0, 1e300, 5e-324, source.random()])
        case "s":
            return source.choice(["", "\0", "\u2028\x7f\x9b", "𝄞ü", "$bytes", '"\\', "\ufeff"])
        case "x":
            return source.randbytes(source.randrange(4))
        case "l":
            return [random_value(source, depth + 1) for _ in range(source.randrange(4))]
    names = ["$bytes", "$$bytes", "id", "ts", "event", "zstream", "keys", "run", "head", "kind"]
    return {
        name: random_value(source, depth + 1)
        for name in source.sample(names, source.randrange(3 if depth else 10))
    }


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_what_is_exported_is_restored_exactly(zstream_server, tmp_path, name):
    source = random.Random(3)
    events = [{"n": n, **{f"f{i}": random_value(source) for i in range(4)}} for n in range(1200)]
    events += [{"$bytes": "x"}, {"zstream": 1, "keys": [], "run": 1, "head": 1}]
    with Client(zstream_server.url) as client:
        for event in events:
            client.insert(event, date=source.choice([None, 0, 12.000001]))
        client.flush()
    file = tmp_path / name

    done = zstream(zstream_server.url, "export", "-o", file)
    with server() as other:
        again = zstream(other.url, "import", file)
        restored = everything(other.url)

    assert (done.returncode, again.returncode) == (0, 0), (done.stderr, again.stderr)
    assert msgpack.packb(restored) == msgpack.packb(everything(zstream_server.url))
    assert len(restored) == 1202
    assert (file.read_bytes()[:2] == b"\x1f\x8b") is name.endswith(".gz")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_an_export_says_what_it_is(zstream_server):
    url = zstream_server.url
    zstream_ok(url, "import", stdin=b'{"kind":"a"}\n{"kind":"b"}\n{"kind":"a"}\n')

    header, *lines = map(json.loads, zstream_ok(url, "export", "kind=a").splitlines())

    run = header.pop("run")
    assert run > 0
    assert header == {
        "zstream": 1, "keys": ["kind", "user", "repo"], "head": 3, "filter": {"kind": "a"},
    }  # fmt: skip
    assert [(line["id"], line["event"]) for line in lines] == [
        (1, {"kind": "a"}),
        (3, {"kind": "a"}),
    ]
    (_, line) = zstream_ok(url, "export", "--after", "2").splitlines()
    assert json.loads(line)["id"] == 3
    assert len(zstream_ok(url, "export", "--after", "3").splitlines()) == 1
    assert zstream(url, "export", "--after", "4").returncode == 1


def test_keys_that_the_new_store_lacks_are_told(zstream_server):
    export = zstream_ok(zstream_server.url, "export")
    with server(keys=("kind", "colour")) as other:
        done = zstream(other.url, "import", "-", stdin=export + ENVELOPE)

    assert done.returncode == 0
    assert said(done) == [
        "stdin: its store indexed user, repo; this one does not",
        "stored 1 event",
    ]


def test_envelopes_without_a_header_need_to_be_told(zstream_server):
    url = zstream_server.url
    zstream_ok(url, "import", "--meta", stdin=ENVELOPE)
    assert [(ts, event) for _, ts, event in everything(url)] == [
        (1_420_070_400_000_001, {"kind": "friend"})
    ]

    zstream_ok(url, "import", stdin=ENVELOPE)
    assert everything(url)[1][2] == json.loads(ENVELOPE)


def test_an_export_of_a_later_form_is_not_read(zstream_server, tmp_path):
    file = tmp_path / "later.jsonl"
    file.write_bytes(b'\n{"zstream":2,"keys":[],"run":1,"head":1}\n' + ENVELOPE)

    done = zstream(zstream_server.url, "import", file)

    assert done.returncode == 1
    assert said(done) == [
        "stored 0 events",
        f"zstream: {file}: an export of form 2; this reads form 1 (after line 2)",
    ]
    # Nor is any of it taken for stored by the version that can read it.
    producer = producer_of(blake2b(file.read_bytes(), digest_size=32).digest(), {"meta": False})
    assert ask_well(zstream_server.url, "watermark", producer=producer)["last"] == 0


def test_what_the_daemon_refuses_is_told_too(zstream_server):
    done = zstream(
        zstream_server.url, "insert", "--date", "2200-01-01T00:00:00Z", stdin=b'{"a":1}\n{"a":2}\n'
    )

    assert done.returncode == 4
    assert said(done) == [
        "stored 0 events",
        "refused 2:",
        "  2  by the daemon, the date is more than 24 h ahead of the daemon's clock"
        ': line 1, 2 (the event: {"a":1})',
    ]
    assert everything(zstream_server.url) == []


def test_a_failed_export_leaves_what_was_there(zstream_server, tmp_path):
    file = tmp_path / "backup.jsonl"
    file.write_text("precious")

    done = zstream(zstream_server.url, "export", "nokey=1", "-o", file)

    assert done.returncode == 2
    assert file.read_text() == "precious"
    assert [each.name for each in tmp_path.iterdir()] == ["backup.jsonl"]


def test_an_export_replaces_a_file_and_keeps_its_mode_and_links(zstream_server, tmp_path):
    file, link = tmp_path / "backup.jsonl", tmp_path / "newest"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)

    zstream_ok(zstream_server.url, "export", "-o", link)

    assert link.is_symlink()
    assert json.loads(file.read_text())["zstream"] == 1
    assert file.stat().st_mode & 0o777 == 0o640


def test_an_export_to_what_is_no_file(zstream_server):
    assert zstream(zstream_server.url, "export", "-o", "/dev/null").returncode == 0
    full = zstream(zstream_server.url, "export", "-o", "/dev/full")
    assert (full.returncode, said(full)) == (1, ["zstream: No space left on device"])
    assert os.path.exists("/dev/full")


def test_an_export_that_is_not_read_to_its_end_is_a_failure(zstream_server):
    with Client(zstream_server.url) as client:
        client.insert_many({"pad": "x" * 1000} for _ in range(2000))
        client.flush()
    with start_zstream(zstream_server.url, "export") as process:
        assert process.stdout.readline().startswith(b'{"zstream":1')
        process.stdout.close()

        assert process.stderr.read() == b"zstream: the export was not read to its end\n"
        assert process.wait(30) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_says_how_much_is_stored(zstream_server, number):
    url = zstream_server.url
    with start_zstream(url, "import", "-") as process, Client(url) as client:
        process.stdin.write(b'{"n":1}\n{"n":2}\n')
        process.stdin.flush()
        wait_until(lambda: client.count() == 2, "the two lines are stored")
        process.send_signal(number)

        # The confirmations may or may not have come when the signal does.
        assert re.fullmatch(
            "zstream: interrupted at line 2 of stdin(; waiting for [12] to be confirmed)?\n"
            "stored 2 events\n",
            process.stderr.read().decode(),
        )
        assert process.wait(30) == 130


def test_a_daemon_that_goes_away_ends_the_import(tmp_path):
    with server(store=f"sqlite:///{tmp_path}/s.db") as running:
        process = start_zstream(running.url, "import", "-", "--timeout", "0.5")
        process.stdin.write(b'{"n":1}\n')
        process.stdin.flush()
        with Client(running.url) as client:
            wait_until(lambda: client.count() == 1, "the line is stored")
        running.stop()
        process.stdin.write(b'{"n":2}\n')
        _, error = process.communicate(timeout=30)

        assert process.returncode == 3
        assert error.decode().splitlines() == [
            "stored 1 event",
            "not confirmed 1: they may be stored or not",
            f"zstream: the daemon at {running.url} confirmed nothing for 0.5 s",
        ]


def test_a_second_interrupt_does_not_wait(zstream_server):
    url = zstream_server.url
    with start_zstream(url, "insert", "--timeout", "300") as process, Client(url) as client:
        process.stdin.write(b'{"n":1}\n')
        process.stdin.flush()
        wait_until(lambda: client.count() == 1, "the line is stored")
        os.kill(zstream_server.pid, signal.SIGSTOP)
        try:
            process.stdin.write(b'{"n":2}\nbad\n')
            process.stdin.flush()
            assert process.stderr.readline().startswith(b"zstream: line 3: not JSON")
            process.send_signal(signal.SIGINT)
            waiting = process.stderr.readline().decode()
            # The confirmation of line 1 may have come or not when the daemon was stopped.
            assert re.fullmatch(
                "zstream: interrupted at line 3 of stdin; waiting for [12] to be confirmed\n",
                waiting,
            )
            process.send_signal(signal.SIGINT)

            assert process.wait(30) == 130
            assert re.search(
                "\nnot confirmed [12]: they may be stored or not\n$", process.stderr.read().decode()
            )
        finally:
            os.kill(zstream_server.pid, signal.SIGCONT)


def test_more_than_the_buffer_goes_through(zstream_server):
    line = b'{"kind":"x","pad":"%s"}\n' % (b"y" * 100_000)
    count = 250  # 25 MB, and 16 MiB may be under way

    done = zstream(zstream_server.url, "import", stdin=line * count)

    assert done.returncode == 0
    assert said(done) == [f"stored {count} events"]
    assert zstream_ok(zstream_server.url, "count", "kind=x") == b"%d\n" % count


def test_a_closed_stdin_is_told(zstream_server):
    done = subprocess.run(
        ["sh", "-c", "zstream insert <&-; zstream items user=@- <&-"], check=False,
        capture_output=True, env=environment(zstream_server.url), timeout=60,
    )  # fmt: skip
    assert b"zstream: stdin: it is closed" in done.stderr
    assert b"user=@-: -: stdin is closed" in done.stderr
    assert b"Traceback" not in done.stderr


# ---------------------------------------------------------------- once


def test_a_repeated_import_stores_nothing(zstream_server, tmp_path):
    url, file = zstream_server.url, tmp_path / "a.jsonl"
    copy, packed = tmp_path / "copy", tmp_path / "a.gz"
    for each in (file, copy):
        each.write_bytes(b'{"at":1,"n":1}\n{"at":1,"n":1}\n')
    packed.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    again = ["stored 0 events", "2 events were stored before, by another import of the same lines"]

    runs = [zstream(url, "import", each) for each in (file, file, copy, packed, packed)]

    assert [run.returncode for run in runs] == [0] * 5
    new = ["stored 2 events"]
    assert [said(run) for run in runs] == [new, again, again, new, again]
    assert [event for _, _, event in everything(url)] == [{"at": 1, "n": 1}] * 4


def test_other_options_and_other_bytes_are_another_import(zstream_server, tmp_path):
    url, file = zstream_server.url, tmp_path / "a.jsonl"
    file.write_bytes(b'{"at":"2015-01-01T00:00:00Z","n":1}\n')
    for options in ([], ["--date=at"], ["--date=at", "--tz=UTC"], ["--date=at", "--date-unit=iso"]):
        assert said(zstream(url, "import", file, *options)) == ["stored 1 event"]
    with file.open("ab") as lines:
        lines.write(b'{"n":2}\n')
    assert said(zstream(url, "import", file)) == ["stored 2 events"]
    assert len(everything(url)) == 6


@pytest.mark.parametrize("good", [0, 1_000])
def test_a_batch_without_a_good_line_is_settled_too(zstream_server, tmp_path, good):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"n":1}\n' * good + b"oops\n" * 2)

    done = zstream(zstream_server.url, "import", file)

    assert done.returncode == 4
    assert [line.partition(" in ")[0] for line in said(done)] == [
        f"stored {good:,} events",
        "refused 2:",
        f"  2  not JSON: line {good + 1}, {good + 2} (Expecting value at column 1)",
    ]


def test_stdin_is_stored_each_time(zstream_server):
    for _ in range(2):
        assert said(zstream(zstream_server.url, "import", "-", stdin=b"{}\n")) == ["stored 1 event"]
    assert len(everything(zstream_server.url)) == 2


COUNT = 40_000
#: Lines that are refused, by the client and by the daemon.
BAD, AHEAD = (17, 39_000), (40, 41, 39_998)


def write_many(file):
    """Lines with their numbers, some of them bad; gives the good numbers."""
    lines = [b'{"n":%d,"t":%d}' % (n, 1_420_070_400 + n) for n in range(1, COUNT + 1)]
    for n in BAD:
        lines[n - 1] = b"oops"
    for n in AHEAD:
        lines[n - 1] = b'{"n":%d,"t":4102444800}' % n
    file.write_bytes(b"\n".join(lines))
    return [n for n in range(1, COUNT + 1) if n not in BAD and n not in AHEAD]


def counted(lines):
    """The numbers of a summary: stored now, and stored before."""
    found = re.match("stored ([0-9,]+) events?", lines[0])
    before = re.match("([0-9,]+) events? (was|were) stored before", lines[1])
    return [int(each[1].replace(",", "")) if each else 0 for each in (found, before)]


def test_killed_importers_and_a_killed_daemon_cost_no_line_and_double_none(tmp_path):
    file = tmp_path / "many.jsonl"
    good = write_many(file)
    with server(store=f"sqlite:///{tmp_path}/s.db") as running:
        url = running.url
        command = ("import", file, "--date", "t", "--timeout", "60")

        def head():
            return ask_well(url, "info")["head"]

        with start_zstream(url, *command) as process:
            wait_until(head, "the first lines are stored")
            process.kill()
        part = head()
        assert part < len(good), "it was killed too late"

        with start_zstream(url, *command) as process:
            wait_until(lambda: head() > part, "it goes on")
            running.restart(kill=True)
            second = process.stderr.read().decode().splitlines()
            assert process.wait(60) == 4
        third = said(zstream(url, *command))

        assert [event["n"] for _, _, event in everything(url)] == good
    assert sum(counted(second)) == len(good)
    assert counted(second)[1] >= 990
    assert counted(third) == [0, len(good)]
    told = [
        "refused 5:",
        "  3  by the daemon, the date is more than 24 h ahead of the daemon's clock: line 40, 41,"
        ' 39998 (the event: {"n":40,"t":4102444800})',
        "  2  not JSON: line 17, 39000 (Expecting value at column 1)",
    ]
    assert (second[2:], third[2:]) == (told, told)


def test_two_imports_of_one_file_at_once(zstream_server, tmp_path):
    file = tmp_path / "many.jsonl"
    good = write_many(file)
    both = [start_zstream(zstream_server.url, "import", file, "--date", "t") for _ in range(2)]
    for process in both:
        lines = process.communicate(timeout=60)[1].decode().splitlines()
        assert process.returncode == 4
        assert sum(counted(lines)) == len(good)
        assert lines[-3:] == ["refused 5:", *lines[-2:]]
    assert [event["n"] for _, _, event in everything(zstream_server.url)] == good


def test_a_store_that_is_replaced_meanwhile_ends_the_import(zstream_server):
    class Lines:
        """The second line comes when the first is confirmed, and the daemon another one."""

        blocks = iter((b"{}\n", b"{}\n", b""))
        count = 0

        def read(self, size):
            self.count += 1
            if self.count == 2:
                wait_until(lambda: loader._lane.account.confirmed_n, "it is confirmed")
                zstream_server.restart()
            return next(self.blocks)

        def fileno(self):
            raise OSError

    with (
        click.Context(cli, obj={"url": zstream_server.url}),
        Progress(show=False) as progress,
    ):
        loader = Loader(30, progress)
        with loader.client, pytest.raises(StoreReplaced, match="Run it again"):
            loader.load(Source(Lines(), "x"), Parser(), {})
        assert loader.summary() == ["stored 1 event", "not confirmed 1: they may be stored or not"]
    assert everything(zstream_server.url) == []
