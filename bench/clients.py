"""How many events a second get through `Client.insert`, and what does a call cost its caller?

The rate is that of two producer processes together, from the first call to the flush of the last.
"""

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

from common import arguments, daemon, events, report
from producer import Watch

from zstream import Client


def produce(url: str, count: int, seed: int, orders: Connection) -> None:
    """The life of a producer's process: insert so many, flush, tell how long each part took."""
    sample = events(min(count, 200_000), seed)
    with Client(url, on_full="block") as client:
        client.ping()
        orders.send("ready")
        orders.recv()
        insert, began = client.insert, time.perf_counter()
        for place in range(count):
            insert(sample[place % len(sample)])
        queued = time.perf_counter() - began
        client.flush(300)
        orders.send((queued, time.perf_counter() - began))


def together(url: str, processes: int, count: int) -> tuple[float, float]:
    """Let several producers insert at once.

    Returns:
        Seconds until the last had queued, and until the last was flushed.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(processes):
        here, there = spawn.Pipe()
        given = (url, count, number + 1, there)
        spawn.Process(target=produce, args=given, daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    queued = max(pipe.recv()[0] for pipe in pipes)
    return queued, time.perf_counter() - began


def cost(url: str, count: int) -> list[float]:
    """What a call of insert takes, in µs, with pauses that let the client send."""
    costs, clock = [], time.perf_counter_ns
    with Client(url) as client:
        client.ping()
        sample = events(1_000)
        for _ in range(max(1, count // len(sample))):
            for event in sample:
                began = clock()
                client.insert(event)
                costs.append((clock() - began) / 1e3)
            client.flush(60)
    return costs


def main() -> None:
    options = arguments(__doc__, events=(3_000_000, 10_000), processes=2, calls=(50_000, 2_000))
    with daemon(options.store) as running:
        for processes in sorted({1, options.processes}):
            each = options.events // processes
            with Watch(running.url) as watch:
                before = watch.look().head
                queued, took = together(running.url, processes, each)
                stored = watch.look().head - before
            if stored != each * processes:
                raise RuntimeError(f"{each * processes:,} were inserted, {stored:,} are stored")
            report(
                "clients", store=options.store, processes=processes, events=stored,
                per_s=round(stored / took), queued_s=round(queued, 2),
                stored_s=round(took, 2), setting="SQLite, synchronous=FULL",
            )  # fmt: skip
        costs = cost(running.url, options.calls)
        report(
            "clients", question="cost of a call", store=options.store, calls=len(costs),
            median_us=round(statistics.median(costs), 2),
            p99_us=round(sorted(costs)[int(len(costs) * 0.99)], 2),
        )  # fmt: skip


if __name__ == "__main__":
    main()
