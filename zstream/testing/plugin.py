"""The pytest plugin: the fixture ``zstream_server``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zstream.testing.server import Server


@pytest.fixture
def zstream_server() -> Iterator["Server"]:
    """A real daemon with an empty store in memory; stopped after the test."""
    # Late, because pytest loads every plugin and most runs never ask for a server.
    from zstream.testing.server import server

    with server() as running:
        yield running
