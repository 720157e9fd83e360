from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream import keys
from zstream.errors import BadFilter, ConfigError
from zstream.limits import MAX_FILTER_VALUES, MAX_KEYS, MAX_LIST_VALUES


class Name(StrEnum):
    A = "a"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""), ("a", "a"), (" a ", " a "), ("291", "291"), (291, "291"), (-7, "-7"), (0, "0"),
        (2**64 - 1, "18446744073709551615"), (-(2**63), "-9223372036854775808"),
        (True, "true"), (False, "false"), ("true", "true"), ("True", "True"),
        (1.0, "1"), (-0.0, "0"), (2.5, "2.5"), (-2.5, "-2.5"), (1e22, "10000000000000000000000"),
        (1e-7, "1e-07"), (0.1, "0.1"), (2.0**53, "9007199254740992"),
        (Name.A, "a"), (Number.ONE, "1"), ("x" * 255, "x" * 255), ("é" * 127, "é" * 127),
        ("\U0001f600" * 63, "\U0001f600" * 63), ("\n", "\n"), ("\ufeff", "\ufeff"),
    ],
)  # fmt: skip
def test_scalars_become_text(value: object, text: str) -> None:
    assert keys.index_text(value) == text
    assert keys.index_value(value) == text


@pytest.mark.parametrize(
    "value",
    [None, b"", b"a", {}, {"a": 1}, (), ("a",), float("nan"), float("inf"), -float("inf"), 1e300,
     "x" * 256, "é" * 128, "\U0001f600" * 64, "a\0", "\0", object()],
)  # fmt: skip
def test_what_is_not_indexed(value: object) -> None:
    assert keys.index_text(value) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], None),
        ([None, b"", {}], None),
        (["a"], "a"),
        (["a", None, "a"], "a"),
        ([1, "1", 1.0, True], ("1", "true")),
        (["b", "a", ["c"], "b"], ("b", "a")),
    ],
)
def test_a_list_gives_each_of_its_scalars(value: object, expected: object) -> None:
    assert keys.index_value(value) == expected


def test_a_list_gives_no_more_than_its_first_64() -> None:
    found = keys.index_value([None, *range(100), *range(100)])
    assert found == tuple(str(n) for n in range(MAX_LIST_VALUES))


@given(st.one_of(st.integers(-(2**63), 2**64 - 1), st.booleans(), st.text(max_size=300)))
def test_a_text_stands_for_itself(value: object) -> None:
    text = keys.index_text(value)
    if text is None:
        assert isinstance(value, str)
        assert "\0" in value or len(value.encode("utf-8", "surrogatepass")) > 255
    else:
        assert keys.index_text(text) == text


@given(st.floats())
def test_a_float_is_the_integer_that_it_equals(value: float) -> None:
    text = keys.index_text(value)
    if text is not None:
        assert float(text) == value
        if value == int(value):
            assert text == keys.index_text(int(value))


@pytest.mark.parametrize(
    ("key", "event", "expected"),
    [
        ("a", {"a": 1}, 1),
        ("a", {}, None),
        ("a.b", {"a": {"b": 2}}, 2),
        ("a.b", {"a.b": 3, "a": {"b": 2}}, 3),
        ("a.b", {"a.b": None, "a": {"b": 2}}, None),
        ("a.b", {"a": [{"b": 2}]}, None),
        ("a.b", {"a": "b"}, None),
        ("a.b", {"a": None}, None),
        ("a.b.c", {"a": {"b": {"c": [1]}}}, [1]),
        ("a.b.c", {"a": {"b.c": 4}}, None),
        ("a.b.c", {"a.b": {"c": 4}}, None),
    ],
)
def test_where_a_key_is_found(key: str, event: dict[str, Any], expected: object) -> None:
    assert keys.getter(key)(event) == expected


@pytest.mark.parametrize(
    "names", [["a"], ["a.b", "a"], ["ключ", "x y", 'q"'], [f"k{n}" for n in range(MAX_KEYS)]]
)
def test_keys_that_may_be_declared(names: list[str]) -> None:
    assert keys.check_keys(names) == tuple(names)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "1 to 64 keys, not 0"),
        ([f"k{n}" for n in range(MAX_KEYS + 1)], "not 65"),
        ([""], "cannot be a key"),
        (["a\n"], "printable"),
        (["a,b"], "cannot be a key"),
        (["x" * 256], "1 to 255"),
        ([".a"], "no empty part"),
        (["a..b"], "no empty part"),
        (["a."], "no empty part"),
        (["a", "b", "a"], "'a' is declared twice"),
    ],
)
def test_keys_that_may_not_be_declared(names: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        keys.check_keys(names)


def test_the_normal_form_of_a_filter() -> None:
    names = ("kind", "user", "a.b")
    assert keys.normalize({}, names) == ()
    assert keys.normalize({"user": []}, names) == ((1, ()),)
    assert keys.normalize({"a.b": 1.0, "kind": ["b", "a", "b"]}, names) == (
        (0, ("a", "b")),
        (2, ("1",)),
    )
    assert keys.normalize({"user": (23, "23", True)}, names) == ((1, ("23", "true")),)
    many = list(range(MAX_FILTER_VALUES))
    assert len(keys.normalize({"user": many}, names)[0][1]) == MAX_FILTER_VALUES


@pytest.mark.parametrize(
    ("filter", "why"),
    [
        (None, "a map of keys to values, not NoneType"),
        ([], "not list"),
        ("kind=a", "not str"),
        ({"repo": 1}, "'repo' is not an indexed key; indexed are: kind, user"),
        ({1: 1}, "1 is not an indexed key"),
        ({"k" * 99: 1}, r"\.\.\. is not an indexed key"),
        ({"kind": None}, "kind: null is never indexed, so it matches nothing"),
        ({"kind": [None]}, "null is never indexed"),
        ({"kind": {"a": 1}}, "kind: a map is never indexed"),
        ({"kind": [["a"]]}, "kind: a list is never indexed"),
        ({"kind": b"a"}, "bytes is never indexed"),
        ({"kind": "a\0"}, "NUL"),
        ({"kind": "x" * 256}, "over 255 bytes"),
        ({"kind": 1e300}, "over 255 bytes"),
        ({"kind": float("nan")}, "not finite"),
        ({"kind": list(range(MAX_FILTER_VALUES + 1))}, "10001 values; at most 10000"),
    ],
)
def test_what_is_no_filter(filter: object, why: str) -> None:
    with pytest.raises(BadFilter, match=why):
        keys.normalize(filter, ("kind", "user"))
