"""Which topics a commit concerns: an inverted index over the filters that are followed.

What an event costs here does not grow with the filters that it does not match.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, count

from zstream.keys import Filter, Value


class Topic:
    """One live filter and where its chain stands.

    Attributes:
        name: The bytes that were subscribed to.
        last: Its followers were told everything up to this id.
        greet, greeted: Whether a HELLO is due, and when the last one was, in seconds.
        due, entry: When something is due, and when the timer looks at it, in seconds.
        slot: Which of the times between two beats is its own.
        place, texts: The key that it is indexed under, and the values; -1 and none for everything.
        others: What must match beside that key.
    """

    __slots__ = (
        "due", "entry", "greet", "greeted", "last", "name", "others", "place", "slot", "texts",
    )  # fmt: skip

    def __init__(self, name: bytes, head: int, slot: int) -> None:
        self.name = name
        self.last = head
        self.slot = slot
        self.greeted = float("-inf")
        self.greet = True
        self.due = self.entry = float("inf")
        self.place = -1
        self.texts: tuple[str, ...] = ()
        self.others: tuple[tuple[int, frozenset[str]], ...] = ()


#: Who waits for one value: mostly one topic, which needs no dict of its own.
_Waiting = Topic | dict[Topic, None]


class Index:
    """The topics by the values that they wait for.

    Args:
        keys: How many keys the store has.
    """

    def __init__(self, keys: int) -> None:
        self._everything: dict[Topic, None] = {}
        self._waiting: list[dict[str, _Waiting]] = [{} for _ in range(keys)]

    def add(self, topic: Topic, filter: Filter) -> None:
        """Index a topic under its most telling key: where the fewest others wait."""
        if not filter:
            self._everything[topic] = None
            return
        (topic.place, topic.texts), *others = sorted(filter, key=self._crowd)
        topic.others = tuple((place, frozenset(texts)) for place, texts in others)
        waiting = self._waiting[topic.place]
        for text in topic.texts:
            there = waiting.get(text)
            if there is None:
                waiting[text] = topic
            elif type(there) is dict:
                there[topic] = None
            else:
                assert isinstance(there, Topic)
                waiting[text] = {there: None, topic: None}

    def remove(self, topic: Topic) -> None:
        """Forget a topic."""
        self._everything.pop(topic, None)
        for text in topic.texts:
            waiting = self._waiting[topic.place]
            there = waiting[text]
            if isinstance(there, dict):
                del there[topic]
                if there:
                    continue
            del waiting[text]

    def _crowd(self, term: tuple[int, tuple[str, ...]]) -> int:
        place, texts = term
        waiting = self._waiting[place]
        found = [there for text in texts if (there := waiting.get(text)) is not None]
        return len(texts) + sum(len(there) if isinstance(there, dict) else 1 for there in found)

    def concerned(
        self, columns: Sequence[Sequence[Value]], size: int
    ) -> Iterator[tuple[Topic, Sequence[int]]]:
        """Find the topics that some rows concern, each with its rows in their order.

        Args:
            columns: For each key, each row's value.
            size: How many rows there are.
        """
        for topic in self._everything:
            yield topic, range(size)
        for waiting, column in zip(self._waiting, columns, strict=True):
            if not waiting:
                continue
            found: dict[Topic, list[list[int]]] = {}
            for text, rows in _rows_with(waiting, column).items():
                there = waiting[text]
                for topic in there if isinstance(there, dict) else (there,):
                    if not topic.others:
                        found.setdefault(topic, []).append(rows)
                    elif matching := _others_match(topic.others, columns, rows):
                        found.setdefault(topic, []).append(matching)
            for topic, parts in found.items():
                # A row with several values may be in several parts.
                yield topic, parts[0] if len(parts) == 1 else sorted(set(chain(*parts)))


def _rows_with(waiting: dict[str, _Waiting], column: Sequence[Value]) -> dict[str, list[int]]:
    """The rows of a column by their values, as far as somebody waits for these."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    if tuple not in set(map(type, column)):
        for row in compress(count(), map(waiting.__contains__, column)):
            found[column[row]].append(row)  # type: ignore[index]  # what is in there is text
        return found
    for row, value in enumerate(column):
        if isinstance(value, tuple):
            for text in value:
                if text in waiting:
                    found[text].append(row)
        elif value is not None and value in waiting:
            found[value].append(row)
    return found


def _others_match(
    others: Sequence[tuple[int, frozenset[str]]],
    columns: Sequence[Sequence[Value]],
    rows: Iterable[int],
) -> list[int]:
    """Those of the rows that match all these terms, too."""
    for place, texts in others:
        column = columns[place]
        rows = [row for row in rows if _matches(column[row], texts)]
    return list(rows)


def _matches(value: Value, texts: frozenset[str]) -> bool:
    return not texts.isdisjoint(value) if type(value) is tuple else value in texts
