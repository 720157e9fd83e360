"""Topics: the filter is the topic, as JSON text, byte for byte as it was subscribed."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from zstream import wire
from zstream.errors import BadFilter, TooLarge
from zstream.keys import Filter
from zstream.limits import MAX_REGISTERED_BYTES, MAX_TOPIC_BYTES


def encode(filter: Mapping[str, Any]) -> bytes:
    """The topic of a filter: its JSON text, compact, keys sorted.

    Raises:
        BadFilter: The filter cannot be said in JSON.
    """
    try:
        return json.dumps(
            filter, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError) as error:
        raise BadFilter(f"the filter cannot be followed: {error}") from error


def decode(topic: bytes) -> dict[str, Any]:
    """Read the filter that a topic stands for.

    Raises:
        BadFilter: It is not the JSON text of one object, or names a key twice.
        TooLarge: It is over 4 KiB.
    """
    if len(topic) > MAX_TOPIC_BYTES:
        raise TooLarge(f"a topic has at most {MAX_TOPIC_BYTES} bytes, not {len(topic)}")
    if not topic:
        raise BadFilter("the empty topic receives everything; subscribe to {} instead")
    if topic[:1] != b"{" or topic[-1:] != b"}":
        raise BadFilter("a topic is the JSON object of a filter, with nothing around it")
    try:
        return read(topic.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadFilter(f"the topic is not UTF-8: {error}") from error


def read(text: str) -> dict[str, Any]:
    """Read the JSON text of a filter, of any length.

    Raises:
        BadFilter: It is not the JSON text of one object, or names a key twice.
    """
    try:
        filter = json.loads(text, object_pairs_hook=wire.unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadFilter(f"the topic is not the JSON object of a filter: {error}") from error
    if not isinstance(filter, dict):
        raise BadFilter("a topic is the JSON object of a filter")
    return filter


def canonical(filter: Filter, keys: Sequence[str]) -> str:
    """The one text that a filter has, however it was written; its hash names it.

    JSON without blanks: the keys in the order of their UTF-8 bytes, each with an array of its
    index values, each once and in that order. Of the characters only ``"``, ``\\`` and those
    below U+0020 are escaped: as ``\\b \\f \\n \\r \\t`` where there is such, else as
    ``\\u`` and four digits.

    Args:
        filter: In normal form, see `zstream.keys`.
        keys: The store's keys.

    Raises:
        TooLarge: It is over 1 MiB.
    """
    terms = {keys[place]: texts for place, texts in filter}
    text = json.dumps(terms, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    size = len(text.encode())
    if size > MAX_REGISTERED_BYTES:
        raise TooLarge(
            f"the filter is {size} bytes as text; at most {MAX_REGISTERED_BYTES} can be registered"
        )
    return text


def name_of(text: str) -> bytes:
    """The hash that names a registered filter, of its canonical text: 16 bytes."""
    return sha256(text.encode()).digest()[:16]


def of_registered(name: bytes) -> bytes:
    """The topic of a registered filter, by its hash."""
    return b"#" + name.hex().encode()


def hash_of(topic: bytes) -> bytes:
    """The hash that the topic of a registered filter, ``#`` and 32 digits, names."""
    return bytes.fromhex(topic[1:].decode())


def of_producer(producer: bytes) -> bytes:
    """The topic under which a producer's confirmations come."""
    return b"@" + producer.hex().encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
