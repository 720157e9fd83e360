"""A real MariaDB server in a folder of its own, reached by a unix socket and by nothing else."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pymysql

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_START_S = 30
# Nothing is synced: what a test kills is the server, not the machine.
_QUICK = (
    "--innodb-flush-method=nosync", "--sync-frm=OFF", "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=64M",
)  # fmt: skip


class MariaDB:
    """The server: its folder, its process, and databases of their own for each test."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "s"
        self._data = folder / "data"
        self._log = folder / "log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        # Only root needs to say, and may say, who the server runs as.
        self._user = ["--user=root"] if os.geteuid() == 0 else []
        temporary = folder / "tmp"
        temporary.mkdir()
        # A server that starts deletes the temporary tables of all others in its folder for them.
        self._place = [f"--datadir={self._data}", f"--tmpdir={temporary}", *_QUICK]
        made = self._run(
            "mariadb-install-db", "--auth-root-authentication-method=normal", "--skip-test-db"
        )
        if made.wait() != 0:
            raise RuntimeError(f"no database was made:\n{self._log.read_text()[:4000]}")

    def _run(self, program: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [which(program), "--no-defaults", *self._place, *self._user, *options]
        with self._log.open("ab") as log:
            # Not to be killed by SIGXFSZ, which this process ignores: a limit is as a full disk.
            return subprocess.Popen(command, stdout=log, stderr=log, restore_signals=False)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._run(
            "mariadbd", f"--socket={self.socket}", "--skip-networking",
            f"--pid-file={self._data}/pid", *self._options,
        )  # fmt: skip
        waited = 0
        while not self._answers():
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                waited += 1
            if self._process.poll() is not None or waited > _START_S / 0.05:
                raise RuntimeError(f"mariadbd did not start:\n{self._log.read_text()[-4000:]}")

    def _answers(self) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    @property
    def pid(self) -> int:
        """The process of the server that runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as its operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(60)

    def ask(self, *statements: str, database: str | None = None) -> tuple[tuple[object, ...], ...]:
        """Execute statements as root and return the rows of the last."""
        with closing(self.connect(database)) as db, db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            found: tuple[tuple[object, ...], ...] = cursor.fetchall()
        return found

    def connect(self, database: str | None = None) -> "pymysql.Connection":
        """A connection of root."""
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", database=database, autocommit=True,
            init_command="SET SESSION lock_wait_timeout = 10",  # a test that fails ends, too
        )  # fmt: skip

    def database(self) -> str:
        """Make a new database and return its name."""
        name = f"zstream_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database."""
        self.ask(f"DROP DATABASE IF EXISTS {name}")

    def url(self, database: str) -> str:
        """The URL of a store in a database."""
        return f"mysql://root@localhost/{database}?unix_socket={self.socket}"


def which(program: str) -> str:
    """The path of a program; servers stand where only root looks."""
    return shutil.which(program, path=_PATH) or program


@contextmanager
def serving(missing: Callable[[str], NoReturn], *options: str) -> Iterator[MariaDB]:
    """A server for the length of a block."""
    for program in ("mariadbd", "mariadb-install-db"):
        if which(program) == program:
            missing(program)
    # Not in pytest's folder: the path of a socket may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="zstream-mariadb-") as folder:
        server = MariaDB(Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()
