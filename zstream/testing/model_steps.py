"""Random histories of a store, made by Hypothesis: what is appended, and what is asked then."""

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

#: The keys of the store, one of them a path.
KEYS: Final = ("k", "u", "deep.x")

scalars = st.sampled_from(
    ["a", "b", "", "1", 1, 1.0, -1, True, "true", False, 0, -0.0, "0", "-0", 2.5, "2.5", 1e22,
     2**63, "é", "A", "a b", '["a","b"]', '"', "é" * 127]
)  # fmt: skip
unindexed = st.sampled_from(
    [None, b"a", {"x": "a"}, "x" * 256, "a\0b", float("inf"), 1e300, "é" * 128]
)
values = st.one_of(
    scalars, scalars, unindexed, st.lists(st.one_of(scalars, unindexed, st.just(["a"])), max_size=4)
)
events = st.fixed_dictionaries(
    {},
    optional={
        "k": values,
        "u": values,
        "deep": st.one_of(st.fixed_dictionaries({}, optional={"x": values}), scalars),
        "deep.x": values,
    },
)
times = st.integers(0, 12)
rows = st.tuples(times, events, st.binary(max_size=12))
#: What is appended at once.
batches = st.lists(rows, max_size=12)
# Beyond 64 values the stores take other ways to find a page.
UNKNOWN = [f"unknown {n}" for n in range(70)]
several = st.lists(scalars, max_size=5)
filters = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(scalars, several, several.map(lambda values: [*values, *UNKNOWN])),
    max_size=3,
)
bounds = st.none() | times


@dataclass(frozen=True)
class Walk:
    """Reads a slice from page to page; after each page one of ``late`` comes in."""

    filter: dict[str, Any]
    since: int | None
    until: int | None
    before: tuple[int, int] | None
    offset: int
    limit: int
    max_bytes: int
    late: list[Any]


walks = st.builds(
    Walk, filters, bounds, bounds, st.none() | st.tuples(times, st.integers(0, 60)),
    st.integers(0, 20), st.integers(1, 9), st.integers(1, 60),
    st.lists(st.lists(rows, min_size=1, max_size=3), max_size=3),
)  # fmt: skip


@dataclass(frozen=True)
class Replayed:
    """Replays a slice to its end."""

    filter: dict[str, Any]
    after: int
    limit: int
    max_bytes: int


replays = st.builds(Replayed, filters, st.integers(0, 60), st.integers(1, 9), st.integers(1, 60))


@dataclass(frozen=True)
class Counted:
    """Counts a slice."""

    filter: dict[str, Any]
    since: int | None
    until: int | None


counts = st.builds(Counted, filters, bounds, bounds)
trims = st.integers(0, 60)
#: A history: batches (lists), reads, floors to trim to (numbers), and words for the rest.
steps = st.lists(
    st.one_of(
        batches,
        batches,
        walks,
        walks,
        replays,
        counts,
        trims,
        st.sampled_from(["reopen", "tidy", "settle"]),
    ),
    min_size=1,
    max_size=15,
)
