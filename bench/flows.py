"""Events that flow from a producer's process through a system to a reader's.

What is measured is either how long each event takes, or how many a second get through.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from common import events
from filling import settle
from parts import Part, number, part
from producer import packed
from streams import CHUNK, See, Starts, Stream, System, kinds, started

#: Seconds without anything new, after which a stream counts as broken.
STUCK_S = 20.0
#: Events that a producer packs before the clock starts, and repeats.
POOL = 20_000


def inserting(orders: Connection, kind: type[Stream], address: str) -> None:
    """The life of a producer of latency: (events, rate) -> the rate that it came to."""
    stream, sample = kind(address), events(10_000)
    while (order := orders.recv()) is not None:
        count, rate = order
        orders.send(stream.insert(sample[:count], rate))


def timing(orders: Connection, kind: type[Stream], address: str) -> None:
    """The life of a reader of latency: (events,) -> "ready", then the seconds that each took."""
    stream = kind(address)
    while (order := orders.recv()) is not None:
        took = list[float]()
        stream.read(False, lambda: orders.send("ready"), taking_times(order[0], took))
        orders.send(took)


def taking_times(count: int, took: list[float]) -> See:
    """Note how long each of so many events took."""
    clock = time.monotonic_ns

    def see(event: dict[str, Any]) -> bool:
        took.append((clock() - event["at"]) / 1e9)
        return len(took) >= count

    return see


def reading(orders: Connection, kind: type[Stream], address: str, seen: Any, total: Any) -> None:
    """The life of a reader of throughput: (from_oldest, seconds) -> "ready", then its marks.

    It reads until so many seconds passed, or as many events as ``total`` says, once that is not 0.
    The marks are the times at which it had another `CHUNK`, the first that at which it began.

    Args:
        seen, total: Shared numbers: how far it is, and how many there will be.
    """
    stream = kind(address)
    while (order := orders.recv()) is not None:
        from_oldest, seconds = order
        seen.value = 0
        marks = list[float]()

        def ready(marks: list[float] = marks) -> None:
            orders.send("ready")
            marks.append(time.perf_counter())

        stream.read(from_oldest, ready, metering(seen, total, seconds, marks))
        orders.send(marks)


def metering(seen: Any, total: Any, seconds: float, marks: list[float]) -> See:
    """Count events, and note the time at each `CHUNK`."""
    count, clock = 0, time.perf_counter

    def see(event: dict[str, Any]) -> bool:
        nonlocal count
        count += 1
        if count % CHUNK:
            return False
        marks.append(clock())
        seen.value = count
        return 0 < total.value <= count or marks[-1] > marks[0] + seconds

    return see


def pumping(orders: Connection, kind: type[Stream], address: str, seen: Any, total: Any) -> None:
    """The life of a producer of throughput.

    (seconds, window) sends for so long, with no more than the window (None: no bound) between what
    it sent and what the reader has seen; (None, events) sends so many. The answer is how many it
    sent.
    """
    stream = kind(address)
    chunks = stream.chunks(packed(POOL))
    orders.send("packed")
    while (order := orders.recv()) is not None:
        seconds, bound = order
        if seconds is None:
            for number in range(bound // CHUNK):
                stream.send(chunks[number % len(chunks)])
            orders.send(bound)
        else:
            orders.send(pump(stream, chunks, seconds, bound, seen, total))


def pump(
    stream: Stream, chunks: Sequence[Any], seconds: float, window: int | None, seen: Any, total: Any
) -> int:
    """Send for so many seconds; tell the total before the last chunk, and return it."""
    sent, end = 0, time.perf_counter() + seconds
    while True:
        is_last = time.perf_counter() > end
        if is_last:
            total.value = sent + CHUNK
        stream.send(chunks[sent // CHUNK % len(chunks)])
        sent += CHUNK
        if is_last:
            return sent
        if window is not None:
            wait_for(seen, sent - window)


def wait_for(seen: Any, count: int) -> None:
    """Wait until the reader has seen so many.

    Raises:
        TimeoutError: It sees nothing new.
    """
    last, changed = seen.value, time.perf_counter()
    while (now := seen.value) < count:
        if now != last:
            last, changed = now, time.perf_counter()
        elif time.perf_counter() - changed > STUCK_S:
            raise TimeoutError(f"the reader stands at {now:,}, {count:,} were sent")
        time.sleep(0.0002)


class Flow(NamedTuple):
    """A producer and a reader of one system, and the numbers that they share."""

    system: System
    who: str
    producer: Part
    reader: Part
    seen: Any
    total: Any

    def live(self, seconds: float, window: int | None) -> list[float]:
        """Let it flow for so long; the reader's marks, once it has all that was sent."""
        self.total.value = 0
        self.reader.tell(False, float("inf"))
        self.reader.hear()
        self.producer.tell(seconds, window)
        sent = self.producer.hear()
        marks: list[float] = self.reader.hear()
        if (len(marks) - 1) * CHUNK != sent:
            raise RuntimeError(f"{self.who}: {sent:,} were sent, {len(marks) - 1} thousand read")
        if self.system.server is not None:  # what it owes its index must not disturb the next
            settle(self.system.server.pid, sent)
        return marks

    def replay(self, seconds: float, count: int) -> list[float]:
        """Read from the oldest event, so many or for so long; the reader's marks."""
        self.total.value = count
        self.reader.tell(True, seconds)
        self.reader.hear()
        return list(self.reader.hear())


@contextmanager
def flow(system: System, who: str, kind: type[Stream]) -> Iterator[Flow]:
    """Start a producer and a reader, once the producer's messages are packed."""
    seen, total = number(), number()
    given = (kind, system.address, seen, total)
    with part(pumping, *given) as producer, part(reading, *given) as reader:
        producer.hear()
        yield Flow(system, who, producer, reader, seen, total)


def flows(stack: ExitStack, bench: str, starts: Starts) -> list[Flow]:
    """Start systems, and for each of them what writes and reads it."""
    found = list[Flow]()
    for system in started(stack, bench, starts):
        for name, kind in kinds(system).items():
            found.append(stack.enter_context(flow(system, system.who + name, kind)))
    return found


def rate_of(marks: Sequence[float], first: int = 1) -> float:
    """Events a second between two marks: from the first (or another) to the last."""
    return (len(marks) - 1 - first) * CHUNK / (marks[-1] - marks[first])
