import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zstream.endpoints import DEFAULT_QUERY, Endpoints
from zstream.errors import ConfigError
from zstream.options import Options, find_endpoints

GOOD = {
    "timeout": 5.0, "buffer_bytes": 1, "on_full": "drop", "spool": None,
    "spool_sync": 0.05, "spool_bytes": 1 << 30, "default": None, "tz": None, "on_refused": None,
}  # fmt: skip


def test_good_ones():
    Options(**GOOD)
    Options(**{**GOOD, "timeout": 1, "tz": datetime.UTC, "default": str, "on_refused": print})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("timeout", 0, "above 0"), ("timeout", -1, "above 0"), ("timeout", "5", "above 0"),
        ("timeout", None, "above 0"), ("timeout", float("nan"), "above 0"),
        ("timeout", float("inf"), "above 0"), ("buffer_bytes", 0, "bytes"),
        ("buffer_bytes", 1.5, "bytes"), ("buffer_bytes", True, "bytes"),
        ("on_full", "wait", "drop, block, raise"), ("on_full", None, "drop, block, raise"),
        ("spool", "", "path of a folder"), ("spool", 5, "path of a folder"),
        ("spool", "/dev/null", "no folder"), ("spool", "/dev/null/x", "no folder"),
        ("spool", "a\0b", "no folder"), ("spool_sync", -1, "0 to 60"),
        ("spool_sync", "1", "0 to 60"), ("spool_sync", float("nan"), "0 to 60"),
        ("spool_bytes", 0, "bytes"), ("spool_bytes", 1e9, "bytes"), ("default", 5, "function"),
        ("on_refused", "log", "function"), ("tz", "UTC", "zone"),
    ],
)  # fmt: skip
def test_bad_ones(name, value, why):
    with pytest.raises(ConfigError, match=why):
        Options(**{**GOOD, name: value})


def test_the_folder_of_a_spool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = Options(**{**GOOD, "spool": Path("some/spool")})
    assert options.spool == str(tmp_path / "some" / "spool")
    assert (tmp_path / "some" / "spool").stat().st_mode & 0o777 == 0o700
    (tmp_path / "some" / "spool").chmod(0o750)
    Options(**{**GOOD, "spool": options.spool})
    assert (tmp_path / "some" / "spool").stat().st_mode & 0o777 == 0o750, "it is the owner's"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child gives its rights up")
def test_a_folder_of_somebody_else(tmp_path):
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(ConfigError, match="not writable"):
            Options(**{**GOOD, "spool": tmp_path})
        return
    code = f"""
import os
from zstream.options import Options
from zstream.errors import ConfigError
os.setgid(65534)
os.setuid(65534)
try:
    Options(**{ {**GOOD, "spool": "/usr"}!r})
except ConfigError as error:
    assert "chown 65534" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Options(**{**GOOD, "spool": "~/spool"}).spool == str(tmp_path / "spool")


@pytest.mark.parametrize("name", ["default", "on_refused"])
def test_a_function_that_would_never_run(name):
    async def function(*_):
        raise AssertionError

    with pytest.raises(ConfigError, match="not an async one"):
        Options(**{**GOOD, name: function})


def test_where_the_daemon_is(monkeypatch):
    monkeypatch.delenv("ZSTREAM_URL", raising=False)
    assert find_endpoints(None).query == DEFAULT_QUERY
    monkeypatch.setenv("ZSTREAM_URL", "tcp://127.0.0.1:7000")
    assert find_endpoints(None).publish == "tcp://127.0.0.1:7002"
    monkeypatch.setenv("ZSTREAM_URL", "")
    assert find_endpoints(None).query == DEFAULT_QUERY
    assert find_endpoints("ipc:///run/z").insert == "ipc:///run/z-insert"
    three = Endpoints("tcp://a:1", "tcp://b:1", "tcp://c:1")
    assert find_endpoints(three) == three


@pytest.mark.parametrize("url", ["", "localhost", "tcp://*:5570", 5570, ("tcp://a:1",) * 3, b"x"])
def test_where_no_daemon_can_be(url):
    with pytest.raises(ConfigError):
        find_endpoints(url)
