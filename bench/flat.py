"""Is the twentieth million as fast as the first, and how long does the writer ever stand still?

One event a message through a raw PUSH, as fast as the daemon takes them.
"""

from itertools import pairwise

from common import arguments, daemon, report, say
from filling import cpu_seconds, memory, settle
from producer import Watch, longest_stop, pushing, single_pool, times_at


def main() -> None:
    options = arguments(__doc__, events=(20_000_000, 40_000), step=(1_000_000, 10_000))
    count, step = options.events, options.step
    with (
        daemon(options.store) as running,
        pushing(running.endpoints.insert, single_pool, step) as producer,
        Watch(running.url) as watch,
    ):
        seen = [watch.look()]
        producer.push(count)
        for upto in range(step, count + 1, step):
            seen += watch.follow(upto)
            say(f"{upto:,} events committed")
        producer.pushed()
        weight = memory(running.pid)
        owed = settle(running.pid, count)
        used = cpu_seconds(running.pid)
    marks = times_at(seen, range(0, count + 1, step))
    rates = [round(step / (b - a)) for a, b in pairwise(marks)]
    report(
        "flat",
        store=options.store,
        events=count,
        per_s=round(count / (marks[-1] - marks[0])),
        first_per_s=rates[0],
        last_per_s=rates[-1],
        last_to_first=round(rates[-1] / rates[0], 3),
        longest_stop_s=round(longest_stop(seen[1:]), 3),
        idle_after_s=round(owed, 1),
        cpu_us_per_event=round(used / count * 1e6, 2),
        step=step,
        rates=rates,
        **weight,
    )


if __name__ == "__main__":
    main()
