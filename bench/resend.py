"""How much of a raw PUSH's rate is left to `Client.insert`, which numbers, keeps and confirms?

In turns, as many processes of each: clients that insert one event after the other; clients that do
so into a spool; and raw PUSHes of batches as large as a client's, packed before the clock starts,
without a number. All goes into one store, and its committed head ends the clock. Then: what does a
call cost its caller, without a spool and with one?
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import zmq
from common import arguments, daemon, events, report, say
from filling import cpu_seconds, settle
from parts import Part, part
from producer import Watch, packed, plain_arrays

from zstream import Client
from zstream.limits import BATCH_EVENTS
from zstream.testing import Server

RAW, CLIENT, SPOOL = "raw PUSH of batches", "`Client.insert`", "`Client.insert` into a spool"
SAMPLE = 50_000


def pushing(orders: Connection, endpoint: str, seed: int) -> None:
    """The life of a raw producer: (events,) -> nothing but that it has sent them."""
    batches = plain_arrays(packed(SAMPLE, seed), BATCH_EVENTS)
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.linger = 60_000
    socket.connect(endpoint)
    orders.send("packed")
    while (order := orders.recv()) is not None:
        for number in range(order[0] // BATCH_EVENTS):
            socket.send(batches[number % len(batches)])
        orders.send("sent")
    context.destroy()


def inserting(orders: Connection, url: str, seed: int, spool: str | None) -> None:
    """The life of a client: (events,) -> it inserts and flushes; (calls, "cost") -> their µs."""
    sample = events(SAMPLE, seed)
    with Client(url, on_full="block", spool=spool) as client:
        client.ping()
        orders.send("packed")
        while (order := orders.recv()) is not None:
            if order[1:] == ("cost",):
                orders.send(cost(client, order[0]))
                continue
            insert = client.insert
            for place in range(order[0]):
                insert(sample[place % SAMPLE])
            client.flush(300)
            orders.send("flushed")


def cost(client: Client, count: int) -> list[float]:
    """What a call of insert takes, in µs, with pauses that let the client send."""
    costs, clock, sample = list[float](), time.perf_counter_ns, events(1_000)
    for _ in range(max(1, count // len(sample))):
        for event in sample:
            began = clock()
            client.insert(event)
            costs.append((clock() - began) / 1e3)
        client.flush(60)
    return costs


class Producers:
    """Some processes of one kind.

    Attributes:
        rates: Events a second that they came to together, turn by turn.
        own_s, daemon_s: Seconds of the processors that they and the daemon used meanwhile.
    """

    def __init__(
        self, stack: ExitStack, work: Callable[..., None], *given: tuple[object, ...]
    ) -> None:
        self.parts: list[Part] = [stack.enter_context(part(work, *each)) for each in given]
        self.rates = list[float]()
        self.own_s = self.daemon_s = 0.0
        for each in self.parts:
            each.hear()

    def turn(self, running: Server, watch: Watch, each: int) -> None:
        """Let each store so many, and then the daemon come to rest."""
        head, count = watch.look().head, each * len(self.parts)
        own, other, began = self._used_s(), cpu_seconds(running.pid), time.perf_counter()
        for one in self.parts:
            one.tell(each)
        seen = watch.follow(head + count)
        self.rates.append(count / (seen[-1].at - began))
        self.daemon_s += cpu_seconds(running.pid) - other
        for one in self.parts:
            one.hear()
        self.own_s += self._used_s() - own
        if (stored := watch.look().head - head) != count:
            raise RuntimeError(f"{count:,} were sent, {stored:,} are stored")
        settle(running.pid, count)

    def _used_s(self) -> float:
        return sum(cpu_seconds(one.pid) for one in self.parts)


def compare(running: Server, processes: int, each: int, turns: int, folder: Path) -> None:
    """Let so many processes of each kind store in turns; report the rates and their ratios."""
    seeds = range(1, processes + 1)
    with ExitStack() as stack:
        watch = stack.enter_context(Watch(running.url))
        ways = {
            RAW: Producers(stack, pushing, *((running.endpoints.insert, n) for n in seeds)),
            CLIENT: Producers(stack, inserting, *((running.url, n, None) for n in seeds)),
            SPOOL: Producers(stack, inserting, *((running.url, n, str(folder)) for n in seeds)),
        }
        for number in range(turns):
            for way in ways.values():
                way.turn(running, watch, each)
            say(f"{processes} processes: turn {number + 1} of {turns} is done")
    rates = {who: statistics.harmonic_mean(way.rates) for who, way in ways.items()}
    for who, rate in rates.items():
        stored, way = each * processes * turns, ways[who]
        report(
            "resend", who=who, processes=processes, events=stored, per_s=round(rate),
            turns=[round(one) for one in way.rates], to_raw=round(rate / rates[RAW], 2),
            own_us=round(way.own_s / stored * 1e6, 2),
            daemon_us=round(way.daemon_s / stored * 1e6, 2), setting="SQLite, synchronous=FULL",
        )  # fmt: skip


def costs(running: Server, calls: int, folder: Path) -> None:
    """Report what a call costs without a spool and with one."""
    with ExitStack() as stack:
        for who, spool in ((CLIENT, None), (SPOOL, str(folder))):
            one = stack.enter_context(part(inserting, running.url, 1, spool))
            one.hear()
            one.tell(calls, "cost")
            took = sorted(one.hear())
            report(
                "resend", who=who, question="cost of a call", calls=len(took),
                median_us=round(statistics.median(took), 2),
                p99_us=round(took[int(len(took) * 0.99)], 2),
            )  # fmt: skip


def main() -> None:
    options = arguments(
        __doc__, events=(300_000, 5_000), turns=(3, 1), processes=2, calls=(50_000, 1_000)
    )
    with (
        daemon(options.store) as running,
        tempfile.TemporaryDirectory(prefix="zstream-bench-") as folder,
    ):
        for processes in sorted({1, options.processes}):
            each = options.events // processes // BATCH_EVENTS * BATCH_EVENTS
            compare(running, processes, each, options.turns, Path(folder))
        costs(running, options.calls, Path(folder))


if __name__ == "__main__":
    main()
