import subprocess
import sys

import pytest

from zstream.backends import open_backend
from zstream.backends.base import Batch, check_batch
from zstream.errors import ConfigError


def test_the_scheme_finds_the_store() -> None:
    assert type(open_backend("memory:")).__name__ == "MemoryBackend"
    assert type(open_backend("sqlite:///x.db")).__name__ == "SQLiteBackend"


@pytest.mark.parametrize("url", ["", "memory", "nosuch:", "nosuch://host/x", "/var/x.db", "x.db"])
def test_an_unknown_store_names_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError, match=r"memory, .*sqlite"):
        open_backend(url)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from zstream.backends import open_backend; open_backend('memory:');"
        "assert not {'sqlalchemy', 'sqlite3'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "batch",
    [
        Batch(1, [1], [], [["a"]], 1),
        Batch(1, [1], [b""], [["a", "b"]], 1),
        Batch(1, [1], [b""], [], 1),
        Batch(1, [1], [b""], [["a"], ["b"]], 1),
    ],
)
def test_columns_that_do_not_fit(batch: Batch) -> None:
    with pytest.raises(ValueError, match="columns of that length"):
        check_batch(batch, 1)


def test_columns_that_fit() -> None:
    check_batch(Batch(1, [], [], [[], []], 1), 2)
    check_batch(Batch(1, [1, 2], [b"", b""], [["a", None]], 1), 1)
