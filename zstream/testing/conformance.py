"""The contract of a store, as tests: the executable form of `zstream.backends.base`.

The author of a backend subclasses it in a test module::

    import pytest
    from zstream.testing.conformance import BackendConformance

    class TestMine(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine:///{tmp_path}/store"

        @pytest.fixture
        def other_url(self, tmp_path):
            return f"mine:///{tmp_path}/other"

pytest must be installed. `zstream.testing.model` tries random histories on top of it.
"""

from collections.abc import Iterator
from typing import ClassVar

import pytest

from zstream.backends import open_backend
from zstream.backends.base import Backend
from zstream.testing.conformance_edges import EdgeCases
from zstream.testing.conformance_life import LifeCases
from zstream.testing.conformance_others import OtherCases
from zstream.testing.conformance_reads import ReadCases
from zstream.testing.conformance_store import Store

__all__ = ["BackendConformance", "Store"]


class BackendConformance(LifeCases, ReadCases, EdgeCases, OtherCases):
    """Every rule that a store has to keep."""

    #: Whether what was stored is there again after ``close`` and ``open``.
    persistent: ClassVar[bool] = True

    @pytest.fixture
    def url(self) -> str:
        """The URL of a store that does not exist yet; a subclass overrides it."""
        raise NotImplementedError("give the conformance suite a fixture 'url'")

    @pytest.fixture
    def other_url(self) -> str:
        """The URL of another such store beside it; a subclass that can have one overrides it."""
        pytest.skip("there is no fixture 'other_url' for a second store beside the first")

    def make(self, url: str) -> Backend:
        """Make the backend, not yet open; a subclass may do it in another way."""
        return open_backend(url)

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """An open, empty store with the keys ``kind`` and ``user``."""
        store = Store(lambda: self.make(url))
        store.open(("kind", "user"))
        yield store
        store.close()
