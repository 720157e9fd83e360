"""Topics: the filter is the topic, as JSON text, byte for byte as it was subscribed."""

import json
from collections.abc import Mapping
from typing import Any

from zstream import wire
from zstream.errors import BadFilter, TooLarge
from zstream.limits import MAX_TOPIC_BYTES


def encode(filter: Mapping[str, Any]) -> bytes:
    """The topic of a filter: its JSON text, compact, keys sorted.

    Raises:
        BadFilter: The filter cannot be said in JSON, or is over 4 KiB of it.
    """
    try:
        text = json.dumps(
            filter, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError) as error:
        raise BadFilter(f"the filter cannot be followed: {error}") from error
    if len(text) > MAX_TOPIC_BYTES:
        raise BadFilter(
            f"the filter is {len(text)} bytes as text; at most {MAX_TOPIC_BYTES} can be followed"
        )
    return text


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
        filter = json.loads(
            topic.decode("utf-8"), object_pairs_hook=wire.unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise BadFilter(f"the topic is not the JSON object of a filter: {error}") from error
    if not isinstance(filter, dict):
        raise BadFilter("a topic is the JSON object of a filter")
    return filter


def of_producer(producer: bytes) -> bytes:
    """The topic under which a producer's confirmations come."""
    return b"@" + producer.hex().encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
