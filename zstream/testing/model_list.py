"""The plain list that judges a store. It knows the rules by itself: nothing here calls zstream."""

import math
from dataclasses import dataclass, field
from typing import Any


def text_of(value: Any) -> str | None:
    """The index value of a scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return None
        value = str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str) and len(value.encode()) <= 255 and chr(0) not in value:
        return value
    return None


def texts_of(event: dict[str, Any], key: str) -> set[str]:
    """What an event can be found by under a key."""
    if key in event:
        value = event[key]
    elif key == "deep.x" and isinstance(event.get("deep"), dict):
        value = event["deep"].get("x")
    else:
        value = None
    values = value if isinstance(value, list) else [value]
    return {text for text in map(text_of, values) if text is not None}


def wanted_by(wanted: dict[str, Any], event: dict[str, Any]) -> bool:
    """Whether an event belongs to the slice of a filter."""
    for key, values in wanted.items():
        texts = {text_of(v) for v in (values if isinstance(values, list) else [values])}
        if not texts & texts_of(event, key):
            return False
    return True


@dataclass
class Stored:
    """An event of the list."""

    id: int
    ts: int
    event: dict[str, Any]
    body: bytes

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the order of ``items``."""
        return (self.ts, self.id)


@dataclass
class Model:
    """All events that are to be found, and the last id that was given."""

    events: list[Stored] = field(default_factory=list)
    last: int = 0

    def slice(self, wanted: dict[str, Any], since: int | None, until: int | None) -> list[Stored]:
        """The events of a slice, in the order of their ids."""
        return [
            stored
            for stored in self.events
            if wanted_by(wanted, stored.event)
            and (since is None or stored.ts >= since)
            and (until is None or stored.ts < until)
        ]

    def trim(self, floor: int) -> int:
        """Forget events up to an id; how many those were."""
        before = len(self.events)
        self.events = [stored for stored in self.events if stored.id > floor]
        return before - len(self.events)
