"""The random histories over a store in MariaDB."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zstream.backends.base import Backend
from zstream.backends.mysql import MySQLBackend
from zstream.backends.mysql_search import Limits
from zstream.testing.model import KEYS, BackendModel, Checked

from ..servers.mariadb import MariaDB

#: A store as it is made; to make it anew for each example would take most of the time.
EMPTY = (
    *(f"DELETE FROM {table}" for table in ("events", "lists", "runs", "producers", "marks")),
    "UPDATE head SET last = 0, floor = 0, arrival = 0, lists = 0",
)


class QuickMySQL(MySQLBackend):
    LOCK_S = 0


class SmallMySQL(QuickMySQL):
    LIMITS = Limits(scanned=5, gathered=3, counted=3)
    SWEEP_ROWS = 4


class Tidied(Checked):
    """Every step is followed by a little tidying up, as in the daemon."""

    def step(self, step: Any) -> None:
        super().step(step)
        self.backend.tidy()

    def settle(self) -> None:
        """Nothing of it works in the background."""


class TestMySQL(BackendModel):
    checked = Tidied
    share = 0.5  # a step takes a hundred times as long here

    @pytest.fixture(autouse=True)
    def database(self, mariadb: MariaDB) -> Iterator[None]:
        self.mariadb, self.name = mariadb, mariadb.database()
        backend = QuickMySQL(mariadb.url(self.name))
        backend.open(KEYS)
        backend.close()
        yield
        mariadb.drop(self.name)

    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        self.mariadb.ask(*EMPTY, database=self.name)
        yield self.mariadb.url(self.name)

    def make(self, url: str) -> Backend:
        return QuickMySQL(url)


class TestSmallMySQL(TestMySQL):
    def make(self, url: str) -> Backend:
        return SmallMySQL(url)
