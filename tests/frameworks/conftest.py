"""What the recipes need: daemons that keep what they have, and the frameworks."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from zstream import Client
from zstream.testing import Server, server

from .recipes import PATIENCE_S


@pytest.fixture
def needs(missing: Callable[[str], NoReturn]) -> Callable[..., None]:
    """Give up unless these modules are there; the extra ``frameworks`` brings them."""

    def check(*modules: str) -> None:
        for module in modules:
            if find_spec(module) is None:
                missing(module)

    return check


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A daemon whose store outlives it."""
    folder: Path = tmp_path_factory.mktemp("store")
    with server(keys=["kind", "user"], store=f"sqlite:///{folder}/store.db") as running:
        yield running


@pytest.fixture
def client(daemon: Server) -> Iterator[Client]:
    """A client of that daemon, to look at what is stored."""
    with Client(daemon.url, timeout=PATIENCE_S) as client:
        yield client
