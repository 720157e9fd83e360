"""The random histories over a store in PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zstream.backends import index_read, postgres_find, postgres_parts, postgres_read
from zstream.backends.base import Backend
from zstream.backends.postgres import PostgresBackend
from zstream.testing.model import BackendModel, Checked

from ..servers.postgres import Postgres
from .test_model import patched


class SmallPostgres(PostgresBackend):
    FIRST_ROWS = 3
    SEAL_ROWS = 7
    BUDGET = 5
    SWEEP_ROWS = 4


class CheckedPostgres(Checked):
    backend: PostgresBackend

    def settle(self) -> None:
        assert self.backend.settle(20.0)


#: What makes small data meet every plan.
SMALL: dict[Any, dict[str, Any]] = {
    index_read: {"MERGED_VALUES": 1},
    postgres_find: {"FEW_VALUES": 1, "_TRIED": 2, "_SEEK": 1, "_RARE": 1, "_SPARE": 0, "_LEAST": 1},
    postgres_read: {"_MOST_RUNS": 2, "_GATHERED": 3},
    postgres_parts: {"DENSE_ROWS": 2},
}


class TestSmallPostgres(BackendModel):
    checked = CheckedPostgres
    share = 0.5

    @pytest.fixture(autouse=True)
    def server(self, postgres: Postgres) -> None:
        self.postgres = postgres

    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        schema = self.postgres.schema()
        with patched(SMALL):
            try:
                yield self.postgres.url(schema)
            finally:
                self.postgres.drop(schema)

    def make(self, url: str) -> Backend:
        return SmallPostgres(url)
