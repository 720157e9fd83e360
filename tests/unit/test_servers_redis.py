"""The Redis server of the tests keeps, loses and forgets what tests rely on."""

from collections.abc import Callable
from typing import NoReturn

import pytest
import redis as library

from ..servers.redis import Redis, serving


def test_prefixes_are_dropped_one_by_one(redis: Redis) -> None:
    one, other = redis.prefix(), redis.prefix()
    for prefix in (one, other):
        for key in (prefix, f"{prefix}:head", f"{{{prefix}}}:x"):
            redis.ask("SET", key, "1")
    redis.drop(one)
    assert redis.ask("EXISTS", one, f"{one}:head", f"{{{one}}}:x") == 0
    assert redis.ask("EXISTS", other, f"{other}:head", f"{{{other}}}:x") == 3
    redis.drop(other)
    assert redis.url(one) == f"unix://{redis.socket}?prefix={one}"


def test_a_restart_keeps_its_data_and_a_kill_what_was_saved(
    missing: Callable[[str], NoReturn],
) -> None:
    with serving(missing) as server:
        server.ask("SET", "a", "1")
        server.restart(maxmemory_policy="allkeys-lru")
        assert "allkeys-lru" in str(server.ask("CONFIG", "GET", "maxmemory-policy"))
        assert server.ask("GET", "a") == b"1"
        server.ask("SET", "a", "2")
        server.kill()
        with pytest.raises(library.ConnectionError):
            server.ask("PING")
        server.start()
        assert server.ask("GET", "a") == b"1"


def test_an_append_only_server_keeps_all_and_its_port(missing: Callable[[str], NoReturn]) -> None:
    with serving(missing, tcp=True, appendonly="yes", appendfsync="always") as server:
        url = server.url("x", tcp=True).partition("?")[0]
        for number in range(1, 3):
            with library.Redis.from_url(url) as client:
                assert client.incr("a") == number
            server.kill()
            server.start()
        server.pause()
        server.resume()
        assert server.ask("GET", "a") == b"2"
