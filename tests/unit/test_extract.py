"""Index values of stored events: those that they got, or would have got, when they came."""

import msgpack

from zstreamd.extract import extract
from zstreamd.validate import Validator

KEYS = ("kind", "a.b", "tags", "none")


def test_it_is_what_admission_finds() -> None:
    events = [
        {"kind": f"k{n}", "a": {"b": n / 2}, "tags": [n, "x", None] if n % 2 else "y"}
        for n in range(1_234)
    ]
    bodies = [msgpack.packb(event) for event in events]
    columns = extract(bodies, KEYS)
    assert columns == Validator(KEYS).admit(bodies, 0).columns
    assert [column[3] for column in columns] == ["k3", "1.5", ("3", "x"), None]
    assert extract([], KEYS) == [[], [], [], []]


def test_what_would_not_be_taken_today_has_no_value() -> None:
    good = msgpack.packb({"kind": "x"})
    bad = msgpack.packb({"kind": "y", "n": float("nan")})
    assert extract([good, bad, good, b"\xc1", good], ["kind"]) == [["x", None, "x", None, "x"]]
