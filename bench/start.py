"""How long does a daemon on ten million events take from its start to the ready line?"""

import statistics
import time

from common import arguments, report
from filling import filled, memory


def main() -> None:
    options = arguments(__doc__, events=(10_000_000, 20_000), times=(7, 2))
    with filled(options.folder, options.events) as (running, _):
        figures: dict[str, list[float]] = {"stopped": [], "killed": []}
        for how, took in figures.items():
            for _ in range(options.times):
                running.kill() if how == "killed" else running.stop(timeout=60)
                began = time.perf_counter()
                running.start()
                took.append(time.perf_counter() - began)
        weight = memory(running.pid)
    for how, took in figures.items():
        report(
            "start", events=options.events, after=how, times=options.times,
            median_s=round(statistics.median(took), 3), longest_s=round(max(took), 3), **weight,
        )  # fmt: skip


if __name__ == "__main__":
    main()
