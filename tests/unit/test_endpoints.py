import pytest

from zstream.endpoints import DEFAULT_QUERY, Endpoints, derive, is_ipv6, is_local, normalize
from zstream.errors import ConfigError


def test_the_default_is_three_ports_in_a_row():
    assert derive(DEFAULT_QUERY) == Endpoints(
        "tcp://127.0.0.1:5570", "tcp://127.0.0.1:5571", "tcp://127.0.0.1:5572"
    )


@pytest.mark.parametrize(
    ("query", "insert", "publish"),
    [
        ("tcp://db.example:80", "tcp://db.example:81", "tcp://db.example:82"),
        ("tcp://[::1]:5570", "tcp://[::1]:5571", "tcp://[::1]:5572"),
        ("tcp://localhost:7", "tcp://127.0.0.1:8", "tcp://127.0.0.1:9"),
        ("ipc:///run/z", "ipc:///run/z-insert", "ipc:///run/z-publish"),
        ("ipc://@abstract", "ipc://@abstract-insert", "ipc://@abstract-publish"),
    ],
)
def test_the_others_follow(query, insert, publish):
    assert derive(query)[1:] == (insert, publish)


def test_a_named_endpoint_wins():
    endpoints = derive("tcp://127.0.0.1:65535", "ipc:///i", "tcp://127.0.0.1:1")
    assert endpoints == ("tcp://127.0.0.1:65535", "ipc:///i", "tcp://127.0.0.1:1")


def test_only_a_bind_may_leave_host_or_port_open():
    assert derive("tcp://*:5570", bind=True).publish == "tcp://*:5572"
    assert derive("tcp://127.0.0.1:*", bind=True) == ("tcp://127.0.0.1:*",) * 3
    for endpoint in ("tcp://*:5570", "tcp://127.0.0.1:*"):
        with pytest.raises(ConfigError, match="not connected to"):
            derive(endpoint)


@pytest.mark.parametrize(
    "nonsense",
    [
        "", "5570", "host:5570", "tcp://", "tcp://host", "tcp://:5570", "tcp://h:0", "tcp://h:65536",
        "tcp://h:5570/", "tcp://a;b:1", "tcp://::1:5570", "udp://h:1", "inproc://x", "ipc://", "ipc://*",
        "ipc:///" + "x" * 120, "http://127.0.0.1:80", " tcp://h:1", "tcp://h: 1", None, 5570, b"tcp://h:1",
    ],
)  # fmt: skip
def test_nonsense_is_refused(nonsense):
    with pytest.raises(ConfigError):
        derive(nonsense)


@pytest.mark.parametrize("query", ["tcp://127.0.0.1:65534", "ipc:///" + "x" * 100])
def test_no_room_for_the_others(query):
    with pytest.raises(ConfigError):
        derive(query)
    assert normalize(query) == query


def test_endpoints_must_differ():
    with pytest.raises(ConfigError, match="differ"):
        derive("tcp://127.0.0.1:5570", "tcp://localhost:5570")


def test_local_or_not():
    local = [
        "tcp://127.0.0.1:1",
        "tcp://127.1.2.3:1",
        "tcp://[::1]:*",
        "ipc:///x",
        "tcp://127.0.0.1:*",
    ]
    assert all(map(is_local, local))
    assert not any(
        map(is_local, ["tcp://*:1", "tcp://0.0.0.0:1", "tcp://10.0.0.1:1", "tcp://host:1"])
    )
    assert is_ipv6("tcp://[::1]:1")
    assert not is_ipv6("tcp://127.0.0.1:1")
