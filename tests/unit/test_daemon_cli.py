"""The command zstreamd, as far as it can be tried without a process of its own."""

import gc
import os
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
import msgpack
import pytest
import zmq
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from zstream import __version__, errors
from zstream.backends import open_backend
from zstream.backends.base import Batch
from zstreamd.cli import Exit, main
from zstreamd.cli.exits import exit_code
from zstreamd.cli.progress import Progress, draw
from zstreamd.cli.serve import STOP_SIGNALS, stop_on_signals
from zstreamd.server import Server
from zstreamd.settings import Settings, all_settings, flag


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ZSTREAMD_"):
            monkeypatch.delenv(name)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["run", "--help"]])
def test_help_shows_every_setting(args: list[str]) -> None:
    result = CliRunner().invoke(main, args, prog_name="zstreamd")
    assert result.exit_code == 0
    flat = " ".join(result.output.split())
    for each in all_settings():
        assert f" {flag(each.name)} " in flat
        assert each.metadata["help"].split("-")[0] in flat
    assert "--config PATH" in flat


def test_help_of_the_group_shows_the_rest() -> None:
    output = CliRunner().invoke(main, ["--help"], prog_name="zstreamd").output
    assert output.startswith("Usage: zstreamd [run] [OPTIONS]\n")
    assert "--version" in output
    commands = re.findall(r"^  (\w+) ", output.partition("\nCommands:\n")[2], re.MULTILINE)
    assert commands == ["backup", "check", "reindex", "restore", "run"]


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"zstreamd {__version__}\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["memory:"], "'memory:' is no command"),
        (["start"], "zstreamd --store"),
        (["--stor", "memory:"], "--store"),
        (["run", "memory:"], "memory:"),
        (["--query-threads"], "requires an argument"),
        (["--no-store"], "--no-store"),
    ],
)
def test_unknown_words_are_told(args: list[str], said: str) -> None:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == Exit.CONFIG
    assert said in result.output


@pytest.mark.parametrize(
    ("args", "incomplete", "found"),
    [
        ([], "--que", {"--query-threads", "--queue-bytes"}),
        ([], "r", {"reindex", "restore", "run"}),
        (["--store", "memory:"], "--log-", {"--log-format", "--log-level"}),
        (["run"], "--ins", {"--insert", "--insecure"}),
    ],
)
def test_the_shell_completes(args: list[str], incomplete: str, found: set[str]) -> None:
    complete = ShellComplete(main, {}, "zstreamd", "_ZSTREAMD_COMPLETE")
    assert {each.value for each in complete.get_completions(args, incomplete)} == found


# ---------------------------------------------------------------- exit codes


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_error_of_settings_and_store_has_anexit_code() -> None:
    codes = {
        kind: exit_code(kind("x"))
        for base in (errors.ConfigError, errors.BackendError)
        for kind in (base, *subclasses(base))
    }
    assert codes == {
        errors.ConfigError: Exit.CONFIG,
        errors.EndpointTaken: Exit.PORT,
        errors.BackendError: Exit.STORE,
        errors.BackendUnavailable: Exit.STORE,
        errors.BackendConflict: Exit.STORE,
        errors.BackendCorrupt: Exit.STORE,
        errors.StoreLocked: Exit.LOCKED,
        errors.StoreMismatch: Exit.MISMATCH,
        errors.StoreRewound: Exit.STORE,
    }
    assert exit_code(RuntimeError("a defect")) is Exit.FORCED


def test_the_docs_and_the_unit_know_the_exit_codes(repo_root: Path) -> None:
    docs = (repo_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d) \| ", docs, re.MULTILINE) == [str(int(code)) for code in Exit]
    unit = (repo_root / "config" / "zstreamd.service").read_text(encoding="utf-8")
    lasting = [Exit.CONFIG, Exit.LOCKED, Exit.MISMATCH]
    assert f"\nRestartPreventExitStatus={' '.join(str(int(code)) for code in lasting)}\n" in unit


# ---------------------------------------------------------------- signals


def test_signals_are_handled_and_given_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    calls: list[None] = []
    with stop_on_signals(lambda: calls.append(None)):
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
        signal.raise_signal(signal.SIGTERM)
        assert len(calls) == 1
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.fixture
def own_interpreter() -> Iterator[None]:
    """A server tunes the interpreter that it runs in."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("own_interpreter")
def test_a_stop_before_the_run_ends_it() -> None:
    """As when the signal comes while a large store is still being opened."""
    server = Server(Settings(store="memory:", listen="tcp://127.0.0.1:*"))
    try:
        server.stop()
        server.open()
        server.run()
    finally:
        server.close()
        server.close()
    counters = server.counters
    assert (counters.received, counters.stored, counters.refused) == (0, 0, 0)


@pytest.mark.usefixtures("own_interpreter")
def test_a_signal_that_another_thread_gets_ends_the_run_all_the_same() -> None:
    """No system call of the main thread is interrupted then: only the descriptor wakes it."""
    server = Server(Settings(store="memory:", listen="tcp://127.0.0.1:*"))
    ended = threading.Event()
    rescued: list[None] = []

    def signal_itself() -> None:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.connect(server.endpoints.query)
            socket.send(msgpack.packb({"op": "ping"}))
            socket.recv()  # it serves, and nothing else will wake it
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            if not ended.wait(20):
                rescued.append(None)
                server.stop()

    with closing(server), stop_on_signals(server.stop, server.stop_fd):
        server.open()
        thread = threading.Thread(target=signal_itself)
        thread.start()
        server.run()
        ended.set()
        thread.join()
    assert not rescued


# ---------------------------------------------------------------- the commands for a store


def test_the_docs_have_every_command(repo_root: Path) -> None:
    docs = (repo_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    told = re.findall(r"^\*\*`(\w+)", docs, re.MULTILINE)
    assert isinstance(main, click.Group)
    assert sorted([*told, "run"]) == sorted(main.commands)


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command on ./s.db, which must end with this code; gives what it said."""
    monkeypatch.chdir(tmp_path)

    def do(*words: str, code: int = 0, store: str = "sqlite:///s.db") -> str:
        with (tmp_path / "err").open("w+") as err:
            with monkeypatch.context() as patched:
                patched.setattr("zstreamd.logs._STDERR", err.fileno())
                result = CliRunner().invoke(main, [*words, "--store", store])
            err.seek(0)
            said = result.output + err.read()
        assert result.exit_code == code, said
        return said

    return do


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store s.db of some events."""
    path = tmp_path / "s.db"
    backend = open_backend(f"sqlite:///{path}")
    backend.open(["kind", "user"])
    bodies = [msgpack.packb({"kind": "a", "user": n, "n": n % 3}) for n in range(300)]
    columns = [["a"] * 300, [str(n) for n in range(300)]]
    backend.append(Batch(1, list(range(300)), bodies, columns, 5))
    backend.close()
    return path


def test_commands_for_a_store_that_is_not_there(do: Callable[..., str], tmp_path: Path) -> None:
    for words in (["check"], ["reindex"], ["reindex", "--keys", "a"], ["backup", "c"]):
        assert "zstreamd: there is no store s.db" in do(*words, code=Exit.CONFIG)
    assert "zstreamd: there is no file c" in do("restore", "c", code=Exit.CONFIG)
    for words in (["check"], ["reindex"], ["backup", "c"], ["restore", "c"]):
        assert "use its own tools" in do(*words, code=Exit.CONFIG, store="memory:")
    assert "cannot be a key" in do("reindex", "--keys", "a,,b", code=Exit.CONFIG)
    assert "unknown store" in do("check", code=Exit.CONFIG, store="nosuch:")
    assert {each.name for each in tmp_path.iterdir()} <= {"err", "s.db-lock"}


def test_commands_for_a_store(do: Callable[..., str], filled: Path, tmp_path: Path) -> None:
    assert "sqlite:///s.db is in order" in do("check")
    assert "c.db has sqlite:///s.db up to event 300" in do("backup", "c.db")
    assert "c.db is there already" in do("backup", "c.db", code=Exit.CONFIG)
    said = do("reindex", "--keys", "n,user")
    assert "indexed anew and has the keys n,user" in said
    assert "writing events anew: 0 of 300" in said
    assert "s.db is indexed anew\n" in do("reindex")
    backend = open_backend("sqlite:///s.db")
    assert backend.open(None).keys == ("n", "user")
    backend.close()
    said = do("restore", "c.db")
    assert "sqlite:///s.db is c.db, up to event 300" in said
    assert re.search("the store that was there is now .*/s.db-replaced-2", said)
    assert "in order" in do("check")
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute("DELETE FROM events WHERE id = 7")
    assert "1 events from 1 to 300 are missing\n" in do("check", code=Exit.STORE)
    filled.write_bytes(b"something else")
    assert "not a store of zstream" in do("check", code=Exit.STORE)


def test_a_store_that_is_served(do: Callable[..., str], filled: Path) -> None:
    backend = open_backend("sqlite:///s.db")
    backend.open(None)
    for words in (["check"], ["reindex"], ["restore", "err"]):
        assert "stop that one" in do(*words, code=Exit.LOCKED)
    assert "up to event 300" in do("backup", "c.db")
    backend.close()


def test_the_keys_may_stand_in_the_file(do: Callable[..., str], filled: Path) -> None:
    Path("z.toml").write_text('keys = ["n"]\nstore = "sqlite:///none.db"\n', encoding="utf-8")
    assert "has the keys n\n" in do("reindex", "--config", "z.toml")


def test_a_daemon_with_other_keys_says_what_to_do(do: Callable[..., str], filled: Path) -> None:
    said = do("--keys", "n", "--listen", "tcp://127.0.0.1:*", code=Exit.MISMATCH)
    assert "zstreamd reindex --store sqlite:///s.db --keys n" in said


def test_progress_is_lines_or_a_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress("counting", 0, 5_000)
        progress("counting", 1, 5_000)  # too soon for another line
        progress("sorting", 1_000, 4_000)
        progress("a word", 0, 0)
    assert capfd.readouterr().err == "counting: 0 of 5,000\nsorting: 1,000 of 4,000\na word\n"
    assert draw("sorting", 1_000, 4_000, 20.0) == (
        "sorting  25% [######------------------] 1,000 of 4,000  1:00 left"
    )
    assert draw("sorting", 0, 4_000, 0.0) == "sorting   0% [------------------------] 0 of 4,000"
