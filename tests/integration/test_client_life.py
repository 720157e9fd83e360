"""The client and the process: its end, its forks, its signals, its garbage collector."""

import gc
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator

import pytest

from zstream import Client, Closed
from zstream.testing import Server, server

from .support import PATIENCE_S, environment, run_silent, wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    with Client(running.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A slice of the store that the test has for itself."""
    return request.node.name


def numbers(client: Client, kind: str) -> list[int]:
    return sorted(event["n"] for event in client.items(kind=kind, end=10_000))


# ---------------------------------------------------------------- the end


def test_the_end_of_the_process_sends_what_is_left(
    running: Server, client: Client, kind: str
) -> None:
    run_silent(running.url, kind, """
        from zstream import Client
        clients = [Client() for _ in range(3)]
        for n in range(3000):
            clients[n % 3].insert({"kind": kind, "n": n})
    """)  # fmt: skip
    assert numbers(client, kind) == list(range(3000))


def test_an_exit_handler_may_insert(running: Server, client: Client, kind: str) -> None:
    run_silent(running.url, kind, """
        import atexit
        from zstream import Client
        first = Client()
        atexit.register(lambda: first.insert({"kind": kind, "n": 1}))
        atexit.register(lambda: Client().insert({"kind": kind, "n": 2}, wait=True))
        second = Client()
        second.insert({"kind": kind, "n": 3})
        atexit.register(lambda: second.insert({"kind": kind, "n": 4}))
    """)  # fmt: skip
    assert numbers(client, kind) == [1, 2, 3, 4]


def test_an_exit_handler_of_an_interpreter_that_starts_no_more_threads(
    running: Server, client: Client, kind: str
) -> None:
    """Python 3.12 and newer refuse; so does this one, by a Thread.start that raises as theirs."""
    run_silent(running.url, kind, """
        import atexit, threading
        from zstream import Client, Closed

        def refuse(thread):
            raise RuntimeError("can't create new thread at interpreter shutdown")

        def work():
            threading.Thread.start = refuse
            late = Client()
            late.insert({"kind": kind, "n": 1})
            first.insert({"kind": kind, "n": 2}, wait=True)
            try:
                late.count()
            except Closed as error:
                assert "no more threads" in str(error)
            else:
                raise AssertionError

        first = Client()
        first.ping()
        atexit.register(work)
    """)  # fmt: skip
    assert numbers(client, kind) == [1, 2]


def test_an_insert_after_the_end_is_an_error(running: Server, client: Client, kind: str) -> None:
    run_silent(running.url, kind, """
        import atexit

        def work():
            for each in (used, fresh):
                try:
                    each.insert({"kind": kind, "n": 2})
                except Closed:
                    continue
                raise AssertionError(each)

        atexit.register(work)
        from zstream import Client, Closed
        used, fresh = Client(), Client()
        used.insert({"kind": kind, "n": 1})
    """)  # fmt: skip
    assert numbers(client, kind) == [1]


@pytest.mark.parametrize(
    "end", ["raise SystemExit(0)", "sys.exit()", "threading.Thread(target=lambda: None).start()"]
)
def test_other_ends(running: Server, client: Client, kind: str, end: str) -> None:
    run_silent(running.url, kind, f"""
        import sys, threading
        from zstream import Client
        c = Client()
        tail = c.tail(kind=kind)
        c.insert({{"kind": kind, "n": 1}})
        {end}
    """)  # fmt: skip
    assert numbers(client, kind) == [1]


def test_a_client_that_is_let_go_of_sends_what_it_has(
    running: Server, client: Client, kind: str
) -> None:
    for n in range(20):
        Client(running.url).insert({"kind": kind, "n": n})
    gc.collect()
    wait_until(lambda: numbers(client, kind) == list(range(20)), "all is stored")

    def own_threads() -> int:
        return sum(thread.name == "zstream-link" for thread in threading.enumerate())

    wait_until(lambda: own_threads() <= 1, "their threads have ended")


def test_use_and_close_at_the_same_time(running: Server, kind: str) -> None:
    """Whatever comes first: what was taken is stored, what was not is told."""
    taken: list[int] = []

    def use(own: Client, start: threading.Barrier, call: Callable[[Client], None]) -> None:
        start.wait(PATIENCE_S)
        try:
            call(own)
        except Closed:
            return
        taken.append(1)

    def insert(own: Client) -> None:
        own.insert({"kind": kind, "n": 1})

    def wait(own: Client) -> None:
        own.insert({"kind": kind, "n": 1}, wait=True)

    for _ in range(40):
        own, start = Client(running.url), threading.Barrier(4)
        calls = (insert, wait, insert)
        users = [threading.Thread(target=use, args=(own, start, call)) for call in calls]
        for user in users:
            user.start()
        start.wait(PATIENCE_S)
        own.close()
        for user in users:
            user.join(PATIENCE_S)
            assert not user.is_alive()
    with Client(running.url) as client:
        # A waiting insert that was cut off may have been stored.
        assert len(taken) <= client.count(kind=kind) <= len(taken) + 40


# ---------------------------------------------------------------- forks


def test_a_forked_child_has_its_own(running: Server, client: Client, kind: str) -> None:
    run_silent(running.url, kind, """
        import os, warnings
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        from zstream import Client, Closed
        c = Client(timeout=30)
        tail = c.tail(kind=kind)
        for n in range(1000):
            c.insert({"kind": kind, "n": n})
        pid = os.fork()
        if not pid:
            assert c.stats()["queued"] == c.stats()["sent"] == 0
            c.flush(0)
            try:
                tail.get(1)
            except Closed as error:
                assert "belongs to the process" in str(error), error
                tail.close()
            else:
                raise AssertionError("the tail is the parent's")
            for n in range(1000, 2000):
                c.insert({"kind": kind, "n": n})
            c.flush(30)
            assert c.count(kind=kind, user=[]) == 0
            grandchild = os.fork()
            if not grandchild:
                c.insert({"kind": kind, "n": 5000})
                raise SystemExit
            assert os.waitpid(grandchild, 0)[1] == 0
            raise SystemExit
        for n in range(2000, 3000):
            c.insert({"kind": kind, "n": n})
        assert os.waitpid(pid, 0)[1] == 0
        c.flush(30)
        seen = sorted(tail.get(30)["n"] for _ in range(3001))
        assert seen == [*range(3000), 5000], len(seen)
    """)  # fmt: skip
    assert numbers(client, kind) == [*range(3000), 5000]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children(
    running: Server, client: Client, kind: str, method: str, tmp_path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import multiprocessing, warnings
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            from zstream import Client
            c = Client()

            def work(n):
                c.insert({{"kind": {kind!r}, "n": n}})

            if __name__ == "__main__":
                work(0)
                context = multiprocessing.get_context({method!r})
                children = [context.Process(target=work, args=(n,)) for n in range(1, 4)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                    assert child.exitcode == 0
        """)
    )
    done = subprocess.run(
        [sys.executable, script], env=environment(running.url), timeout=PATIENCE_S, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert numbers(client, kind) == [0, 1, 2, 3]


def test_forks_in_the_middle_of_everything(running: Server, client: Client, kind: str) -> None:
    """Other threads hold every lock at some fork; no child hangs."""
    run_silent(running.url, kind, """
        import os, threading, warnings
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        from zstream import Client
        c = Client(timeout=30)
        over = threading.Event()

        def work(which):
            n = 0
            while not over.is_set():
                c.insert({"kind": kind, "n": -1})
                n += 1
                if n % 100 == which:
                    c.flush(30)
                    c.ping()

        threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        for n in range(20):
            pid = os.fork()
            if not pid:
                c.insert({"kind": kind, "n": n})
                c.flush(30)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        over.set()
        for thread in threads:
            thread.join()
        c.flush(30)
        assert c.stats()["lost"] == c.stats()["dropped"] == 0
        c.insert({"kind": kind, "n": c.stats()["confirmed"] + 1})
    """)  # fmt: skip
    found = [event["n"] for event in client.items(kind=kind, end=1)]
    total = client.count(kind=kind)
    assert found == [total - 20]


# ---------------------------------------------------------------- signals


def test_signal_handlers_may_insert(running: Server, client: Client, kind: str) -> None:
    run_silent(running.url, kind, """
        import signal
        from zstream import Client
        c = Client(timeout=30)
        handled = 0

        def handle(number, frame):
            global handled
            handled += 1
            c.insert({"kind": kind, "n": -handled})

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        n = 0
        while handled < 200:
            n += 1
            c.insert({"kind": kind, "n": n})
            if n % 1000 == 0:
                c.flush(30)
        signal.setitimer(signal.ITIMER_REAL, 0)
        c.flush(30)
        stats = c.stats()
        assert stats["confirmed"] == n + handled == c.count(kind=kind), (stats, n, handled)
        assert stats["queued_bytes"] == 0
    """)  # fmt: skip


def test_ctrl_c_ends_a_wait_and_nothing_else(running: Server, client: Client, kind: str) -> None:
    run_silent(running.url, kind, """
        import signal
        from zstream import Client
        c = Client(timeout=30)
        tail = c.tail(kind=kind)
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            try:
                tail.get(30)
            except KeyboardInterrupt:
                pass
            c.insert({"kind": kind, "n": 1})
            c.flush(30)
            assert tail.get(30) == {"kind": kind, "n": 1}
    """)  # fmt: skip


def test_finalizers_may_insert(running: Server, client: Client, kind: str) -> None:
    run_silent(running.url, kind, """
        import gc
        from zstream import Client
        c = Client(timeout=30)
        made = 0

        class Thing:
            def __init__(self):
                global made
                made += 1
                self.me = self

            def __del__(self):
                c.insert({"kind": kind, "n": -1})

        gc.set_threshold(50, 2, 2)
        for n in range(3000):
            Thing()
            c.insert({"kind": kind, "n": n, "list": [[n]]})
        gc.collect()
        c.flush(30)
        assert c.stats()["confirmed"] == made + 3000, c.stats()
    """)  # fmt: skip
