"""How many events a second does one live tail of everything give, and the same of the peers?

A producer sends batches that were packed before, in a process of its own, but never more than a
window ahead of what the reader has seen: so the reader is always busy and never overrun. zstream
is asked once more with a producer that waits for nobody, where a tail heals what it misses.
"""

import statistics
from contextlib import ExitStack

from common import arguments, report, say
from flows import Flow, flows, rate_of
from producer import Watch
from streams import Starts, jetstream, redis_stream, zstream

#: The ways in which a tail is fed.
SUSTAINED, UNBOUND = "as fast as it reads", "as fast as it goes"


def healed(watch: Watch) -> int:
    """How often followers had to fetch what they had missed; the daemon counts it."""
    return int(watch("info").get("heals", 0))


def tell(flow: Flow, way: str, rates: list[float], **more: object) -> None:
    report(
        "live", who=flow.who, way=way, per_s=round(statistics.median(rates)),
        turns=[round(rate) for rate in rates], **more, setting=flow.system.setting,
    )  # fmt: skip


def main() -> None:
    options = arguments(__doc__, seconds=(2, 0), turns=(3, 1))
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
        before = healed(watch)
        unbound = [rate_of(found[0].live(seconds, None)) for _ in range(options.turns)]
        tell(found[0], UNBOUND, unbound, heals=healed(watch) - before)


if __name__ == "__main__":
    main()
