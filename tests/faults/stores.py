"""Servers that keep stores, and what may happen to each of them."""

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

from ..servers import mariadb, postgres, redis
from ..servers.network import Network, Target

Missing = Callable[[str], NoReturn]
#: What breaks, and what mends it, under the name of the fault.
Ways = dict[str, tuple[Callable[[], object], Callable[[], object]]]
_MB: Final = 1 << 20


class StoreServer(ABC):
    """A server that can be broken and mended.

    Attributes:
        target: Where it listens.
    """

    target: Target

    @abstractmethod
    def url(self, network: Network) -> str:
        """The URL of a new store, reached over a network whose one target is ``store``."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """End it as its operator would."""

    @abstractmethod
    def kill(self) -> None:
        """End it with SIGKILL."""

    @abstractmethod
    def pause(self) -> None:
        """Let it take connections and answer nothing."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on after `pause`."""

    @abstractmethod
    def ways(self) -> Ways:
        """How to have it refuse whatever writes, and take all again; it can be read meanwhile."""

    @abstractmethod
    def fill(self) -> None:
        """Leave it no room but for a few megabytes."""

    @abstractmethod
    def unfill(self) -> None:
        """Give it room."""

    @abstractmethod
    def last_words(self, of: bytes) -> bytes:
        """What a client sends when it stores a lone event with these bytes, just before it is."""


class PostgresServer(StoreServer):
    """A PostgreSQL server."""

    def __init__(self, server: postgres.Postgres) -> None:
        self._server = server
        self.target = server.folder / ".s.PGSQL.5432"

    def url(self, network: Network) -> str:
        schema = self._server.schema().replace(" ", "%20")
        return f"postgresql://postgres@127.0.0.1:{network.ports['store']}/postgres?schema={schema}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        self._server.send(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.send(signal.SIGCONT)

    def ways(self) -> Ways:
        return {"read-only": (lambda: self._set("ON"), lambda: self._set("OFF"))}

    def _set(self, how: str) -> None:
        self._server.ask(f"ALTER SYSTEM SET default_transaction_read_only = {how}")
        self._server.ask("SELECT pg_reload_conf()")

    def fill(self) -> None:
        # Its own files of the log have 16 MB.
        limit_files(self._server.pids(), 17 * _MB, self._server.user)

    def unfill(self) -> None:
        limit_files(self._server.pids(), None, self._server.user)

    def last_words(self, of: bytes) -> bytes:
        return of  # few rows are one statement, which is a transaction


class MariaDBServer(StoreServer):
    """A MariaDB server, which a user without privileges comes to."""

    def __init__(self, server: mariadb.MariaDB) -> None:
        self._server = server
        self.target = server.socket
        server.ask("CREATE USER plain@localhost IDENTIFIED BY 'p'")

    def url(self, network: Network) -> str:
        name = self._server.database()
        self._server.ask(f"GRANT ALL ON {name}.* TO plain@localhost")
        return f"mysql://plain:p@127.0.0.1:{network.ports['store']}/{name}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def ways(self) -> Ways:
        ask = self._server.ask
        return {
            "read-only": (
                lambda: ask("SET GLOBAL read_only = 1"), lambda: ask("SET GLOBAL read_only = 0")
            ),
        }  # fmt: skip

    def fill(self) -> None:
        # Its files of the beginning have 12 MB.
        limit_files([self._server.pid], 13 * _MB)

    def unfill(self) -> None:
        limit_files([self._server.pid], None)

    def last_words(self, of: bytes) -> bytes:
        return b"COMMIT"


class RedisServer(StoreServer):
    """A Redis server that syncs each write."""

    def __init__(self, server: redis.Redis) -> None:
        self._server = server
        self.target = server.socket

    def url(self, network: Network) -> str:
        return f"redis://127.0.0.1:{network.ports['store']}/0?prefix={self._server.prefix()}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    def ways(self) -> Ways:
        ask, replicas = self._server.ask, ("CONFIG", "SET", "min-replicas-to-write")
        return {
            "read-only, a replica": (
                lambda: ask("REPLICAOF", "127.0.0.1", 1), lambda: ask("REPLICAOF", "NO", "ONE")
            ),
            "read-only, without replicas": (lambda: ask(*replicas, 1), lambda: ask(*replicas, 0)),
        }  # fmt: skip

    def fill(self) -> None:
        # What it uses goes up and down with the buffers of its clients: full is full.
        used = int(self._server.ask("INFO", "memory")["used_memory"])
        self._server.ask("CONFIG", "SET", "maxmemory", used // 2)

    def unfill(self) -> None:
        self._server.ask("CONFIG", "SET", "maxmemory", 0)

    def last_words(self, of: bytes) -> bytes:
        return of


def limit_files(pids: Sequence[int], size: int | None, user: str | None = None) -> None:
    """Have the files of running processes not grow beyond a size: as on a disk that is full.

    Args:
        pids: The processes.
        size: In bytes; None is as much as there is room for.
        user: Whose they are. Not even root may do it for others everywhere.
    """
    soft = "unlimited" if size is None else str(size)
    for pid in pids:
        subprocess.run(
            ["prlimit", f"--pid={pid}", f"--fsize={soft}:"], user=user, cwd="/", check=False
        )


@contextmanager
def serving(kind: str, missing: Missing) -> Iterator[StoreServer]:
    """A server of a kind, for the length of a block."""
    if shutil.which("prlimit") is None:
        missing("prlimit")
    if kind == "postgresql":
        with postgres.serving(missing) as made:
            yield PostgresServer(made)
    elif kind == "mariadb":
        with mariadb.serving(missing) as other:
            yield MariaDBServer(other)
    else:
        with redis.serving(missing, appendonly="yes", appendfsync="always") as third:
            yield RedisServer(third)
