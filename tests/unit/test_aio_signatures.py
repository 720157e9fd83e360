"""The two clients: the same names, arguments and results, but for the awaiting."""

import inspect
import typing
from collections.abc import AsyncIterable, Iterable
from typing import Any

import pytest

from zstream import Client, Tail
from zstream.aio import AsyncClient, AsyncTail
from zstream.packing import Fields

PAIRS = [(Client, AsyncClient), (Tail, AsyncTail)]

#: Of a class, and what it is called where it is awaited.
SPECIAL = {
    "__enter__": "__aenter__", "__exit__": "__aexit__",
    "__iter__": "__aiter__", "__next__": "__anext__",
}  # fmt: skip
#: What an asynchronous client takes besides.
WIDER = {("insert_many", "events"): Iterable[Fields] | AsyncIterable[Fields]}
#: What only one of them has: contextlib.aclosing asks for that name.
MORE = {"aclose"}


def names(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")} | (SPECIAL.keys() & vars(cls))


def methods() -> list[Any]:
    return [
        pytest.param(sync, other, name, id=f"{other.__name__}.{name}")
        for sync, other in PAIRS
        for name in sorted(names(sync))
        if inspect.isfunction(getattr(sync, name))
    ]


def awaited(annotation: object) -> object:
    return {Client: AsyncClient, Tail: AsyncTail}.get(annotation, annotation)  # type: ignore[call-overload]


def shape(function: Any) -> tuple[list[Any], dict[str, Any]]:
    """Its parameters without their annotations, and those by themselves."""
    parameters = inspect.signature(function).parameters.values()
    return [each.replace(annotation=None) for each in parameters], typing.get_type_hints(function)


def check(function: Any, other: Any) -> None:
    parameters, hints = shape(function)
    expected = {name: awaited(hint) for name, hint in hints.items()}
    expected |= {name: wide for (method, name), wide in WIDER.items() if method == other.__name__}
    assert shape(other) == (parameters, expected)


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_they_have_the_same_names(sync: type, other: type) -> None:
    own = {name for name in vars(other) if name.startswith("__a")}
    there = {name for name in dir(other) if not name.startswith("_")} | own
    assert there - MORE == {SPECIAL.get(name, name) for name in names(sync)}


def test_they_are_made_alike_and_have_the_same_attributes() -> None:
    check(Client.__init__, AsyncClient.__init__)
    one, two = Client("tcp://127.0.0.1:1"), AsyncClient("tcp://127.0.0.1:1")
    public = [
        {name: value for name, value in vars(each).items() if not name.startswith("_")}
        for each in (one, two)
    ]
    assert public[0] == public[1] == {"url": "tcp://127.0.0.1:1"}
    one.close()


@pytest.mark.parametrize(("sync", "other", "name"), methods())
def test_methods_are_alike_and_awaited(sync: type, other: type, name: str) -> None:
    function, twin = getattr(sync, name), getattr(other, SPECIAL.get(name, name))
    if twin is function:
        assert name == "after_fork"  # it is called by a hook that cannot await
        return
    check(function, twin)
    assert inspect.iscoroutinefunction(twin) is (name != "__iter__")
    assert inspect.getdoc(twin) or name in SPECIAL
    overloads, twins = typing.get_overloads(function), typing.get_overloads(twin)
    assert len(overloads) == len(twins)
    for each, its_twin in zip(overloads, twins, strict=True):
        check(each, its_twin)
        assert inspect.iscoroutinefunction(its_twin)


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_properties_are_alike_and_not_awaited(sync: type, other: type) -> None:
    for name in names(sync):
        if isinstance(each := getattr(sync, name), property):
            twin = getattr(other, name)
            assert isinstance(twin, property)
            assert typing.get_type_hints(each.fget) == typing.get_type_hints(twin.fget)
