"""How long after an insert does a live follower have the event, committed and synced?"""

import time

from common import arguments, daemon, events, quantiles, report

from zstream import Client


def main() -> None:
    options = arguments(__doc__, events=3_000, rate=500)
    count = 100 if options.quick else options.events
    took = []
    with (
        daemon(options.store) as running,
        Client(running.url) as producer,
        Client(running.url) as consumer,
        consumer.tail({}) as tail,
    ):
        due = time.perf_counter()
        for event in events(count):
            due += 1 / options.rate
            time.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            producer.insert(event)
            tail.get(timeout=10)
            took.append(time.perf_counter() - began)
    report("tail", store=options.store, events=count, rate=options.rate, **quantiles(took))


if __name__ == "__main__":
    main()
