"""How many events a second does one producer get onto the disk, and what does it cost it?"""

import statistics
import time

from common import arguments, daemon, events, report

from zstream import Client


def main() -> None:
    options = arguments(__doc__, events=300_000)
    count = 5_000 if options.quick else options.events
    sample = events(10_000)
    with daemon(options.store) as running, Client(running.url, on_full="block") as client:
        client.insert_many(sample[:1_000])
        client.flush(30)
        insert, began = client.insert, time.perf_counter()
        for place in range(count):
            insert(sample[place % len(sample)])
        queued = time.perf_counter() - began
        client.flush(300)
        stored = time.perf_counter() - began
        costs = []
        for event in sample:
            start = time.perf_counter_ns()
            insert(event)
            costs.append(time.perf_counter_ns() - start)
        client.flush(60)
    report(
        "insert",
        store=options.store,
        events=count,
        stored_per_s=round(count / stored),
        queued_per_s=round(count / queued),
        caller_us_median=round(statistics.median(costs) / 1e3, 2),
    )


if __name__ == "__main__":
    main()
