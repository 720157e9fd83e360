"""How long after an insert has a live follower in another process the event?

JetStream and Redis are asked in the same run, in turns, with the same events. They too sync before
they deliver, and their defaults, which do not, stand beside.
"""

from contextlib import ExitStack
from typing import NamedTuple

from common import arguments, quantiles, report, say
from flows import inserting, timing
from parts import Part, part
from streams import Starts, System, jetstream, redis_stream, started, zstream


class Pair(NamedTuple):
    """A system, and the two processes that use it."""

    system: System
    producer: Part
    reader: Part
    took: list[float]
    rates: list[float]

    def turn(self, count: int, rate: float) -> None:
        """Insert so many, one by one, and note how long each took."""
        self.reader.tell(count)
        self.reader.hear()
        self.producer.tell(count, rate)
        self.rates.append(self.producer.hear())
        self.took.extend(self.reader.hear())


def pair(stack: ExitStack, system: System) -> Pair:
    given = (system.kind, system.address)
    producer = stack.enter_context(part(inserting, *given))
    return Pair(system, producer, stack.enter_context(part(timing, *given)), [], [])


def main() -> None:
    options = arguments(__doc__, events=(3_000, 60), rate=500, turns=(3, 1))
    starts: Starts = {
        "zstream": lambda: zstream(options.store),
        "JetStream, synced always": lambda: jetstream("always"),
        "JetStream, default sync": lambda: jetstream(None),
        "Redis, synced always": lambda: redis_stream("always"),
        "Redis, synced each second": lambda: redis_stream("everysec"),
    }
    with ExitStack() as stack:
        pairs = [pair(stack, system) for system in started(stack, "tail", starts)]
        for number in range(options.turns):
            for each in pairs:
                each.turn(options.events // options.turns, options.rate)
            say(f"turn {number + 1} of {options.turns} is done")
        for system, _, _, took, rates in pairs:
            report(
                "tail", who=system.who, events=len(took), rate=options.rate, **quantiles(took),
                reached_per_s=round(min(rates)), setting=system.setting,
            )  # fmt: skip


if __name__ == "__main__":
    main()
