"""Keys, index values and filters: which event belongs to which slice.

A key is a top-level or dotted field. Its index value is text, so ``291`` and ``"291"`` are the
same; a list gives several. Everything here is pure and is the only place that knows the rules.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from zstream.errors import BadFilter, ConfigError
from zstream.limits import MAX_FILTER_VALUES, MAX_KEYS, MAX_LIST_VALUES, MAX_TEXT_BYTES

#: What one event has under one key: nothing, one text, or several.
Value = str | tuple[str, ...] | None
#: A filter in normal form: key positions, rising, and the texts that will do, sorted.
#: Every key must match, any of its texts does; no texts match nothing.
Filter = tuple[tuple[int, tuple[str, ...]], ...]

_SHORT = MAX_TEXT_BYTES // 4  # so many characters fit whatever they are


def index_text(value: object) -> str | None:
    """Turn a scalar into its index value.

    Returns:
        The text, or None for what is not indexed: null, maps, lists, bytes, floats that are not
        finite, text over 255 UTF-8 bytes or with a NUL.
    """
    if type(value) is str:
        text = value
    elif value is True:
        return "true"
    elif value is False:
        return "false"
    elif isinstance(value, int):
        text = int.__repr__(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            return None
        text = str(int(value)) if value == int(value) else float.__repr__(value)
    elif isinstance(value, str):
        text = str.__str__(value)
    else:
        return None
    if len(text) > _SHORT and (
        len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES
    ):
        return None
    return None if "\0" in text else text


def index_value(value: object) -> Value:
    """Turn a field's value into its index value: a list gives each of its first 64 scalars."""
    if type(value) is not list:
        return index_text(value)
    texts: dict[str, None] = {}
    for item in value:
        text = index_text(item)
        if text is not None:
            texts[text] = None
            if len(texts) == MAX_LIST_VALUES:
                break
    if len(texts) <= 1:
        return next(iter(texts), None)
    return tuple(texts)


def getter(key: str) -> Callable[[Mapping[str, Any]], object]:
    """Make the function that finds a key's field in an event.

    A literal field of that name, even if null, wins over the dotted path; paths do not enter
    lists.
    """
    if "." not in key:
        return lambda event: event.get(key)
    path = key.split(".")
    missing = object()

    def find(event: Mapping[str, Any]) -> object:
        found: Any = event.get(key, missing)
        if found is not missing:
            return found
        found = event
        for name in path:
            if not isinstance(found, dict):
                return None
            found = found.get(name)
        return found

    return find


def check_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Check a declaration of keys.

    Raises:
        ConfigError: A name is empty, too long, given twice or not printable; or too many.
    """
    names = tuple(keys)
    for name in names:
        if not name or len(name) > 255 or not name.isprintable() or "," in name:
            raise ConfigError(f"{name!r} cannot be a key: it needs 1 to 255 printable characters")
        if any(part == "" for part in name.split(".")):
            raise ConfigError(f"{name!r} cannot be a key: a dotted path has no empty part")
        if names.count(name) > 1:
            raise ConfigError(f"the key {name!r} is declared twice")
    if not 1 <= len(names) <= MAX_KEYS:
        raise ConfigError(f"a store needs 1 to {MAX_KEYS} keys, not {len(names)}")
    return names


def normalize(filter: object, keys: Sequence[str]) -> Filter:
    """Check a filter and bring it into normal form.

    Args:
        filter: A map from key to a scalar or a list of scalars.
        keys: The store's keys, in their order.

    Raises:
        BadFilter: It is no map, names a key that is not indexed, or a value can match nothing
            by its type (null, bytes, a map, text over 255 bytes).
    """
    if not isinstance(filter, Mapping):
        raise BadFilter(f"a filter is a map of keys to values, not {type(filter).__name__}")
    terms = []
    for key, wanted in filter.items():
        if key not in keys:
            known = ", ".join(keys)
            raise BadFilter(f"{_show(key)} is not an indexed key; indexed are: {known}")
        values = wanted if isinstance(wanted, list | tuple) else (wanted,)
        if len(values) > MAX_FILTER_VALUES:
            raise BadFilter(f"{key}: {len(values)} values; at most {MAX_FILTER_VALUES} are taken")
        terms.append((keys.index(key), tuple(sorted({_filter_text(key, v) for v in values}))))
    return tuple(sorted(terms))


def _filter_text(key: str, value: object) -> str:
    text = index_text(value)
    if text is not None:
        return text
    if isinstance(value, str) and "\0" in value:
        why = "it has a NUL character"
    elif isinstance(value, float) and not math.isfinite(value):
        why = "it is not finite"
    elif isinstance(value, str | int | float):
        why = f"it is over {MAX_TEXT_BYTES} bytes as text"
    else:
        raise BadFilter(f"{key}: {_kind(value)} is never indexed, so it matches nothing")
    raise BadFilter(f"{key}: {_show(value)} matches nothing: {why}")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a map"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__


def _show(value: object) -> str:
    try:
        text = repr(value)
    except RecursionError:  # a decoder may well go deeper than repr does
        text = f"a deep {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
