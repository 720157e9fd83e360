from collections.abc import Iterator

import pytest

from zstream.backends.redis import RedisBackend
from zstream.testing.conformance import BackendConformance

from ..servers.redis import Redis


class QuickRedis(RedisBackend):
    LOCK_S = 0.0


class SmallRedis(QuickRedis):
    """Seals every few rows, so that most reads meet sealed runs."""

    SEAL_ROWS = 7


class TestRedis(BackendConformance):
    @pytest.fixture
    def url(self, redis: Redis) -> Iterator[str]:
        prefix = redis.prefix()
        yield redis.url(prefix)
        redis.drop(prefix)

    @pytest.fixture
    def other_url(self, redis: Redis) -> Iterator[str]:
        prefix = redis.prefix()
        yield redis.url(prefix)
        redis.drop(prefix)

    def make(self, url: str) -> QuickRedis:
        return QuickRedis(url)


class TestRedisInSmallRuns(TestRedis):
    def make(self, url: str) -> QuickRedis:
        return SmallRedis(url)
