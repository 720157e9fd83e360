"""What do ten thousand live filters cost the inserts?

In turns: inserts while nobody follows; with 9,990 filters that match nothing; with these and ten
that match a quarter or half of all events each (four kinds, and the six pairs of kinds), so that
each event goes out four times. The filters are bare SUBs in processes of their own, each topic
greeted by the daemon before the clock starts; the committed head ends it.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import combinations
from multiprocessing.connection import Connection

import zmq
from common import KINDS, arguments, daemon, report, say
from filling import cpu_seconds, settle
from parts import Part, part
from producer import Producer, Watch, pushing, single_pool

from zstream import topics, wire
from zstream.testing import Server

NOBODY, SILENT, HOT = "nobody", "silent", "silent and hot"
#: Seconds until every topic is greeted.
GREETING_S = 60.0
#: Seconds until the topics that were not are subscribed to again.
AGAIN_S = 1.0


def hot() -> list[bytes]:
    """Ten filters that match a quarter or half of all events."""
    pairs = [list(pair) for pair in combinations(KINDS, 2)]
    return [topics.encode({"kind": kinds}) for kinds in [*([kind] for kind in KINDS), *pairs]]


def silent(count: int) -> list[bytes]:
    """So many filters that match nothing: users who do nothing."""
    return [topics.encode({"user": [f"silent-{number}"]}) for number in range(count)]


def following(orders: Connection, endpoint: str) -> None:
    """The life of a process of followers.

    ("follow", topics) -> "greeted"; ("leave",) -> the events that it was sent.
    """
    context = zmq.Context()
    socket, received = context.socket(zmq.SUB), 0
    poller = zmq.Poller()
    poller.register(orders, zmq.POLLIN)
    while True:
        ready = dict(poller.poll(1_000))
        if socket in ready:
            received += drain(socket)
        if orders.fileno() not in ready:
            continue
        order = orders.recv()
        if order is None:
            break
        if order[0] == "follow":
            socket, received = follow(context, endpoint, order[1]), 0
            poller.register(socket, zmq.POLLIN)
            orders.send("greeted")
        else:
            poller.unregister(socket)
            received += drain(socket)
            socket.close(0)
            orders.send(received)
    context.destroy(0)


def follow(
    context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, names: Sequence[bytes]
) -> "zmq.Socket[bytes]":
    """Follow topics, and wait until the daemon has greeted each."""
    socket = context.socket(zmq.SUB)
    socket.sndhwm = socket.rcvhwm = 0
    socket.connect(endpoint)
    missing, end = set(names), time.monotonic() + GREETING_S
    while missing:
        if time.monotonic() > end:
            raise TimeoutError(f"{len(missing):,} topics were not greeted")
        # A greeting may be dropped like any publication: who gets none asks again.
        for name in missing:
            socket.subscribe(name)
        again = time.monotonic() + AGAIN_S
        while missing and (left := again - time.monotonic()) > 0:
            if socket.poll(int(left * 1e3)):
                topic, header, _ = socket.recv_multipart()
                if wire.decode_header(header).type == wire.HELLO:
                    missing.discard(topic)
    return socket


def drain(socket: "zmq.Socket[bytes]") -> int:
    """Read what is there; how many events it was, by the array headers of the bodies."""
    events = 0
    for _ in range(1_000):
        try:
            _, _, body = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            break
        if body[0] >> 4 == 0x9:
            events += body[0] & 0x0F
        elif body[0] == 0xDC:
            events += int.from_bytes(body[1:3], "big")
    return events


class Inserts:
    """A daemon, a producer that pushes events one by one, and processes that follow."""

    def __init__(
        self, running: Server, producer: Producer, watch: Watch, parts: Sequence[Part]
    ) -> None:
        self.running, self.producer, self.watch, self.parts = running, producer, watch, parts
        self.cpu = 0.0

    def turn(self, count: int, names: Sequence[bytes]) -> tuple[float, int]:
        """Insert so many under these followers.

        Returns:
            Events a second, and how many publications of an event the followers got.
        """
        own = self.watch("info")["filters"]
        for number, each in enumerate(self.parts):
            each.tell("follow", names[number :: len(self.parts)])
        for each in self.parts:
            each.hear()
        if (live := self.watch("info")["filters"] - own) != len(names):
            raise RuntimeError(f"{len(names):,} filters were subscribed to, {live:,} are live")
        head, cpu = self.watch.look().head, cpu_seconds(self.running.pid)
        began = time.perf_counter()
        self.producer.push(count)
        seen = self.watch.follow(head + count)
        rate = count / (seen[-1].at - began)
        self.producer.pushed()
        self.cpu = cpu_seconds(self.running.pid) - cpu
        for each in self.parts:
            each.tell("leave")
        got = sum(each.hear() for each in self.parts)
        while self.watch("info")["filters"] != own:
            time.sleep(0.01)
        settle(self.running.pid, count)
        return rate, got


def main() -> None:
    options = arguments(
        __doc__, events=(300_000, 5_000), turns=(3, 1), filters=(10_000, 200), processes=3
    )
    with ExitStack() as stack:
        running = stack.enter_context(daemon(options.store))
        pool = min(options.events, 500_000)
        inserts = Inserts(
            running,
            stack.enter_context(pushing(running.endpoints.insert, single_pool, pool)),
            stack.enter_context(Watch(running.url)),
            [stack.enter_context(part(following, running.endpoints.publish))
             for _ in range(options.processes)],
        )  # fmt: skip
        quiet = silent(options.filters - len(hot()))
        ways = {NOBODY: [], SILENT: quiet, HOT: [*hot(), *quiet]}
        rates: dict[str, list[float]] = {who: [] for who in ways}
        delivered, cpu = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
        for number in range(options.turns):
            for who, names in ways.items():
                rate, got = inserts.turn(options.events, names)
                rates[who].append(rate)
                delivered[who] += got
                cpu[who] += inserts.cpu
            say(f"turn {number + 1} of {options.turns} is done")
        for who, names in ways.items():
            mean = statistics.harmonic_mean(rates[who])
            stored = options.events * options.turns
            report(
                "followers", who=who, filters=len(names), events=stored, per_s=round(mean),
                turns=[round(rate) for rate in rates[who]],
                to_none=round(mean / statistics.harmonic_mean(rates[NOBODY]), 2),
                delivered=delivered[who], cpu_us_per_event=round(cpu[who] / stored * 1e6, 2),
                setting="SQLite, synchronous=FULL",
            )  # fmt: skip


if __name__ == "__main__":
    main()
