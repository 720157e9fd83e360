"""The pytest plugin: the fixture ``zstream_server``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# So that a case that fails shows what it compared, in an editable installation too.
_REWRITTEN = ("conformance_edges", "conformance_life", "conformance_others", "conformance_reads",
              "conformance_store", "model")  # fmt: skip
pytest.register_assert_rewrite(*(f"{__package__}.{name}" for name in _REWRITTEN))

if TYPE_CHECKING:
    from zstream.testing.server import Server


@pytest.fixture
def zstream_server() -> Iterator["Server"]:
    """A real daemon with an empty store in memory; stopped after the test."""
    # Late, because pytest loads every plugin and most runs never ask for a server.
    from zstream.testing.server import server

    with server() as running:
        yield running
