from collections.abc import Iterator

import pytest

from zstream.backends.base import Backend
from zstream.backends.postgres import PostgresBackend
from zstream.testing.conformance import BackendConformance

from ..servers.postgres import Postgres


class QuickPostgres(PostgresBackend):
    OPEN_TIMEOUT_S = 0.05


class TestPostgres(BackendConformance):
    @pytest.fixture
    def url(self, postgres: Postgres) -> Iterator[str]:
        schema = postgres.schema()
        yield postgres.url(schema)
        postgres.drop(schema)

    @pytest.fixture
    def other_url(self, postgres: Postgres) -> Iterator[str]:
        schema = postgres.schema()
        yield postgres.url(schema)
        postgres.drop(schema)

    def make(self, url: str) -> Backend:
        return QuickPostgres(url)


class SmallPostgres(QuickPostgres):
    FIRST_ROWS = 40
    SEAL_ROWS = 1_500
    BUDGET = 100
    SWEEP_ROWS = 3


class TestSmallPartitions(TestPostgres):
    """Small data is spread over partitions, and meets every plan and short page."""

    def make(self, url: str) -> Backend:
        return SmallPostgres(url)
