"""The events that the clients under fault insert, and what a follower of them must get.

Every event says who inserted it (p) and as its how-many-eth (n), and all else in it follows from
these two: whoever reads one can tell whether it is as it was.
"""

import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Event = dict[str, Any]
Filter = dict[str, Any]
#: Id, p, n of a stored event.
Row = tuple[int, int, int]

KEYS: Final = ("kind", "user", "p")
#: The p of those that tell followers where the end is; they match all of `FILTERS`.
END: Final = 1_000_000
#: The p whose every 50,000th event is as large as can be, and the others tiny.
HUGE: Final = 2_000_000
#: The p whose events all have 100 KB that nothing makes smaller.
FILLER: Final = 3_000_000
#: The p whose events can be told from all others by their bytes.
MARKED: Final = 4_000_000
#: When an insert returned, by the monotonic clock in ns, and its n.
RETURNED: Final = struct.Struct(">QQ")
#: Everything, one value, many values of one key and some of another.
FILTERS: Final[dict[str, Filter]] = {
    "everything": {},
    "one": {"kind": "watch"},
    "many": {"user": [*range(0, 40, 3), "nobody"], "kind": ["watch", "fork"]},
    # Too long for a topic of its own: it is registered.
    "long": {"user": [*range(25), *range(100_000, 100_400)]},
}

_KINDS: Final = ("friend", "watch", "fork", "push", "star")
_LARGE: Final = "0123456789abcdef" * 6_400


def make_event(p: int, n: int) -> Event:
    """The n-th event of p: most are tiny, one in a thousand has 100 KB."""
    if p == END:
        return {"p": p, "n": n, "kind": "watch", "user": 0}
    if p == HUGE:
        event = {"p": p, "n": n, "kind": "watch", "user": n % 50}
        if n % 50_000 == 25_000:
            event["text"] = "x" * ((1 << 20) - 42)
        return event
    if p == MARKED:
        return {"p": p, "n": n, "kind": f"mark-{n:08}", "user": 0}
    if p == FILLER:
        text = random.Random(n).randbytes(50_000).hex()
        return {"p": p, "n": n, "kind": "push", "user": 0, "text": text}
    draw = (p * 40_503 + n * 2_654_435_761) % (1 << 32)
    event = {"p": p, "n": n, "kind": _KINDS[draw % 5], "user": draw // 5 % 50}
    chance = draw // 250 % 1_000
    if chance == 0:
        event["text"] = _LARGE
    elif chance < 20:
        event["text"] = _LARGE[: 1_000 + draw % 7_000]
    elif chance < 500:
        event["text"] = _LARGE[: draw % 200]
    return event


def matches(filter: Filter, p: int, n: int) -> bool:
    """Whether the filter wants this event; by hand, for `FILTERS` and their like."""
    event = make_event(p, n)
    return all(
        event[key] in values if isinstance(values, list) else event[key] == values
        for key, values in filter.items()
    )


def wanted(filter: Filter, rows: Iterable[Row]) -> list[Row]:
    """Those of the rows that the filter wants."""
    return [row for row in rows if matches(filter, row[1], row[2])]


def check_store(rows: Sequence[Row], expected: Mapping[int, Sequence[int]]) -> None:
    """Check that of each p these numbers are stored: each once, in the order of their inserts.

    Args:
        rows: All that is stored, by id.
        expected: For each p what it inserted.
    """
    found: dict[int, list[int]] = {p: [] for p in expected}
    for _, p, n in rows:
        found.setdefault(p, []).append(n)
    for p, numbers in found.items():
        check_numbers(f"of {p}", numbers, expected.get(p, ()))


def check_numbers(whose: str, numbers: Sequence[int], expected: Sequence[int]) -> None:
    """Check that these are the numbers, in this order; say what is wrong if not."""
    if list(numbers) == list(expected):
        return
    there = set(numbers)
    lost = [n for n in expected if n not in there]
    extra = sorted(there.difference(expected))
    twice = len(numbers) - len(there)
    at = next((i for i, (a, b) in enumerate(zip(numbers, expected, strict=False)) if a != b), -1)
    raise AssertionError(
        f"{whose}: {len(lost)} lost {lost[:8]}, {len(extra)} too many {extra[:8]}, {twice} twice;"
        f" {len(numbers)} instead of {len(expected)}; the first difference at {at}: got"
        f" {list(numbers[max(0, at - 2) : at + 4])}, not {list(expected[max(0, at - 2) : at + 4])}"
    )


def check_tail(name: str, got: Sequence[Row], rows: Sequence[Row]) -> None:
    """Check that a follower got these rows, each once and in their order."""
    if list(got) == list(rows):
        return
    check_numbers(f"tail {name}, ids", [row[0] for row in got], [row[0] for row in rows])
    wrong = [(a, b) for a, b in zip(got, rows, strict=True) if a != b]
    raise AssertionError(f"tail {name}: {len(wrong)} events under other ids: {wrong[:5]}")
