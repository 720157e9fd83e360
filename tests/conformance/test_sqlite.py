from pathlib import Path

import pytest

from zstream.backends.base import Backend
from zstream.backends.sqlite import SQLiteBackend
from zstream.testing.conformance import BackendConformance


class TestSQLite(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"

    @pytest.fixture
    def other_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/other.db"


class SmallSQLite(SQLiteBackend):
    BUDGET = 25
    SWEEP_ROWS = 3
    SEAL_ROWS = 5


class TestSmallBudget(TestSQLite):
    """Small data meets every plan and short page that large data would."""

    def make(self, url: str) -> Backend:
        return SmallSQLite(url)
