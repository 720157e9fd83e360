"""How does a feed, the newest 20 events of 1,000 users, compare with PostgreSQL's and UmaDB's?

All hold the same events and are asked the same in turns: zstream and PostgreSQL at ten million
events, and with UmaDB at one million, which it reaches in half a minute.
"""

import gc
import random
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any, NamedTuple

from common import REPOS, USERS, arguments, events, quantiles, report, say, timed
from filling import SPAN_US, filled
from postgres_peer import Table, rows_of
from producer import packed
from servers import Absent, Peer, library, postgres, umadb

from zstream import Client


class Slice(NamedTuple):
    """A key and the values that are wanted."""

    key: str
    values: list[int]


Ask = Callable[[Slice], object]

LATERAL = """
SELECT newest.* FROM unnest(%s::text[]) AS wanted(value) CROSS JOIN LATERAL (
    SELECT id, ts, body FROM e WHERE "{key}" = wanted.value ORDER BY ts DESC LIMIT 20
) AS newest ORDER BY ts DESC LIMIT 20"""
ANY = 'SELECT id, ts, body FROM e WHERE "{key}" = ANY(%s) ORDER BY ts DESC LIMIT 20'


class Contest:
    """Systems that hold so many events, asked the same questions in turns."""

    def __init__(self, count: int, queries: int, bench: str = "feed") -> None:
        chance, asked = random.Random(6), range(queries)
        self.count, self.bench = count, bench
        self.queries = {
            "one value": [Slice("user", [chance.randrange(USERS)]) for _ in asked],
            "1,000 values": [Slice("user", chance.sample(range(USERS), 1_000)) for _ in asked],
            "1,000 values of a sparser key": [
                Slice("repo", chance.sample(range(REPOS), 1_000)) for _ in asked
            ],
        }
        self.asks: dict[str, Ask] = {}
        self.settings: dict[str, str] = {}

    def add(self, who: str, setting: str, ask: Ask) -> None:
        self.asks[who], self.settings[who] = ask, setting

    def run(self, turn: int = 10) -> None:
        """Ask them all and report."""
        for name, asked in self.queries.items():
            took: dict[str, list[float]] = {
                who: timed(ask, asked[:3]) for who, ask in self.asks.items()
            }
            took = {who: [] for who in took}
            for first in range(0, len(asked), turn):
                for who, ask in self.asks.items():
                    took[who] += timed(ask, asked[first : first + turn])
            for who, found in took.items():
                figures = quantiles(found)
                say(f"{self.count:,} events, {name}, {who}: {figures['p50_ms']} ms")
                report(
                    self.bench, events=self.count, query=name, who=who, queries=len(found),
                    **figures, setting=self.settings[who],
                )  # fmt: skip


def add_zstream(contest: Contest, stack: ExitStack, folder: Any) -> None:
    running, _ = stack.enter_context(filled(folder, contest.count))
    client = stack.enter_context(Client(running.url, timeout=30))
    contest.add(
        "zstream", "SQLite, synchronous=FULL", lambda slice: client.items({slice.key: slice.values})
    )


def add_postgres(contest: Contest, peer: Peer, pool: list[Any]) -> Table:
    """Fill PostgreSQL as fast as it can be, and add its two queries."""
    say(f"filling PostgreSQL with {contest.count:,} events …")
    table = Table(peer.address, indexed=False)
    table.copy(pool, contest.count, step=SPAN_US // contest.count)
    table.index()
    table.run("VACUUM (ANALYZE) e")
    # A generic plan takes an array for ten values and scans by the wrong index.
    table.run("SET plan_cache_mode = force_custom_plan")

    def asking(statement: str) -> Ask:
        def ask(slice: Slice) -> object:
            values = [str(value) for value in slice.values]
            return table.run(statement.format(key=slice.key), (values,)).fetchall()

        return ask

    contest.add("PostgreSQL, lateral join", peer.setting, asking(LATERAL))
    contest.add("PostgreSQL, = ANY", peer.setting, asking(ANY))
    return table


def also_by_time(contest: Contest, table: Table, peer: Peer) -> None:
    """Give PostgreSQL one more index, of ts alone, and ask it by that one only."""
    table.run("CREATE INDEX ON e (ts)")
    table.run("ANALYZE e")
    more = Contest(contest.count, len(contest.queries["one value"]))
    asks = {"PostgreSQL, = ANY, with a further index on ts": contest.asks["PostgreSQL, = ANY"]}
    more.asks, more.settings = asks, dict.fromkeys(asks, peer.setting)
    more.run()


def add_umadb(contest: Contest, stack: ExitStack, sample: list[Any], bodies: list[bytes]) -> None:
    module, peer = library("umadb"), stack.enter_context(umadb())
    client = module.Client(peer.address)
    say(f"filling UmaDB with {contest.count:,} events …")
    endless = cycle(zip(sample, bodies, strict=True))
    for _ in range(0, contest.count, 1_000):
        client.append(
            [
                module.Event(
                    event_type=event["kind"], data=body,
                    tags=[f"user:{event['user']}", f"repo:{event['repo']}"],
                )
                for event, body in islice(endless, 1_000)
            ]
        )  # fmt: skip

    def ask(slice: Slice) -> object:
        tags = [f"{slice.key}:{value}" for value in slice.values]
        query = module.Query(items=[module.QueryItem(tags=[tag]) for tag in tags])
        return list(client.read(query=query, backwards=True, limit=20))

    contest.add("UmaDB", peer.setting, ask)


def main() -> None:
    options = arguments(
        __doc__, events=(10_000_000, 20_000), small=(1_000_000, 20_000), queries=(200, 5)
    )
    sample = events(min(options.events, 1_000_000))
    bodies = packed(len(sample))
    pool = rows_of(sample, bodies)
    gc.freeze()
    for count in sorted({options.small, options.events}):
        with ExitStack() as stack:
            contest, table, peer = Contest(count, options.queries), None, None
            add_zstream(contest, stack, options.folder)
            try:
                peer = stack.enter_context(postgres())
                table = add_postgres(contest, peer, pool)
            except Absent as absent:
                report("feed", who="PostgreSQL", absent=str(absent))
            if count == options.small:
                try:
                    add_umadb(contest, stack, sample, bodies)
                except Absent as absent:
                    report("feed", who="UmaDB", absent=str(absent))
            contest.run()
            if table is not None and peer is not None:
                also_by_time(contest, table, peer)
                table.close()


if __name__ == "__main__":
    main()
