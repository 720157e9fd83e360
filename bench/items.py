"""How long does a query take at ten million events, in order and with 1 % that came late?

Round trips through `Client.items`, 20 events each. The two stores are asked in turns.
"""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from common import USERS, arguments, quantiles, report, say, timed
from filling import BOT, LATE_SHARE, filled, memory
from producer import Ask

from zstream import Client

Filter = dict[str, Any]
#: How many pages an empty intersection is walked for.
PAGES = 2_000


def questions(asked: int) -> dict[str, list[Filter]]:
    """For each kind of query, what to ask."""
    chance, users = random.Random(2), range(USERS)
    return {
        "one value": [{"user": chance.choice(users)} for _ in range(asked)],
        "two keys": [{"user": chance.choice(users), "kind": "friend"} for _ in range(asked)],
        "10 values": [{"user": chance.sample(users, 10)} for _ in range(asked)],
        "1,000 values": [{"user": chance.sample(users, 1_000)} for _ in range(asked)],
        "everything": [{} for _ in range(asked)],
        "30 events, nine tenths of the store ago": [{"user": "lost"}] * max(5, asked // 10),
        "one event, nine tenths of the store ago": [{"user": "once"}] * max(5, asked // 10),
        "a value that is nowhere": [{"user": "nobody"}] * max(5, asked // 10),
    }


def in_turns(
    clients: Sequence[Client], filters: Sequence[Filter], turn: int = 25
) -> list[list[float]]:
    """Ask each client the same, some questions at a time; the seconds of each client."""
    took: list[list[float]] = [[] for _ in clients]
    for client in clients:
        timed(client.items, filters[:5])
    for first in range(0, len(filters), turn):
        for client, found in zip(clients, took, strict=True):
            found += timed(client.items, filters[first : first + turn])
    return took


def empty_intersection(url: str) -> dict[str, Any]:
    """Ask for what two dense values have in common: nothing. Page by page, to the end."""
    took, events, token = list[float](), 0, None
    with Ask(url) as ask:
        while len(took) < PAGES:
            began = time.perf_counter()
            page = ask("items", filter={"kind": "friend", "user": BOT}, before=token, limit=20)
            took.append(time.perf_counter() - began)
            events += len(page["events"])
            if (token := page["next"]) is None:
                break
    if events:
        raise RuntimeError(f"the intersection was to be empty and has {events} events")
    return {
        "pages": len(took),
        "to_the_end": token is None,
        "first_ms": round(took[0] * 1e3, 2),
        "longest_ms": round(max(took) * 1e3, 2),
        "all_ms": round(sum(took) * 1e3, 1),
    }


def main() -> None:
    options = arguments(__doc__, events=(10_000_000, 20_000), queries=(500, 20), late=(1, 0))
    stores = {"in order": False, f"{LATE_SHARE:.0%} late": True}
    if not options.late:
        del stores[f"{LATE_SHARE:.0%} late"]
    with ExitStack() as stack:
        clients, daemons = [], {}
        for name, late in stores.items():
            running, _ = stack.enter_context(filled(options.folder, options.events, late=late))
            clients.append(stack.enter_context(Client(running.url, timeout=30)))
            daemons[name] = running
        for name, filters in questions(options.queries).items():
            took = in_turns(clients, filters)
            for store, found in zip(stores, took, strict=True):
                figures = quantiles(found)
                say(f"{name}, {store}: {figures['p50_ms']} ms")
                report("items", events=options.events, order=store, query=name, **figures)
        for store, running in daemons.items():
            report(
                "items", events=options.events, order=store, query="empty intersection",
                **empty_intersection(running.url),
            )  # fmt: skip
            weight = memory(running.pid)
            report("items", events=options.events, order=store, memory="afterwards", **weight)


if __name__ == "__main__":
    main()
