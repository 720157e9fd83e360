from collections.abc import Iterator

import pytest

from zstream.backends.base import Backend
from zstream.backends.mysql import MySQLBackend
from zstream.backends.mysql_search import Limits
from zstream.testing.conformance import BackendConformance

from ..servers.mariadb import MariaDB


class QuickMySQL(MySQLBackend):
    LOCK_S = 0


class TestMySQL(BackendConformance):
    @pytest.fixture
    def url(self, mariadb: MariaDB) -> Iterator[str]:
        database = mariadb.database()
        yield mariadb.url(database)
        mariadb.drop(database)

    @pytest.fixture
    def other_url(self, mariadb: MariaDB) -> Iterator[str]:
        database = mariadb.database()
        yield mariadb.url(database)
        mariadb.drop(database)

    def make(self, url: str) -> Backend:
        return QuickMySQL(url)


class SmallMySQL(QuickMySQL):
    LIMITS = Limits(scanned=250, gathered=4, counted=4)
    SWEEP_ROWS = 3


class TestSmallLimits(TestMySQL):
    """Small data meets every plan and short page that large data would."""

    def make(self, url: str) -> Backend:
        return SmallMySQL(url)
