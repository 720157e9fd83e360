"""How long after a burst has a tail that was overrun by it all of it?

Twice: the tail's process stands still (SIGSTOP) while the burst is committed; or only its reader
does, with the process awake. What is missed in the first way, a bare SUB tells that stood still
under a burst before; in the second the tail keeps `BACKLOG_BYTES` of what comes. Both bursts are
larger than that by the missed events that are asked for.
"""

import statistics
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection

from common import arguments, daemon, report, say
from filling import settle
from followers import following
from parts import Part, part, stopped
from producer import Producer, Watch, pushing, single_pool

from zstream import Client
from zstream.backlog import BACKLOG_BYTES
from zstream.testing import Server

#: Bytes of an event in a publication, less rather than more.
EVENT_BYTES = 100
STOPPED, PAUSED = "its process stood still", "its reader stood still"


def tailing(orders: Connection, url: str) -> None:
    """The life of a reader: (count, waits) -> "ready", then when it had so many events.

    If it waits, it reads nothing until it gets a further order.
    """
    while (order := orders.recv()) is not None:
        count, waits = order
        with Client(url, timeout=30) as client, client.tail({}) as tail:
            orders.send("ready")
            if waits:
                orders.recv()
            last = None
            for _ in range(count):
                id = next(tail).id
                if last is not None and id != last + 1:
                    raise RuntimeError(f"event {id} came behind event {last}")
                last = id
            orders.send(time.perf_counter())


class Burst:
    """A daemon, what pushes bursts into it, and a tail in a process of its own."""

    def __init__(self, stack: ExitStack, running: Server, pool: int) -> None:
        self.running = running
        self.producer: Producer = stack.enter_context(
            pushing(running.endpoints.insert, single_pool, pool)
        )
        self.watch = stack.enter_context(Watch(running.url))
        self.tail: Part = stack.enter_context(part(tailing, running.url))

    def commit(self, count: int) -> float:
        """Push so many; when the last was committed."""
        head = self.watch.look().head
        self.producer.push(count)
        end = self.watch.follow(head + count, every=0.002)[-1].at
        self.producer.pushed()
        return end

    def kept_for_bare_sub(self, count: int, most: int) -> int:
        """How many of a burst a SUB gets whose process stands still.

        Args:
            count: Of the burst, doubled as long as the SUB gets all.
            most: Of the largest burst to try.
        """
        with part(following, self.running.endpoints.publish) as bare:
            bare.tell("follow", [b"{}"])
            bare.hear()
            with stopped(bare.pid):
                self.commit(count)
            time.sleep(1)
            bare.tell("leave")
            received = int(bare.hear())
        settle(self.running.pid, count)
        if received == count < most:
            return self.kept_for_bare_sub(2 * count, most)
        return received

    def heal(self, count: int, way: str) -> float:
        """Overrun the tail; seconds from the burst's end until it had all."""
        self.tail.tell(count, way == PAUSED)
        self.tail.hear()
        if way == PAUSED:
            end = self.commit(count)
            self.tail.tell("go on")
        else:
            with stopped(self.tail.pid):
                end = self.commit(count)
        took = self.tail.hear() - end
        settle(self.running.pid, count)
        return float(took)


def main() -> None:
    options = arguments(
        __doc__, missed=(100_000, 2_000), probe=(400_000, 10_000), most=(3_200_000, 10_000),
        turns=(5, 1),
    )  # fmt: skip
    with ExitStack() as stack:
        running = stack.enter_context(daemon(options.store))
        burst = Burst(stack, running, min(options.probe, 500_000))
        kept = burst.kept_for_bare_sub(options.probe, options.most)
        say(f"a bare SUB that stands still gets {kept:,} events")
        sizes = {STOPPED: kept, PAUSED: BACKLOG_BYTES // EVENT_BYTES if not options.quick else 0}
        for way, fits in sizes.items():
            count = -(-(fits + options.missed) // 1_000) * 1_000
            heals = burst.watch("info")["heals"]
            took = [burst.heal(count, way) for _ in range(options.turns)]
            report(
                "heal", way=way, burst=count, missed=count - fits,
                median_s=round(statistics.median(took), 2), longest_s=round(max(took), 2),
                turns=[round(one, 2) for one in took], heals=burst.watch("info")["heals"] - heals,
                setting="SQLite, synchronous=FULL",
            )  # fmt: skip


if __name__ == "__main__":
    main()
