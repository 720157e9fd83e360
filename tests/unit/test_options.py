import datetime

import pytest

from zstream.endpoints import DEFAULT_QUERY, Endpoints
from zstream.errors import ConfigError
from zstream.options import Options, find_endpoints

GOOD = {
    "timeout": 5.0, "buffer_bytes": 1, "on_full": "drop", "spool": None, "default": None,
    "tz": None, "on_refused": None,
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
        ("spool", "/tmp/x", "no spool yet"), ("default", 5, "function"),
        ("on_refused", "log", "function"), ("tz", "UTC", "zone"),
    ],
)  # fmt: skip
def test_bad_ones(name, value, why):
    with pytest.raises(ConfigError, match=why):
        Options(**{**GOOD, name: value})


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
