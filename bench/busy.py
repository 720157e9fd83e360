"""How long do a query and a page of replay take while events come in as fast as they can?

On a store of ten million events, which grows by what is pushed meanwhile: run it last.
"""

import random
import time
from collections.abc import Callable

from common import USERS, arguments, quantiles, report
from filling import filled
from producer import Ask, Producer, Watch, pushing, single_pool

from zstream import Client


class Newest:
    """Asks for the newest thousand by replay, as a follower does that has fallen behind."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._head = int(ask("ping")["head"])

    def __call__(self) -> None:
        self._head = int(self._ask("replay", after=self._head - 1_000)["head"])


def while_pushing(
    producer: Producer, ask: Callable[[], object], seconds: float, size: int
) -> list[float]:
    """Ask again and again while a producer pushes without a pause; the seconds of each answer."""
    took = list[float]()
    producer.push(size)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if not producer.is_pushing():
            producer.pushed()
            producer.push(size)
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    producer.pushed()
    return took


def main() -> None:
    options = arguments(
        __doc__, events=(10_000_000, 20_000), seconds=(10, 0), slice=(200_000, 5_000)
    )
    chance = random.Random(4)
    with (
        filled(options.folder, options.events) as (running, _),
        pushing(running.endpoints.insert, single_pool, min(options.events, 500_000)) as producer,
        Watch(running.url) as watch,
        Client(running.url, timeout=30) as client,
        Ask(running.url) as ask,
    ):
        queries: dict[str, Callable[[], object]] = {
            "one value": lambda: client.items(user=chance.randrange(USERS)),
            "1,000 values": lambda: client.items(user=chance.sample(range(USERS), 1_000)),
            "replay of 1,000": lambda: ask(
                "replay", after=chance.randrange(options.events - 1_000)
            ),
            "replay of the newest 1,000": Newest(ask),
        }
        for name, query in queries.items():
            query()
            before, began = watch.look().head, time.perf_counter()
            took = while_pushing(producer, query, options.seconds or 0.3, options.slice)
            stored = watch.look().head - before
            report(
                "busy", events=options.events, query=name, asked=len(took), **quantiles(took),
                longest_ms=round(max(took) * 1e3, 1),
                meanwhile_per_s=round(stored / (time.perf_counter() - began)),
            )  # fmt: skip


if __name__ == "__main__":
    main()
