import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zstream import errors, keys, limits
from zstream.backends import base, open_backend
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


# ---------------------------------------------------------------- packages from outside

Install = Callable[..., None]
_OTHERS = """
from zstream.backends.base import Backend
from zstream.backends.memory import MemoryBackend
import zstream

class Mine(MemoryBackend):
    def __init__(self, url):
        super().__init__("memory:")

class Half(Backend):
    def append(self, batch):
        pass

def made(url):
    return MemoryBackend("memory:")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with a module and entry points of ours, for this test."""

    def install(package: str, source: str = _OTHERS, **schemes: str) -> None:
        place = tmp_path / package
        info = place / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = (f"{scheme} = {value}\n" for scheme, value in schemes.items())
        (info / "entry_points.txt").write_text("[zstream.backends]\n" + "".join(lines))
        (place / f"{package}.py").write_text(source)
        monkeypatch.syspath_prepend(str(place))
        monkeypatch.delitem(sys.modules, package, raising=False)

    return install


def test_an_entry_point_brings_a_scheme(install: Install) -> None:
    install("others", mine="others:Mine")
    assert type(open_backend("mine:")).__name__ == "Mine"
    with pytest.raises(ConfigError, match=r"known schemes are: .*memory, mine, "):
        open_backend("nosuch:")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("others.deep:Mine", "cannot be loaded: No module named 'others.deep'"),
        ("others:Yours", "cannot be loaded: .* no attribute 'Yours'"),
        ("others", "is no subclass of zstream.backends.base.Backend"),
        ("others:made", "is no subclass"),
        ("others:zstream.Client", "is no subclass"),
        ("others:Half", "lacks methods of a store: arrived, close, count, items, last_id, open"),
    ],
)
def test_what_is_no_store_says_whose_it_is(install: Install, value: str, why: str) -> None:
    install("others", mine=value)
    with pytest.raises(ConfigError, match=rf"'mine' of the package others \({value}\) {why}"):
        open_backend("mine:")


def test_a_module_that_fails_is_named_with_its_reason(install: Install) -> None:
    install("others", "import no_such_driver", mine="others:Mine")
    with pytest.raises(
        ConfigError, match=r"others:Mine.*No module named 'no_such_driver'"
    ) as error:
        open_backend("mine:")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_a_scheme_has_one_owner(install: Install) -> None:
    install("others", mine="others:Mine")
    install("another", mine="another:Mine", its="another:Mine")
    with pytest.raises(ConfigError, match=r"claim .*'mine'.*another:Mine.* and .*others:Mine"):
        open_backend("mine:")
    assert type(open_backend("its:")).__module__ == "another"


def test_nobody_takes_a_scheme_of_zstream(install: Install) -> None:
    install("others", memory="others:Mine")
    with pytest.raises(ConfigError, match=r"'memory' is zstream's own, and the package others"):
        open_backend("memory:")
    assert type(open_backend("sqlite:///x.db")).__name__ == "SQLiteBackend"


def test_an_author_finds_all_that_a_store_speaks_of() -> None:
    """None of it may go, or move, without a word in the changelog."""
    names = {
        base: "Backend Batch DEFAULT_KEYS Durability Head PROBE_S Page Position Producer Query "
        "Registration Replay Stats check_batch",
        keys: "Filter Value check_keys index_value normalize",
        limits: "MAX_INTEGER MAX_KEYS MAX_TEXT_BYTES PAGE_BYTES PAGE_EVENTS",
        errors: "BackendConflict BackendCorrupt BackendUnavailable ConfigError StoreLocked "
        "StoreMismatch StoreRewound",
    }
    for module, wanted in names.items():
        assert set(wanted.split()) <= set(vars(module))


# ---------------------------------------------------------------- what is appended


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
