"""How long does a daemon on ten million events take from its start to the ready line?

After a clean stop, after a kill in peace, and after a kill while events came in, which leaves work.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from common import arguments, report, say
from filling import filled
from producer import Ask, Producer, Watch, pushing, single_pool

from zstream.testing import Server


def kill_while_inserting(running: Server, producer: Producer, count: int) -> None:
    """Push so many, and kill the daemon when it has committed half of them."""
    with Watch(running.url) as watch:
        head = watch.look().head
        producer.push(count)
        watch.follow(head + count // 2)
    running.kill()


class Start(NamedTuple):
    """Seconds from a start to the ready line, and to the first answer to a query."""

    ready: float
    answer: float


def started(running: Server, end: Callable[[], object], times: int) -> list[Start]:
    """End a daemon and start it again, so many times."""
    took = list[Start]()
    for number in range(times):
        end()
        began = time.perf_counter()
        running.start()
        ready = time.perf_counter() - began
        with Ask(running.url) as ask:
            ask("items", filter={"user": number}, limit=20)
        took.append(Start(ready, time.perf_counter() - began))
    return took


def main() -> None:
    options = arguments(__doc__, events=(10_000_000, 20_000), times=(5, 1), pushed=(400_000, 4_000))
    with filled(options.folder, options.events) as (running, _):
        took = {
            "stopped": started(running, lambda: running.stop(timeout=60), options.times),
            "killed in peace": started(running, running.kill, options.times),
        }
        with pushing(running.endpoints.insert, single_pool, options.pushed) as producer:
            found = took["killed while inserting"] = []
            for _ in range(options.times):
                found += started(
                    running, lambda: kill_while_inserting(running, producer, options.pushed), 1
                )
                producer.pushed()
    for after, starts in took.items():
        ready, answer = zip(*starts, strict=True)
        say(f"{after}: {[round(each, 2) for each in ready]} s")
        report(
            "start", events=options.events, after=after, times=len(starts),
            median_s=round(statistics.median(ready), 3), longest_s=round(max(ready), 3),
            first_answer_s=round(statistics.median(answer), 3),
        )  # fmt: skip


if __name__ == "__main__":
    main()
