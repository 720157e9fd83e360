"""How the values of settings are written, as text and in TOML."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from zstream import times
from zstream.endpoints import normalize
from zstream.errors import ConfigError
from zstream.keys import check_keys
from zstream.limits import MAX_INTEGER

_SIZE = re.compile(r"(\d{1,15}) ?(?:([KMGT])(?:iB)?|B)?", re.ASCII | re.IGNORECASE)
_BITS = {"T": 40, "G": 30, "M": 20, "K": 10}
_COUNT = re.compile(r"(\d+(?:_\d+)*) ?events?", re.ASCII)
_FOREVER = "forever"
_LEAST_LONG_US = 15 * 24 * 3600 * 1_000_000
_SWITCHES = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
_TOML_NAMES = {
    str: "text", int: "a whole number", bool: "true or false", list: "a list",
    float: "a float", dict: "a table",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of a setting is written.

    Attributes:
        metavar: What help calls it.
        toml: The types that a TOML file may give.
        parse: Turns text, a TOML value or an already parsed value into the setting's value;
            raises ConfigError.
        show: The TOML literal of a value.
    """

    metavar: str
    toml: tuple[type, ...]
    parse: Callable[[Any], Any]
    show: Callable[[Any], str] = json.dumps

    def check_toml(self, value: object) -> None:
        """Refuse a TOML value of another type than this kind takes, with ConfigError."""
        if type(value) not in self.toml:
            wanted = " or ".join(_TOML_NAMES[each] for each in self.toml)
            found = _TOML_NAMES.get(type(value), f"a {type(value).__name__}")
            raise ConfigError(f"takes {wanted}, not {found}")


@dataclass(frozen=True, slots=True)
class Keep:
    """What a store keeps: what both of these allow.

    Attributes:
        age_us: Only what arrived in the last so many microseconds; None is any age.
        events: Only so many of the newest; None is any number.
    """

    age_us: int | None = None
    events: int | None = None
    text: str = field(default=_FOREVER, compare=False)

    def __str__(self) -> str:
        return self.text


def whole(low: int, high: int) -> Kind:
    """A whole number in a range, both ends included."""

    def parse(value: int | str) -> int:
        number = int(value) if isinstance(value, str) and _is_number(value) else value
        if type(number) is not int or not low <= number <= high:
            raise ConfigError(f"{value!r} is not a whole number from {low} to {high}")
        return number

    return Kind("NUMBER", (int,), parse, lambda value: f"{value:_}")


def size(low: int, high: int) -> Kind:
    """A number of bytes in a range: 67108864, 64MiB, 64M."""

    def parse(value: int | str) -> int:
        number = _size_number(value) if isinstance(value, str) else value
        if type(number) is not int or not low <= number <= high:
            raise ConfigError(
                f"{value!r} is not a size from {_size_text(low)} to {_size_text(high)}; "
                "write a number of bytes, or one with KiB, MiB, GiB or TiB"
            )
        return number

    return Kind("SIZE", (int, str), parse, lambda value: json.dumps(_size_text(value)))


def choice(*words: str) -> Kind:
    """One of these words, in any case."""

    def parse(value: str) -> str:
        if value.lower() not in words:
            raise ConfigError(f"{value!r} is not one of {', '.join(words)}")
        return value.lower()

    return Kind("|".join(words), (str,), parse)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(_\d+)*", text, re.ASCII) is not None and len(text) <= 20


def _size_number(text: str) -> int | None:
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) << _BITS.get((match[2] or "").upper(), 0) if match else None


def _size_text(value: int) -> str:
    for unit, bits in _BITS.items():
        if value and value % (1 << bits) == 0:
            return f"{value >> bits}{unit}iB"
    return str(value)


def _text(value: str) -> str:
    if not value or not value.isprintable():
        raise ConfigError(f"{value!r} is not printable text")
    return value


def _url(value: str) -> str:
    if not value.isprintable():  # it may hold a password, so it is not shown
        raise ConfigError("the URL has characters that cannot be printed, such as a line break")
    if ":" not in value:
        raise ConfigError(f"{value!r} is no store URL; for a file write sqlite:///{value}")
    return value


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"a key is text, not {name!r}")
    return check_keys(names)


def _keep(value: str | Keep) -> Keep:
    if isinstance(value, Keep):
        return value
    found: dict[str, int] = {}
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        name, number = _keep_part(part)
        if name in found or (number is None and len(parts) > 1):
            raise ConfigError(f"{value!r} says one thing twice, or two that do not go together")
        if number is not None:
            found[name] = number
    return Keep(found.get("age_us"), found.get("events"), ", ".join(parts))


def _keep_part(text: str) -> tuple[str, int | None]:
    count, age = _COUNT.fullmatch(text), times.age(text)
    if text == _FOREVER:
        return "", None
    number = int(count[1]) if count else age
    if number is None:
        raise ConfigError(
            f"{text[:60]!r} is neither an age nor a number of events; write 30d (units s, m, h, d,"
            " w), 1_000_000 events, both as 30d, 1_000_000 events, or forever"
        )
    if not 1 <= number <= MAX_INTEGER:
        raise ConfigError(f"{text[:60]!r} is out of range; the least is 1 event or 1us")
    return "events" if count else "age_us", number


def _long(value: str | Keep) -> Keep:
    keep = _keep(value)
    if keep.events is not None or (keep.age_us is not None and keep.age_us < _LEAST_LONG_US):
        raise ConfigError(f"{str(value)[:60]!r} is no age of 15d or more, nor forever")
    return keep


def _switch(value: bool | str) -> bool:
    wanted = value if isinstance(value, bool) else _SWITCHES.get(value.lower())
    if wanted is None:
        raise ConfigError(f"{value!r} is neither true nor false")
    return wanted


def _endpoint(value: str) -> str:
    return normalize(value, bind=True)


URL: Final = Kind("URL", (str,), _url)
PATH: Final = Kind("PATH", (str,), _text)
NAMES: Final = Kind("NAMES", (str, list), _names, lambda value: json.dumps(list(value)))
ENDPOINT: Final = Kind("ENDPOINT", (str,), _endpoint)
KEEP: Final = Kind("AGE|COUNT", (str,), _keep, lambda value: json.dumps(str(value)))
LONG: Final = Kind("AGE", (str,), _long, lambda value: json.dumps(str(value)))
SWITCH: Final = Kind("true|false", (bool,), _switch)
