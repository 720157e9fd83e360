"""How many events a second does a daemon store in PostgreSQL, beside a plain COPY of the same?

One producer pushes single events into a daemon on ``postgresql://…``; between its slices the same
server takes as many by COPY into a table with the same indexes. The daemon's clock runs until the
server has built the indexes that it owes, so that COPY does not pay for them.
"""

import gc
import time
from contextlib import ExitStack

from common import arguments, daemon, events, report, say
from filling import settle
from postgres_peer import COPY_ROWS, Table, rows_of
from producer import Watch, packed, pushing, single_pool
from servers import Absent, postgres

#: Whether the server is at work for the daemon.
ACTIVE = """
SELECT count(*) FROM pg_stat_activity WHERE datname = 'zstream' AND state <> 'idle'"""


def main() -> None:
    options = arguments(__doc__, events=(3_000_000, 20_000), slices=(3, 2), pool=(1_000_000, 5_000))
    size = options.events // options.slices
    pool = rows_of(events(options.pool), packed(options.pool))
    gc.freeze()
    with ExitStack() as stack:
        try:
            peer = stack.enter_context(postgres())
        except Absent as absent:
            report("behind_postgres", absent=str(absent))
            return
        table = Table(peer.address)
        table.run("CREATE DATABASE zstream")

        def is_idle() -> bool:
            return not table.run(ACTIVE).fetchone()[0]

        running = stack.enter_context(daemon(peer.address.removesuffix("postgres") + "zstream"))
        producer = stack.enter_context(pushing(running.endpoints.insert, single_pool, options.pool))
        watch = stack.enter_context(Watch(running.url))
        rates: dict[str, list[int]] = {"behind the daemon": [], "plain COPY": []}
        for _ in range(options.slices):
            head, began = watch.look().head, time.perf_counter()
            producer.push(size)
            took = watch.follow(head + size)[-1].at - began
            producer.pushed()
            took += settle(running.pid, size, is_idle)
            table.run("CHECKPOINT")
            rates["behind the daemon"].append(round(size / took))
            rates["plain COPY"].append(round(size / table.copy(pool, size)))
            say(", ".join(f"{who} {each[-1]:,}/s" for who, each in rates.items()))
        if not watch.look().head == table.count() == size * options.slices:
            raise RuntimeError("not all of the events are stored")
        table.close()
    means = {who: len(each) / sum(1 / rate for rate in each) for who, each in rates.items()}
    ratio = round(means["behind the daemon"] / means["plain COPY"], 2)
    for who, each in rates.items():
        report(
            "behind_postgres", who=who, events=size * options.slices, per_s=round(means[who]),
            slices=each, to_copy=ratio, copy_batch=COPY_ROWS, setting=peer.setting,
        )  # fmt: skip


if __name__ == "__main__":
    main()
