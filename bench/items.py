"""How long does a query take, for one value and for a feed of 1,000 values?"""

import random
import time
from collections.abc import Callable
from typing import Any

from common import arguments, daemon, events, quantiles, report

from zstream import Client


def timed(queries: list[dict[str, Any]], ask: Callable[..., Any]) -> dict[str, float]:
    """Ask each once, warm; the quantiles of the round trips."""
    took = []
    for query in queries:
        began = time.perf_counter()
        ask(query)
        took.append(time.perf_counter() - began)
    return quantiles(took)


def main() -> None:
    options = arguments(__doc__, events=300_000, queries=500)
    count, asked = (5_000, 20) if options.quick else (options.events, options.queries)
    chance = random.Random(2)
    with daemon(options.store) as running, Client(running.url, on_full="block") as client:
        sample = events(min(count, 100_000))
        for _ in range(count // len(sample)):
            client.insert_many(sample)
        client.flush(300)
        users = range(100_000)
        queries = {
            "one value": [{"user": chance.choice(users)} for _ in range(asked)],
            "two keys": [{"user": chance.choice(users), "kind": "friend"} for _ in range(asked)],
            "10 values": [{"user": chance.sample(users, 10)} for _ in range(asked)],
            "1,000 values": [{"user": chance.sample(users, 1_000)} for _ in range(asked)],
            "everything": [{} for _ in range(asked)],
        }
        for name, filters in queries.items():
            timed(filters[:5], client.items)
            figures = timed(filters, client.items)
            report("items", store=options.store, events=count, query=name, **figures)


if __name__ == "__main__":
    main()
