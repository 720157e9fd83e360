import pytest

from zstream.backends.base import Backend
from zstream.backends.memory import MemoryBackend
from zstream.testing.conformance import BackendConformance


class TestMemory(BackendConformance):
    persistent = False

    @pytest.fixture
    def url(self) -> str:
        return "memory:"

    @pytest.fixture
    def other_url(self) -> str:
        return "memory:"


class SmallMemory(MemoryBackend):
    SEGMENT_ROWS = 7
    BUDGET = 10


class TestManySegments(TestMemory):
    """Small data meets every segment border and short page that large data would."""

    def make(self, url: str) -> Backend:
        return SmallMemory(url)
