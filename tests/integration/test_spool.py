"""A client with a spool: its inserts outlive the process, the daemon's absence, and a full disk."""

import logging
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from zstream import BufferFull, Client, Event, FlushError, Refused
from zstream.testing import Server, server

from .support import PATIENCE_S, environment, everything, wait_until

#: Nobody listens there.
NOWHERE = "tcp://127.0.0.1:1"
#: Events of other tests, by the daemon's URL.
_known: dict[str, int] = {}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    with server(store=f"sqlite:///{tmp_path}/events.db", keys=["kind"]) as running:
        yield running


@pytest.fixture(scope="module")
def lasting() -> Iterator[Server]:
    with server(keys=["kind"]) as lasting:
        yield lasting


@pytest.fixture
def shared(lasting: Server) -> Server:
    """A daemon that other tests use too; ``stored`` tells what is new in this one."""
    _known[lasting.url] = len(everything(lasting.url))
    return lasting


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def run(url: str, spool: Path, code: str, *, ends: int = 0, told: str = "") -> str:
    """Run a script with a client ``c``; gives what it wrote to stderr."""
    script = f"""
import logging, os, signal, sys, warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
logging.basicConfig(level=logging.INFO)
from zstream import Client
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def wait_for(happened):
    while not happened():
        pass
def make(**options):
    return Client({url!r}, spool={str(spool)!r}, timeout=30, **options)
c = make()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script + textwrap.dedent(code)],
        env=environment(), timeout=PATIENCE_S, check=False, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == ends, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def stored(running: Server) -> list[int]:
    return [event["n"] for _, _, event in everything(running.url)[_known.get(running.url, 0) :]]


def lanes(spool: Path) -> list[str]:
    return sorted(each.name for each in spool.glob("lane-*.db"))


def adopt_all(running: Server, spool: Path, **options: object) -> None:
    """A new process: it sends what others left."""
    with Client(running.url, spool=spool, timeout=PATIENCE_S, **options) as client:  # type: ignore[arg-type]
        client.ping()
        wait_until(lambda: not lanes(spool), "all was adopted and sent")


# ---------------------------------------------------------------- one process


def test_inserts_go_through_it_and_leave_nothing(shared: Server, spool: Path) -> None:
    with Client(shared.url, spool=spool, timeout=PATIENCE_S) as client:
        for n in range(3_000):
            client.insert({"n": n})
        client.flush(PATIENCE_S)
        assert stored(shared) == list(range(3_000))
        assert len(lanes(spool)) == 1
        wait_until(lambda: client.stats()["spool"]["oldest"] is None, "what is stored is deleted")
        stats = client.stats()
        assert stats["confirmed"] == 3_000
        assert stats["queued_bytes"] == 0
        assert stats["spool"] == {
            "events": 0, "bytes": 0, "adopted": 0, "oldest": None, "problem": None,
        }  # fmt: skip
        assert client.insert({"n": 3_000}, wait=True) > 3_000
    assert os.listdir(spool) == []


def test_memory_is_free_once_it_is_written(shared: Server, spool: Path) -> None:
    """With nobody there, the buffer bounds what is not written yet, and no more than that."""
    with Client(NOWHERE, spool=spool, timeout=0.1, buffer_bytes=100_000, on_full="block") as client:
        for n in range(5_000):
            client.insert({"n": n, "text": "x" * 100})
        wait_until(lambda: client.stats()["spool"]["events"] == 5_000, "all is written")
        wait_until(lambda: client.stats()["queued_bytes"] == 0, "and gone from memory")
        assert client.stats()["spool"]["bytes"] > 500_000
        assert client.stats()["spool"]["oldest"] > 0
        with pytest.raises(FlushError) as caught:
            client.flush(0.01)
        assert caught.value.pending == 5_000


def test_a_daemon_that_comes_late_gets_all_in_order(running: Server, spool: Path) -> None:
    """More than the link holds in memory is read back from the file."""
    running.stop()
    with Client(running.url, spool=spool, timeout=PATIENCE_S) as client:
        for n in range(300):
            client.insert({"n": n, "text": "x" * 50_000})
        wait_until(lambda: client.stats()["spool"]["events"] == 300, "all is written")
        running.start()
        client.flush(PATIENCE_S)
        assert stored(running) == list(range(300))


def test_refused_events_are_told(shared: Server, spool: Path) -> None:
    told: list[tuple[list[Event], Refused]] = []

    def hear(events: list[Event], error: Refused) -> None:
        told.append((events, error))

    with Client(shared.url, spool=spool, timeout=PATIENCE_S, on_refused=hear) as client:
        client.insert({"n": 1})
        client.insert({"n": 2}, date=4_000_000_000)
        client.insert({"n": 3})
        client.flush(PATIENCE_S)
        wait_until(lambda: told, "it was told")
    assert [[event["n"] for event in events] for events, _ in told] == [[2]]
    assert stored(shared) == [1, 3]


def test_a_store_that_was_put_back_makes_it_count_anew(running: Server, spool: Path) -> None:
    path = Path(running.store.removeprefix("sqlite:///"))
    with Client(running.url, spool=spool, timeout=PATIENCE_S) as client:
        client.insert({"n": 0})
        client.flush(PATIENCE_S)
        running.stop()
        copies = {each: each.read_bytes() for each in path.parent.glob("events.db*")}
        running.start()
        client.insert({"n": 1})
        client.flush(PATIENCE_S)
        running.stop()
        client.insert({"n": 2})
        for each in path.parent.glob("events.db*"):
            each.unlink()
        for each, content in copies.items():
            each.write_bytes(content)
        running.start()
        client.insert({"n": 3})
        client.flush(PATIENCE_S)
        assert stored(running) == [0, 2, 3]
        assert client.stats()["lost"] == 0
    assert os.listdir(spool) == []


# ---------------------------------------------------------------- processes that end


def test_a_killed_process_and_no_daemon(running: Server, spool: Path) -> None:
    running.stop()
    for start in (0, 500):
        run(running.url, spool, f"""
            for n in range({start}, {start} + 500):
                c.insert({{"n": n}})
            wait_for(lambda: c.stats()["spool"]["events"] >= 500)
            die()
        """, ends=-signal.SIGKILL)  # fmt: skip
    assert lanes(spool)
    running.start()
    adopt_all(running, spool)
    assert sorted(stored(running)) == list(range(1_000))
    assert os.listdir(spool) == []


@pytest.mark.parametrize("point", ["sent", "confirmed", "deleted"])
def test_killed_between_the_steps(shared: Server, spool: Path, point: str) -> None:
    """What the daemon has is not stored again: not the sent, nor the confirmed, nor the rest."""
    happened = {
        "sent": "c.stats()['sent'] == 10",
        "confirmed": "c.stats()['confirmed'] == 10",
        "deleted": "c.stats()['confirmed'] == 10 and c.stats()['spool']['events'] == 0",
    }[point]
    never = "import zstream.spool.source as s; s.FileSource.sweep = lambda self: None"
    run(shared.url, spool, f"""
        {never if point == "confirmed" else ""}
        for n in range(10):
            c.insert({{"n": n}})
        wait_for(lambda: {happened})
        die()
    """, ends=-signal.SIGKILL)  # fmt: skip
    adopt_all(shared, spool)
    assert stored(shared) == list(range(10))


def test_an_end_without_a_daemon_loses_nothing(running: Server, spool: Path) -> None:
    running.stop()
    said = run(running.url, spool, """
        for n in range(100):
            c.insert({"n": n})
    """, told="100 events were not stored")  # fmt: skip
    assert "INFO:zstream:100 events" in said
    assert "wait in" in said
    running.start()
    adopt_all(running, spool)
    assert stored(running) == list(range(100))


def test_an_interpreter_that_starts_no_more_threads(shared: Server, spool: Path) -> None:
    run(shared.url, spool, """
        import atexit, threading
        def refuse(thread):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        def work():
            threading.Thread.start = refuse
            make().insert({"n": 1})
        atexit.register(work)
    """)  # fmt: skip
    assert stored(shared) == [1]
    assert lanes(spool) == []


def test_after_a_power_cut_the_daemon_may_have_more(shared: Server, spool: Path) -> None:
    """The file lost its unsynced end, and the daemon has that: it is not stored twice, and the
    next events are not taken for it."""
    with Client(shared.url, spool=spool, spool_sync=60, timeout=PATIENCE_S) as client:
        client.insert({"n": 0})
        wait_until(lambda: client.stats()["spool"]["events"] == 1, "it is written")
        (file,) = spool.glob("lane-*.db")
        copies = {each.name: each.read_bytes() for each in spool.iterdir()}
        for n in range(1, 20):
            client.insert({"n": n})
            client.flush(PATIENCE_S)
    assert os.listdir(spool) == []
    for name, content in copies.items():
        (spool / name).write_bytes(content)
    assert file.exists()
    with Client(shared.url, spool=spool, timeout=PATIENCE_S) as client:
        client.insert({"n": 20})
        client.flush(PATIENCE_S)
        wait_until(lambda: not client.stats()["spool"]["adopted"], "the orphan is dealt with")
        wait_until(lambda: not file.exists(), "and gone")
    assert stored(shared) == list(range(21))


def test_eight_workers_killed_at_random(running: Server, spool: Path) -> None:
    """Each commits before it counts; what was counted is stored, and nothing twice."""
    code = """
        import random
        for worker in range(8):
            pid = os.fork()
            if not pid:
                rest = random.Random(worker).randrange(5, 200)
                for n in range(100_000):
                    c.insert({"n": worker * 1_000_000 + n})
                    if n == rest:
                        wait_for(lambda: c._spool.unwritten == 0)
                        os.write(1, b"%d %d\\n" % (worker, n))
                        die()
        for worker in range(8):
            os.wait()
        os._exit(0)
    """
    script = f"""
import os, signal, warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
from zstream import Client
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def wait_for(happened):
    while not happened():
        pass
c = Client({running.url!r}, spool={str(spool)!r})
c.ping()
"""
    done = subprocess.run(
        [sys.executable, "-c", script + textwrap.dedent(code)], env=environment(),
        timeout=PATIENCE_S, check=True, capture_output=True, text=True,
    )  # fmt: skip
    counted = dict(map(int, line.split()) for line in done.stdout.splitlines())
    assert sorted(counted) == list(range(8))
    running.restart(kill=True)
    adopt_all(running, spool)
    found = stored(running)
    assert len(found) == len(set(found)), "none twice"
    assert set(found) == {
        worker * 1_000_000 + n for worker, last in counted.items() for n in range(last + 1)
    }


# ---------------------------------------------------------------- forks


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)"])
def test_a_forked_child_has_a_lane_of_its_own(shared: Server, spool: Path, end: str) -> None:
    run(shared.url, spool, f"""
        for n in range(100):
            c.insert({{"n": n}})
        pid = os.fork()
        if not pid:
            assert c.stats()["spool"]["events"] == 0
            for n in range(100, 200):
                c.insert({{"n": n}})
            c.flush(30)
            {end}
        else:
            assert os.waitpid(pid, 0)[1] == 0
            for n in range(200, 300):
                c.insert({{"n": n}})
            c.flush(30)
    """)  # fmt: skip
    assert sorted(stored(shared)) == list(range(300))
    # A child that ended by os._exit may leave a lane that it had not tidied yet.
    adopt_all(shared, spool)
    assert sorted(stored(shared)) == list(range(300))


def test_forks_in_the_middle_of_inserts(shared: Server, spool: Path) -> None:
    run(shared.url, spool, """
        import threading
        over, count = threading.Event(), 0
        def work():
            global count
            while not over.is_set():
                c.insert({"n": -1})
                count += 1
        thread = threading.Thread(target=work)
        thread.start()
        for n in range(12):
            pid = os.fork()
            if not pid:
                signal.alarm(25)
                c.insert({"n": n})
                c.flush(25)
                sys.exit()
            assert os.waitpid(pid, 0)[1] == 0
        over.set()
        thread.join()
        c.insert({"n": count + 100})
        c.flush(30)
    """)  # fmt: skip
    found = stored(shared)
    count = found.count(-1)
    assert sorted(each for each in found if each >= 0) == [*range(12), count + 100]


# ---------------------------------------------------------------- signals, finalizers, logs


def test_signal_handlers_finalizers_and_log_handlers_may_insert(
    shared: Server, spool: Path
) -> None:
    run(shared.url, spool, """
        import gc
        class Handler(logging.Handler):
            def emit(self, record):
                c.insert({"n": -3})
        logging.getLogger("zstream").addHandler(Handler())
        handled = made = 0
        def handle(number, frame):
            global handled
            handled += 1
            c.insert({"n": -1})
        class Thing:
            def __init__(self):
                global made
                made += 1
                self.me = self
            def __del__(self):
                c.insert({"n": -2})
        gc.set_threshold(50, 2, 2)
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        n = 0
        while handled < 100:
            n += 1
            Thing()
            c.insert({"n": n})
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        c.flush(30)
        assert c.stats()["confirmed"] >= n + handled + made
        assert c.stats()["dropped"] == 0
    """)  # fmt: skip
    assert len(stored(shared)) >= 100


# ---------------------------------------------------------------- full


def test_a_full_spool_takes_no_more_and_goes_on(
    running: Server, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running.stop()
    with Client(
        running.url, spool=spool, spool_bytes=300_000, buffer_bytes=100_000, on_full="raise",
        timeout=PATIENCE_S,
    ) as client:  # fmt: skip
        taken = 0
        while True:
            try:
                client.insert({"n": taken, "text": "x" * 1_000})
                taken += 1
            except BufferFull:
                if client.stats()["spool"]["problem"]:
                    break
        assert "spool_bytes" in client.stats()["spool"]["problem"]
        assert 250_000 < client.stats()["spool"]["bytes"] < 500_000
        assert sum("spool_bytes" in each.message for each in caplog.records) == 1
        running.start()
        client.flush(PATIENCE_S)
        assert stored(running) == list(range(taken))
        client.insert({"n": taken})
        client.flush(PATIENCE_S)
        wait_until(lambda: client.stats()["spool"]["problem"] is None, "it goes on")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit(2) is Linux's")
def test_a_full_disk(running: Server, spool: Path) -> None:
    """Nothing that was accepted is lost; `on_full` rules; it goes on by itself."""
    running.stop()
    said = run(running.url, spool, f"""
        import resource
        from zstream import BufferFull
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        c = make(on_full="raise", buffer_bytes=400_000)
        n = 0
        while True:
            try:
                c.insert({{"n": n, "text": "x" * 2_000}})
                n += 1
            except BufferFull:
                if c.stats()["spool"]["problem"]:
                    break
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        wait_for(lambda: c.stats()["spool"]["problem"] is None and not c._spool.unwritten)
        c.insert({{"n": n}})
        wait_for(lambda: c.stats()["spool"]["events"] == n + 1)
        with open({str(spool.parent / "count")!r}, "w") as file:
            file.write(str(n + 1))
        die()
    """, ends=-signal.SIGKILL)  # fmt: skip
    assert said.count("the spool cannot be used") == 1
    assert "takes events again" in said
    running.start()
    adopt_all(running, spool)
    assert stored(running) == list(range(int((spool.parent / "count").read_text())))


def test_a_folder_that_cannot_be_used_is_told_and_nothing_hangs(
    shared: Server, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(shared.url, spool=spool, timeout=0.3)
    shutil.rmtree(spool)
    spool.write_text("no folder")
    client.insert({"n": 1})
    wait_until(lambda: client.stats()["spool"]["problem"], "it says so")
    spool.unlink()
    spool.mkdir()
    client.flush(PATIENCE_S)
    assert stored(shared) == [1]
    client.close()


# ---------------------------------------------------------------- several


def test_lanes_of_another_daemon_are_left_alone(
    shared: Server, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(NOWHERE, spool, 'c.insert({"n": 1})')
    before = lanes(spool)
    with Client(shared.url, spool=spool, timeout=PATIENCE_S) as client:
        client.insert({"n": 2})
        client.flush(PATIENCE_S)
        wait_until(lambda: NOWHERE in caplog.text, "it is told")
    assert stored(shared) == [2]
    assert lanes(spool) == before
    with closing(sqlite3.connect(spool / before[0])) as db, db:
        db.execute("UPDATE meta SET url = ?", (shared.url,))
    adopt_all(shared, spool)
    assert stored(shared) == [2, 1]


def test_two_clients_of_one_process(shared: Server, spool: Path) -> None:
    with Client(shared.url, spool=spool, timeout=PATIENCE_S) as one:
        with Client(shared.url, spool=spool, timeout=PATIENCE_S) as other:
            for n in range(0, 200, 2):
                one.insert({"n": n})
                other.insert({"n": n + 1})
            one.flush(PATIENCE_S)
            other.flush(PATIENCE_S)
            assert len(lanes(spool)) == 2
        with suppress(FileNotFoundError):
            one.insert({"n": 200})
        one.flush(PATIENCE_S)
    assert sorted(stored(shared)) == list(range(201))
    assert os.listdir(spool) == []


def test_a_client_that_is_let_go_of_sends_what_it_has(shared: Server, spool: Path) -> None:
    for n in range(5):
        Client(shared.url, spool=spool).insert({"n": n})
    wait_until(lambda: sorted(stored(shared)) == list(range(5)), "all is stored")
    wait_until(lambda: not lanes(spool), "and no lane is left")


def test_what_adopted_events_were_refused_is_told(
    running: Server, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running.stop()
    run(running.url, spool, """
        c.insert({"n": 1}, date=4_000_000_000)
        c.insert({"n": 2})
        wait_for(lambda: c.stats()["spool"]["events"] == 2)
        die()
    """, ends=-signal.SIGKILL)  # fmt: skip
    running.start()
    told: list[object] = []
    with caplog.at_level(logging.INFO, "zstream"):
        adopt_all(running, spool, on_refused=lambda events, error: told.extend(events))
    assert [event["n"] for event in told] == [1]  # type: ignore[index]
    assert stored(running) == [2]
    assert "2 events that a process left" in caplog.text
