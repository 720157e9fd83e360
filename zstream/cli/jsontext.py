"""Events as JSON text and back, without loss.

JSON has no bytes, so a value of bytes is written ``{"$bytes": "<base64>"}``. A map that an event
really has in that form gets one more ``$`` in front of its only key, which reading takes off
again: whatever was written reads back equal.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

#: The only key of a map that stands for bytes, or for a map that could be mistaken for one.
_MARK: Final = re.compile(r"\$+bytes")
#: What JSON leaves as it is although terminals and line readers act on it.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029]")
_HUGE: Final = float("inf")


class BadLine(ValueError):
    """A line that gives no event.

    Attributes:
        reason: The sort of trouble, the same for all such lines.
        detail: What is wrong in this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


# ---------------------------------------------------------------- values to text


def _bytes_form(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_bytes_form
).encode


def encode(value: object) -> str:
    """Write a value as one line of JSON, in plain UTF-8 without control characters.

    Args:
        value: What an event may hold: None, booleans, numbers, text, bytes, lists and maps.
    """
    text = _encode(value)
    if '$bytes":' in text:
        text = _encode(_marked(value))
    if not text.isascii() or "\x7f" in text:
        return _UNSAFE.sub(_escaped, text)
    return text


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _marked(value: Any) -> Any:
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if _MARK.fullmatch(key):
            return {"$" + key: _marked(item)}
    return {key: _marked(item) for key, item in value.items()}


# ---------------------------------------------------------------- text to values


def decode(text: str) -> Any:
    """Read one JSON value, as strictly as events are.

    Raises:
        BadLine: It is not JSON; a key stands twice in one object; a number is NaN, infinite or
            too large to be read; or ``$bytes`` is not base64.
    """
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        raise BadLine("not JSON", f"{error.msg} at column {error.pos + 1}") from None
    except RecursionError:
        raise BadLine("not an event", "nested too deeply") from None
    except BadLine:
        raise
    except ValueError as error:  # an integer of over 4,300 digits
        raise BadLine("a number out of range", str(error).partition(";")[0]) from None


def decode_line(line: bytes) -> Any:
    """Read one JSON value from a line of UTF-8; BadLine if it is not one."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte, at = line[error.start], error.start + 1
        raise BadLine("not UTF-8", f"byte 0x{byte:02x} at column {at}") from None
    return decode(text)


def decode_event(line: bytes) -> dict[str, Any]:
    """Read the JSON object of a line; BadLine if it is something else."""
    value = decode_line(line)
    if type(value) is dict:
        return value
    hint = "; if the file is one JSON array, `jq -c '.[]'` makes lines of it"
    raise BadLine("not an object", kind(value) + (hint if isinstance(value, list) else ""))


def kind(value: object) -> str:
    """Name the JSON type of a value, as in "a list"."""
    names: Mapping[type, str] = {
        dict: "an object", list: "a list", str: "a text", bytes: "bytes", bool: "a boolean",
        int: "a number", float: "a number",
    }  # fmt: skip
    return names.get(type(value), "null")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise BadLine("a key stands twice", repr(twice)[:80])
    if len(pairs) == 1 and pairs[0][0][:1] == "$" and _MARK.fullmatch(pairs[0][0]):
        key, value = pairs[0]
        return {key[1:]: value} if key != "$bytes" else _bytes(value)
    return result


def _bytes(value: object) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    detail = 'an object that really has just this key is written {"$$bytes": ...}'
    raise BadLine("$bytes is not base64", detail)


def _float(text: str) -> float:
    value = float(text)
    if value in (_HUGE, -_HUGE):
        raise BadLine("a number out of range", text[:40])
    return value


def _constant(name: str) -> Any:
    raise BadLine("a number out of range", f"{name} is not JSON")


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
).decode
