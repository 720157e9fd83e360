"""Strings that break software, as values of indexed keys."""

import json
from pathlib import Path

import pytest

from zstream import keys
from zstream.backends import open_backend
from zstream.backends.base import Batch, Query
from zstream.backends.redis import RedisBackend


def url_of(scheme: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if scheme == "mysql":
        server = request.getfixturevalue("mariadb")
        return str(server.url(server.database()))
    if scheme == "postgres":
        server = request.getfixturevalue("postgres")
        return str(server.url(server.schema()))
    if scheme == "redis":
        server = request.getfixturevalue("redis")
        return str(server.url(server.prefix()))
    return "memory:" if scheme == "memory" else f"sqlite:///{tmp_path}/store.db"


@pytest.mark.parametrize("scheme", ["memory", "mysql", "postgres", "redis", "sqlite"])
def test_naughty_strings_are_found_exactly(
    scheme: str, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    strings = json.loads((shared_data / "vectors" / "blns.json").read_text(encoding="utf-8"))
    texts = list(dict.fromkeys(filter(lambda s: keys.index_text(s) is not None, strings)))
    assert len(texts) > 490
    backend = open_backend(url_of(scheme, tmp_path, request))
    count = len(texts)
    if isinstance(backend, RedisBackend):
        backend.SEAL_ROWS = count  # type: ignore[misc]
    backend.open(["text", "list"])
    columns = [[*texts], [("common", text) if text != "common" else text for text in texts]]
    bodies = [text.encode() for text in texts]
    backend.append(Batch(1, [5] * count, bodies, columns, 1))
    if isinstance(backend, RedisBackend):
        assert backend.settle(20)  # so that each has to be found in a sealed run
    for id, text in enumerate(texts, 1):
        for key in ("text", "list"):
            page = backend.items(Query(keys.normalize({key: [text, "unknown"]}, ["text", "list"])))
            assert list(page.ids) == [id]
            assert list(page.bodies) == [text.encode()]
    everything = keys.normalize({"text": texts, "list": texts}, ["text", "list"])
    assert backend.count(Query(everything)) == count
    assert len(backend.items(Query(everything, limit=1_000)).ids) == count
    backend.close()
