"""The daemon as a process: ready line, signals, exit codes, service manager, broken stderr."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from zstream import __version__
from zstreamd.cli import Exit

PATIENCE_S = 20.0
FREE = ("--listen", "tcp://127.0.0.1:*")
MEMORY = ("--store", "memory:", *FREE)
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Daemon:
    """A zstreamd process whose stderr is read only when a test asks for a line."""

    def __init__(self, folder: Path, *args: str, **popen: Any) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ZSTREAMD_")}
        environ = inherited | popen.pop("env", {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zstreamd", *args],
            cwd=folder, env=environ, stdin=subprocess.DEVNULL,
            stderr=popen.pop("stderr", subprocess.PIPE), **popen,
        )  # fmt: skip
        self.lines: list[str] = []
        self._rest = b""

    def line(self) -> str | None:
        """The next line of stderr, or None at its end."""
        assert self.process.stderr is not None
        until = time.monotonic() + PATIENCE_S
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            readable, _, _ = select.select([self.process.stderr], [], [], max(left, 0))
            assert readable, f"nothing more was said after {self.lines}"
            data = os.read(self.process.stderr.fileno(), 65536)
            if not data:
                assert not self._rest
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode())
        return self.lines[-1]

    def rest(self) -> list[str]:
        """All lines that are left."""
        return list(iter(self.line, None))

    def ready(self) -> dict[str, str]:
        """Read the ready line, and the endpoints in it."""
        line = self.line()
        assert line is not None, self.lines
        assert " ready: " in line, self.lines
        words = line.split()
        return {name: words[words.index(name) + 1] for name in ("query", "insert", "publish")}

    def ends(self, number: int | None = None) -> int:
        """Send a signal if told to, and wait for the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons in an empty folder; those still running are killed after the test."""
    daemons: list[Daemon] = []

    def run(*args: str, **popen: Any) -> Daemon:
        daemons.append(Daemon(tmp_path, *args, **popen))
        return daemons[-1]

    yield run
    for daemon in daemons:
        daemon.process.kill()
        daemon.process.wait()
        if daemon.process.stderr is not None:
            daemon.process.stderr.close()


Start = Callable[..., Daemon]
Socket = Callable[[int, str], "zmq.Socket[bytes]"]


def ask(query: "zmq.Socket[bytes]", **request: object) -> Any:
    query.send(msgpack.packb(request))
    reply = msgpack.unpackb(query.recv())
    assert reply["ok"], reply
    return reply


# ---------------------------------------------------------------- the good life


def test_ready_line_ping_and_stop(start: Start, zmq_socket: Socket) -> None:
    daemon = start(*MEMORY, "--keys", "type,actor.login")
    ends = daemon.ready()
    ports = [int(end.rpartition(":")[2]) for end in ends.values()]
    assert ports == [ports[0], ports[0] + 1, ports[0] + 2]
    assert re.fullmatch(
        rf"{STAMP} info zstreamd {re.escape(__version__)} ready: query {ends['query']} "
        rf"insert {ends['insert']} publish {ends['publish']} store memory: keys type,actor\.login",
        daemon.lines[0],
    )

    assert ask(zmq_socket(zmq.REQ, ends["query"]), op="ping")["version"] == __version__

    assert daemon.ends(signal.SIGTERM) == Exit.OK
    assert re.fullmatch(
        rf"{STAMP} info stopped: received 0 = stored 0 \+ refused 0", daemon.rest()[-1]
    )


def test_json_log(start: Start, zmq_socket: Socket) -> None:
    daemon = start("run", *MEMORY, "--log-format", "json")
    ready = json.loads(daemon.line() or "")
    push = zmq_socket(zmq.PUSH, ready["insert"])
    push.send(msgpack.packb([{"kind": "friend"}, {"kind": "watch"}, 7]))
    query = zmq_socket(zmq.REQ, ready["query"])
    while ask(query, op="info")["received"] < 3:
        pass
    code = daemon.ends(signal.SIGINT)
    entries = [ready, *map(json.loads, daemon.rest())]

    assert code == Exit.OK
    for entry in entries:
        assert {"time", "level", "event", "message", "logger"} <= set(entry)
        assert re.fullmatch(STAMP, entry["time"])
    assert ready["event"] == "ready"
    assert ready["level"] == "info"
    assert ready["store"] == "memory:"
    assert ready["keys"] == ["kind", "user", "repo"]
    assert ready["version"] == __version__
    assert ready["pid"] == daemon.process.pid
    assert " ready: " in ready["message"]
    last = entries[-1]
    assert last["event"] == "stopped"
    assert (last["received"], last["stored"], last["refused"], last["lost"]) == (3, 2, 1, 0)
    assert last["message"] == "stopped: received 3 = stored 2 + refused 1"


def test_with_no_arguments_it_makes_a_store_here(start: Start, tmp_path: Path) -> None:
    daemon = start(env={"ZSTREAMD_LISTEN": "tcp://127.0.0.1:*"})
    daemon.ready()
    assert daemon.lines[0].endswith("store sqlite:///zstream.db keys kind,user,repo")
    assert daemon.ends(signal.SIGTERM) == Exit.OK
    assert (tmp_path / "zstream.db").is_file()

    again = start(*FREE, "--keys", "kind,user,repo")
    again.ready()
    assert again.ends(signal.SIGTERM) == Exit.OK


def test_the_sample_file_starts_it(start: Start, repo_root: Path) -> None:
    daemon = start(*FREE, env={"ZSTREAMD_CONFIG": str(repo_root / "config" / "zstreamd.toml")})
    daemon.ready()
    assert daemon.ends(signal.SIGTERM) == Exit.OK


def test_ipc_and_ipv6(start: Start, zmq_socket: Socket, tmp_path: Path) -> None:
    ipc = f"ipc://{tmp_path}/z"
    endpoints = [ipc]
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
            endpoints.append("tcp://[::1]:*")
        except OSError:
            pass  # a machine without IPv6
    for endpoint in endpoints:
        daemon = start("--store", "memory:", "--listen", endpoint)
        ends = daemon.ready()
        assert ends["query"].startswith(endpoint.rstrip("*"))
        assert ask(zmq_socket(zmq.REQ, ends["query"]), op="ping")
        assert daemon.ends(signal.SIGTERM) == Exit.OK


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it(start: Start, number: int) -> None:
    daemon = start(*MEMORY)
    daemon.ready()
    assert daemon.ends(number) == Exit.OK
    assert " stopped: " in daemon.rest()[-1]


def test_an_ignored_hangup_stays_ignored(start: Start, zmq_socket: Socket) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        daemon = start(*MEMORY)
    finally:
        signal.signal(signal.SIGHUP, before)
    ends = daemon.ready()
    daemon.process.send_signal(signal.SIGHUP)
    query = zmq_socket(zmq.REQ, ends["query"])
    assert all(ask(query, op="ping") for _ in range(20))
    assert daemon.ends(signal.SIGTERM) == Exit.OK


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    daemon = start(*MEMORY)
    daemon.ready()
    # Both are pending when it goes on, so the second comes before the stop is done.
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        daemon.process.send_signal(number)
    assert daemon.ends() == Exit.FORCED
    assert not [line for line in daemon.rest() if "Traceback" in line]


# ---------------------------------------------------------------- exit codes


def fails(daemon: Daemon, code: Exit, *said: str) -> str:
    """It ends with this code, and one line that says these things."""
    assert daemon.ends() == code, daemon.rest()
    (line,) = daemon.rest()
    for each in said:
        assert each in line
    return line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--listen", "tcp://0.0.0.0:5570"), "--insecure"),
        (("--listen", "ipc:///" + "x" * 200), "107 bytes"),
        (("--config", "absent.toml"), "cannot read the config file absent.toml"),
        (("--store", "nosuch://host/db", *FREE), "known schemes are: mariadb, memory, mysql"),
        (("--store", "events.db"), "sqlite:///events.db"),
        (("--keys", "a,,b"), "cannot be a key"),
        (("--query-threads", "many"), "from 1 to 64"),
        (("--store", "memory:", "--listen", "tcp://192.0.2.1:5570", "--insecure"), "192.0.2.1"),
        (("--store", "memory:", "--listen", "tcp://nosuchif0:5570", "--insecure"), "nosuchif0"),
        (("--store", "memory:", "--listen", "ipc://no/such/folder/z"), "no/such/folder/z"),
        ((*MEMORY, "--rejects", "no/such/folder/r.jsonl"), "no/such/folder/r.jsonl"),
    ],
)
def test_settings_that_cannot_work(start: Start, args: Sequence[str], said: str) -> None:
    fails(start(*args), Exit.CONFIG, said)


@pytest.mark.parametrize("arg", ["--strore", "memory:", "--query-threads"])
def test_a_command_line_that_cannot_be_read(start: Start, arg: str) -> None:
    daemon = start(arg)
    assert daemon.ends() == Exit.CONFIG
    lines = daemon.rest()
    assert lines[-1].startswith("Error: ")
    assert len(lines) <= 4, lines


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_password_is_never_shown(start: Start, style: str) -> None:
    daemon = start("--store", "nosuch://me:hunter22@host/db", *FREE, "--log-format", style)
    line = fails(daemon, Exit.CONFIG, "nosuch")
    assert "hunter22" not in line


def test_a_store_that_cannot_be_made(start: Start) -> None:
    fails(start("--store", "sqlite:///no/such/folder/z.db", *FREE), Exit.STORE, "cannot be used")


def test_a_damaged_store(start: Start, tmp_path: Path) -> None:
    (tmp_path / "z.db").write_bytes(b"this is no database at all\n" * 500)
    fails(start("--store", "sqlite:///z.db", *FREE), Exit.STORE, "z.db")


def test_a_second_daemon_on_the_same_store(start: Start) -> None:
    first = start(*FREE)
    first.ready()
    fails(start(*FREE), Exit.LOCKED, "zstream.db", "--store")
    assert first.ends(signal.SIGTERM) == Exit.OK


def test_a_port_that_is_taken(start: Start) -> None:
    first = start(*MEMORY)
    ends = first.ready()
    line = fails(start("--store", "memory:", "--listen", ends["query"]), Exit.PORT)
    assert line.count(ends["query"]) == 1
    line = fails(start(*MEMORY, "--publish", ends["insert"]), Exit.PORT)
    assert ends["insert"] in line
    assert first.ends(signal.SIGTERM) == Exit.OK


def test_an_ipc_endpoint_that_is_taken(start: Start, zmq_socket: Socket, tmp_path: Path) -> None:
    """libzmq itself would take it away from the first, in silence."""
    args = ("--store", "memory:", "--listen", f"ipc://{tmp_path}/z")
    first = start(*args)
    ends = first.ready()
    fails(start(*args), Exit.PORT, f"{tmp_path}/z")
    assert ask(zmq_socket(zmq.REQ, ends["query"]), op="ping")
    # What a killed one leaves behind is in nobody's way.
    assert first.ends(signal.SIGKILL) == -signal.SIGKILL
    second = start(*args)
    second.ready()
    assert second.ends(signal.SIGTERM) == Exit.OK


def test_other_keys_than_the_store_has(start: Start) -> None:
    first = start(*FREE, "--keys", "a,b")
    first.ready()
    assert first.ends(signal.SIGTERM) == Exit.OK
    fails(start(*FREE, "--keys", "a,c"), Exit.MISMATCH, "keys a,b, not a,c")
    third = start(*FREE)
    third.ready()
    assert third.lines[0].endswith("keys a,b")
    assert third.ends(signal.SIGTERM) == Exit.OK


def test_a_misspelt_variable_is_told(start: Start) -> None:
    daemon = start(*MEMORY, env={"ZSTREAMD_STOER": "memory:"})
    assert " warning ZSTREAMD_STOER is no setting" in (daemon.line() or "")
    daemon.ready()
    assert daemon.ends(signal.SIGTERM) == Exit.OK


# ---------------------------------------------------------------- service manager


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(
    start: Start, tmp_path: Path, zmq_socket: Socket, abstract: bool
) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    name = f"@zstream-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(name.replace("@", "\0", 1) if abstract else name)
        daemon = start(*MEMORY, env={"NOTIFY_SOCKET": name})

        assert manager.recv(4096).split(b"\n")[0] == b"READY=1"
        ends = daemon.ready()
        assert ask(zmq_socket(zmq.REQ, ends["query"]), op="ping")
        assert daemon.ends(signal.SIGTERM) == Exit.OK
        assert manager.recv(4096) == b"STOPPING=1"


def test_a_service_manager_that_is_not_there(start: Start, tmp_path: Path) -> None:
    daemon = start(*MEMORY, env={"NOTIFY_SOCKET": str(tmp_path / "absent")})
    daemon.ready()
    assert " warning cannot tell the service manager READY=1" in (daemon.line() or "")
    assert daemon.ends(signal.SIGTERM) == Exit.OK


# ---------------------------------------------------------------- stderr


def test_a_reader_of_the_log_that_goes_away(start: Start, zmq_socket: Socket) -> None:
    daemon = start(*MEMORY)
    ends = daemon.ready()
    assert daemon.process.stderr is not None
    daemon.process.stderr.close()
    # A reject is logged, into a pipe that nobody reads.
    zmq_socket(zmq.PUSH, ends["insert"]).send(b"\xc1")
    query = zmq_socket(zmq.REQ, ends["query"])
    while not ask(query, op="info")["refused"]:
        pass
    assert daemon.ends(signal.SIGTERM) == Exit.OK


def test_standard_files_that_are_closed(start: Start, zmq_socket: Socket, tmp_path: Path) -> None:
    """No socket and no store may get the descriptor that log lines are written to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(tmp_path / "notify"))
        daemon = start(
            "--listen", f"ipc://{tmp_path}/z", stderr=None, env={"NOTIFY_SOCKET": "notify"},
            preexec_fn=lambda: os.closerange(0, 3),
        )  # fmt: skip
        assert manager.recv(4096).startswith(b"READY=1")
    held = Path(f"/proc/{daemon.process.pid}/fd")
    if held.is_dir():
        assert {os.readlink(held / str(number)) for number in range(3)} == {os.devnull}
    zmq_socket(zmq.PUSH, f"ipc://{tmp_path}/z-insert").send(b"\xc1")
    query = zmq_socket(zmq.REQ, f"ipc://{tmp_path}/z")
    while not ask(query, op="info")["refused"]:
        pass
    assert daemon.ends(signal.SIGTERM) == Exit.OK
