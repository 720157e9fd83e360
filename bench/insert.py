"""How many events a second, one a message, are committed and can be queried?

One producer pushes single events through a raw PUSH, for slice after slice; between the slices
PostgreSQL stores as many of the same events by COPY, so that the machine's moods hit both.
"""

import gc
import time
from contextlib import ExitStack

import zmq
from common import arguments, daemon, events, report, say
from filling import cpu_seconds, settle
from postgres_peer import COPY_ROWS, Table, rows_of
from producer import Producer, Watch, longest_stop, packed, pushing, single_pool
from servers import Absent, postgres

from zstream.testing import Server


def ceiling(count: int, pool: int) -> None:
    """What a bare PULL takes in that does nothing with it: what the transport can do."""
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    endpoint = f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}"
    with pushing(endpoint, single_pool, pool) as producer:
        producer.push(count)
        recv, began = pull.recv, time.perf_counter()
        for _ in range(count):
            recv()
        took = time.perf_counter() - began
        producer.pushed()
    context.destroy(0)
    report(
        "insert", who="PULL only", events=count, per_s=round(count / took), transport=endpoint,
        setting="nothing is stored",
    )  # fmt: skip


class Zstream:
    """A daemon that takes slices."""

    def __init__(self, running: Server, producer: Producer, watch: Watch) -> None:
        self.running, self.producer, self.watch = running, producer, watch
        self.took, self.settled, self.cpu = 0.0, 0.0, 0.0
        self.stops, self.rates = list[float](), list[int]()

    def slice(self, count: int) -> None:
        """Push so many, wait until all are committed, and then until the daemon is idle."""
        head, cpu = self.watch.look().head, cpu_seconds(self.running.pid)
        began = time.perf_counter()
        self.producer.push(count)
        seen = self.watch.follow(head + count)
        took = seen[-1].at - began
        self.producer.pushed()
        self.took += took
        self.settled += settle(self.running.pid, count)
        self.cpu += cpu_seconds(self.running.pid) - cpu
        self.rates.append(round(count / took))
        self.stops.append(longest_stop(seen[1:]))


def main() -> None:
    options = arguments(__doc__, events=(5_000_000, 20_000), slices=(5, 2), pool=(1_000_000, 5_000))
    size = options.events // options.slices
    ceiling(min(options.events, 1_000_000), options.pool)
    with ExitStack() as stack:
        running = stack.enter_context(daemon(options.store))
        producer = stack.enter_context(pushing(running.endpoints.insert, single_pool, options.pool))
        watch = stack.enter_context(Watch(running.url))
        zstream, table, rates, setting = Zstream(running, producer, watch), None, list[int](), ""
        try:
            peer = stack.enter_context(postgres())
            table, setting = Table(peer.address), peer.setting
            pool = rows_of(events(options.pool), packed(options.pool))
            gc.freeze()
        except Absent as absent:
            report("insert", who="postgres copy", absent=str(absent))
        for number in range(options.slices):
            zstream.slice(size)
            say(f"slice {number + 1}: zstream {zstream.rates[-1]:,}/s")
            if table is not None:
                rates.append(round(size / table.copy(pool, size)))
                say(f"slice {number + 1}: PostgreSQL COPY {rates[-1]:,}/s")
        tell(zstream, size, table, rates, setting)


def tell(zstream: Zstream, size: int, table: Table | None, rates: list[int], setting: str) -> None:
    """Check that all is there, and report both."""
    count = size * len(zstream.rates)
    stored = zstream.watch.look().head
    if stored != count:
        raise RuntimeError(f"{count:,} events were pushed, the head is {stored:,}")
    mean = count / zstream.took
    figures = {}
    if table is not None:
        if table.count() != count:
            raise RuntimeError(f"PostgreSQL has {table.count():,} of {count:,} rows")
        copied = len(rates) / sum(1 / rate for rate in rates)
        report(
            "insert", who="postgres copy", events=count, per_s=round(copied), slices=rates,
            batch=COPY_ROWS, setting=setting,
        )  # fmt: skip
        figures = {"to_postgres": round(mean / copied, 2)}
        table.close()
    report(
        "insert", who="zstream", events=count, per_s=round(mean), slices=zstream.rates, **figures,
        longest_stop_s=round(max(zstream.stops), 3), cpu_s=round(zstream.cpu, 1),
        settled_per_s=round(count / (zstream.took + zstream.settled)),
        store=zstream.running.store.partition(":")[0], transport=zstream.running.endpoints.insert,
        setting="SQLite, synchronous=FULL",
    )  # fmt: skip


if __name__ == "__main__":
    main()
