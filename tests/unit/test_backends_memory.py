import pytest

from zstream.backends.base import Batch, Query
from zstream.backends.memory import MemoryBackend
from zstream.errors import ConfigError, StoreLocked


@pytest.mark.parametrize("url", ["memory", "memory:x", "memory://", "memory:///path", "Memory:"])
def test_the_url_is_memory_and_nothing_else(url: str) -> None:
    with pytest.raises(ConfigError, match="memory:"):
        MemoryBackend(url)


def test_it_is_opened_once() -> None:
    backend = MemoryBackend("memory:")
    first = backend.open(["a"])
    with pytest.raises(StoreLocked):
        backend.open(["a"])
    backend.append(Batch(1, [5], [b"x"], [["v"]], 1))
    backend.close()
    again = backend.open(["b"])
    assert (again.id, again.keys) == (0, ("b",))
    assert again.run != first.run
    assert backend.count(Query()) == 0
    backend.close()


def test_old_segments_go_with_a_trim() -> None:
    class Small(MemoryBackend):
        SEGMENT_ROWS = 10

    backend = Small("memory:")
    backend.open(["a"])
    for first in range(1, 101, 5):
        backend.append(Batch(first, [first] * 5, [bytes(100)] * 5, [["v"] * 5], first * 10**6))
    before = backend.stats()
    assert before.more["segments"] == 11
    assert backend.trim(55) == 55
    after = backend.stats()
    assert (after.events, after.more["segments"]) == (45, 6)
    assert before.size_bytes is not None
    assert after.size_bytes is not None
    assert after.size_bytes < before.size_bytes
    assert backend.arrived(61 * 10**6) == 60
    assert backend.trim(100) == 45
    assert backend.stats().size_bytes == 0
    backend.append(Batch(101, [1], [b"x"], [["v"]], 10**9))
    assert list(backend.items(Query()).ids) == [101]


def test_what_fails_in_the_middle_of_a_segment_leaves_no_trace() -> None:
    backend = MemoryBackend("memory:")
    backend.open(["a", "b"])
    backend.append(Batch(1, [9, 8], [b"1", b"2"], [["v", "w"], [None, "v"]], 1))
    broken = Batch(3, [1, 9], [b"3", b"4"], [["v", "v"], ["v", {}]], 2)  # type: ignore[list-item]
    for _ in range(2):
        with pytest.raises(TypeError):
            backend.append(broken)
    assert backend.last_id() == 2
    backend.append(Batch(3, [8], [b"5"], [["v"], ["v"]], 3))
    assert list(backend.items(Query()).bodies) == [b"1", b"5", b"2"]
    assert list(backend.items(Query(((0, ("v",)),))).bodies) == [b"1", b"5"]
    assert list(backend.replay(Query(((1, ("v",)),)), 0).ids) == [2, 3]
    assert backend.count(Query(((0, ("v",)),))) == 2
    assert backend.count(Query(((0, ("v",)),), since=0, until=9)) == 1
