"""The random histories over a store in Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from zstream.backends import (
    index_read,
    redis_look,
    redis_runs,
    redis_sealing,
    redis_times,
    redis_walk,
)
from zstream.backends.base import Backend
from zstream.backends.redis import RedisBackend
from zstream.backends.redis_keeper import Keeper
from zstream.testing.model import BackendModel, Checked

from ..servers.redis import Redis
from .test_model import patched


class QuickRedis(RedisBackend):
    LOCK_S = 0.0


class SmallRedis(QuickRedis):
    SEAL_ROWS = 7
    BUDGET = 5


class CheckedRedis(Checked):
    backend: RedisBackend

    def settle(self) -> None:
        assert self.backend.settle(20.0)


#: What makes small data meet every way.
SMALL: dict[Any, dict[str, Any]] = {
    index_read: {"MERGED_VALUES": 1},
    redis_look: {"LOOKUPS": 2, "TRIED": 1, "CHEAP": 1},
    redis_walk: {"LOOKUPS": 2, "TRIED": 1},
    redis_runs: {"FEW": 1, "CHUNK": 2, "_BUCKET": 2, "_LONGEST": 1},
    redis_times: {"CHUNK": 2, "_KEPT": 3},
    redis_sealing: {"STEP_BYTES": 20, "STEP_KEYS": 2},
    Keeper: {"STEP_LISTS": 2, "IDLE_S": 0.002},
}


class TestRedis(BackendModel):
    checked = CheckedRedis
    share = 0.5
    small: ClassVar[dict[Any, dict[str, Any]]] = {}

    @pytest.fixture(autouse=True)
    def server(self, redis: Redis) -> None:
        self.redis = redis

    @contextmanager
    def fresh_url(self) -> Iterator[str]:
        prefix = self.redis.prefix()
        with patched(self.small):
            try:
                yield self.redis.url(prefix)
            finally:
                self.redis.drop(prefix)

    def make(self, url: str) -> Backend:
        return QuickRedis(url)


class TestSmallRedis(TestRedis):
    small = SMALL

    def make(self, url: str) -> Backend:
        return SmallRedis(url)
