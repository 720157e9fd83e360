"""gevent: patched threads and sockets are refused aloud, with a way out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zstream.testing import Server

from .recipes import run

REFUSED = """
from zstream import Client, ConfigError
from zstream.aio import AsyncClient

early = Client()
early.ping()
made = Client()

from gevent import monkey

Client().ping()  # gevent is there, and has patched nothing
monkey.patch_all({arguments})
for use in (Client, AsyncClient, made.ping, lambda: made.insert({{}})):
    try:
        use()
    except ConfigError as error:
        assert "gevent has patched" in str(error), error
        assert "gthread" in str(error), error
    else:
        raise AssertionError(use)
"""


@pytest.mark.parametrize("arguments", ["", "socket=False", "thread=False"])
def test_patched_threads_or_sockets(
    daemon: Server, tmp_path: Path, needs: Callable[..., None], arguments: str
) -> None:
    needs("gevent")
    run(tmp_path, daemon.url, "-c", REFUSED.format(arguments=arguments))


def test_other_patches(daemon: Server, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("gevent")
    code = "from gevent import monkey\nmonkey.patch_subprocess()\nfrom zstream import Client\n"
    run(tmp_path, daemon.url, "-c", code + "Client().insert({}, wait=True)")
