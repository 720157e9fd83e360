"""How many events a second does one live tail of everything give, and the same of the peers?

A producer sends batches that were packed before, in a process of its own, but never more than a
window ahead of what the reader has seen: so the reader is always busy and never overrun. zstream
is asked twice more: with a producer that waits for nobody, where the tail heals what it misses;
and for what waits for a tail that was stopped, which is the tail's own speed.
"""

import statistics
import time
from contextlib import ExitStack

from common import arguments, report, say
from flows import Flow, flows, rate_of, wait_for
from parts import stopped
from producer import Watch
from streams import CHUNK, Starts, jetstream, redis_stream, zstream

#: Events that wait for a tail that was stopped: fewer than its sockets hold.
BURST = 40_000
#: The ways in which a tail is fed.
SUSTAINED, UNBOUND, UNREAD = "as fast as it reads", "as fast as it goes", "what waited for it"


def unread(flow: Flow, bursts: int) -> list[float]:
    """Events a second out of bursts that were committed while the reader stood still."""
    flow.total.value = bursts * BURST
    flow.reader.tell(False, float("inf"))
    flow.reader.hear()
    with Watch(flow.system.address) as watch:
        for number in range(bursts):
            with stopped(flow.reader.pid):
                head = watch.look().head
                flow.producer.tell(None, BURST)
                watch.follow(head + BURST)
                flow.producer.hear()
                time.sleep(0.1)  # the daemon's last publications are on their way
            wait_for(flow.seen, (number + 1) * BURST)
    marks, step = flow.reader.hear(), BURST // CHUNK
    parts = [marks[at + 1 : at + step + 1] for at in range(0, len(marks) - 1, step)]
    return [rate_of(part, 0) for part in parts]


def healed(watch: Watch) -> int:
    """How often followers had to fetch what they had missed; the daemon counts it."""
    return int(watch("info").get("heals", 0))


def tell(flow: Flow, way: str, rates: list[float], **more: object) -> None:
    report(
        "live", who=flow.who, way=way, per_s=round(statistics.median(rates)),
        turns=[round(rate) for rate in rates], **more, setting=flow.system.setting,
    )  # fmt: skip


def own(flow: Flow, seconds: float, turns: int, watch: Watch) -> None:
    """What only zstream is asked."""
    before = healed(watch)
    rates = unread(flow, 3 * turns)
    tell(flow, UNREAD, rates, heals=healed(watch) - before)
    before = healed(watch)
    rates = [rate_of(flow.live(seconds, None)) for _ in range(turns)]
    tell(flow, UNBOUND, rates, heals=healed(watch) - before)


def main() -> None:
    options = arguments(__doc__, seconds=(3, 0), turns=(3, 1))
    seconds = options.seconds or 0.2
    starts: Starts = {
        "zstream": lambda: zstream(options.store),
        "JetStream, default sync": lambda: jetstream(None),
        "JetStream, synced always": lambda: jetstream("always"),
        "Redis, synced always": lambda: redis_stream("always"),
        "Redis, synced each second": lambda: redis_stream("everysec"),
    }
    with ExitStack() as stack:
        found = flows(stack, "live", starts)
        watch = stack.enter_context(Watch(found[0].system.address))
        rates: dict[str, list[float]] = {flow.who: [] for flow in found}
        before = healed(watch)
        for number in range(options.turns):
            for flow in found:
                rates[flow.who].append(rate_of(flow.live(seconds, flow.system.kind.window)))
            say(f"turn {number + 1} of {options.turns} is done")
        heals = healed(watch) - before
        for flow in found:
            more = {"heals": heals} if flow is found[0] else {}
            tell(flow, SUSTAINED, rates[flow.who], **more)
        own(found[0], seconds, options.turns, watch)


if __name__ == "__main__":
    main()
