"""The daemon for other people's tests."""

import os
import signal
import socket
import threading
from contextlib import ExitStack

import pytest

from zstream import Client, ConfigError, Unavailable
from zstream.testing import Server, server

pytest_plugins = ["pytester"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_fixture_is_a_daemon_with_an_empty_store(zstream_server: Server) -> None:
    with Client(zstream_server.url) as client:
        assert client.count() == 0
        assert client.info()["keys"] == list(zstream_server.keys) == ["kind", "user", "repo"]
    assert zstream_server.store == "memory:"
    assert is_alive(zstream_server.pid)


def test_the_fixture_needs_no_import(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from zstream import Client

        def test_it(zstream_server):
            with Client(zstream_server.url) as client:
                assert client.insert({"kind": "a"}, wait=True) == 1
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_it_ends_with_the_block() -> None:
    with server() as running:
        pid = running.pid
        assert is_alive(pid)
    assert not is_alive(pid)


def test_it_ends_with_an_error_in_the_block_too() -> None:
    with pytest.raises(LookupError), server() as running:
        raise LookupError
    assert not is_alive(running.pid)


def test_keys_store_and_endpoint_can_be_chosen(tmp_path) -> None:
    store = f"sqlite:///{tmp_path}/events.db"
    with server(keys=["a", "b.c"], store=store, listen=f"ipc://{tmp_path}/z") as running:
        assert running.keys == ("a", "b.c")
        assert running.store == store
        assert running.endpoints.publish == f"ipc://{tmp_path}/z-publish"
        with Client(running.url) as client:
            client.insert({"b": {"c": 1}}, wait=True)
            assert client.count({"b.c": 1}) == 1
    with server(keys=None, store=store) as running:
        assert running.keys == ("a", "b.c")


def test_a_restart_keeps_the_endpoints_and_loses_what_is_in_memory() -> None:
    with server() as running, Client(running.url, timeout=30) as client:
        client.insert({"kind": "a"}, wait=True)
        endpoints, pid = running.endpoints, running.pid
        for kill in (False, True):
            running.restart(kill=kill)
            assert running.endpoints == endpoints
            assert running.pid != pid
            assert client.count() == 0


def test_stop_gives_the_exit_code_and_kill_the_signal() -> None:
    with server() as running:
        assert running.stop() == 0
        assert running.stop() == 0, "a second time does nothing"
        running.start()
        with pytest.raises(ConfigError, match="runs already"):
            running.start()
        assert running.kill() == -signal.SIGKILL


def test_what_does_not_start_says_why() -> None:
    with pytest.raises(Unavailable, match="no-such-option"), server(options=["--no-such-option"]):
        pass
    with pytest.raises(Unavailable, match="exit"), server(keys=[""]):
        pass


def test_the_log_can_be_read() -> None:
    with server(options=["--log-level", "info"]) as running:
        running.stop()
        assert any('"ready"' in line for line in running.log)


def test_a_restart_waits_for_who_has_taken_its_port() -> None:
    with server() as running, ExitStack() as stack:
        host, port = running.endpoints.insert.removeprefix("tcp://").split(":")
        running.stop()
        other = stack.enter_context(socket.socket())
        other.bind((host, int(port)))
        other.listen()
        starting = threading.Thread(target=running.start)
        starting.start()
        while not any("is taken" in line for line in list(running.log)):
            starting.join(0.01)
        other.close()
        starting.join(30)
        with Client(running.url) as client:
            assert client.ping() > 0
