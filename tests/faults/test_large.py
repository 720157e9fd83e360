"""Events as large as can be among tiny ones, through the same lane and the same tail.

With ``--soak`` of 2 or more it is the full size: a million tiny ones, twenty of 1 MiB.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .running import PATIENCE_S, Clients, Daemon
from .traffic import END, HUGE, check_store, check_tail


def test_large_and_tiny(tmp_path: Path, soak: int, figures: Callable[..., Any]) -> None:
    began = time.monotonic()
    count, first = (12_000, 20_000) if soak == 1 else (1_000_000, 0)
    daemon, clients = Daemon(tmp_path), Clients(tmp_path)
    daemon.start()
    clients.start("live", "follow", url=daemon.url, filter={})
    clients.start("history", "follow", url=daemon.url, filter={"kind": "watch"}, after=0)
    clients.await_started("live", "history")
    options = {"on_full": "block", "buffer_bytes": 4 << 20}
    told = {"p": HUGE, "first": first, "count": count, "options": options}
    clients.start("producer", "produce", url=daemon.url, **told)
    clients.result("producer", PATIENCE_S * soak)
    daemon.insert_end()
    for name in ("live", "history"):
        clients.result(name, PATIENCE_S * soak)
    rows = daemon.rows()
    daemon.stop()
    check_store(rows, {HUGE: range(first, first + count), END: [0]})
    for name in ("live", "history"):
        check_tail(name, clients.got(name), rows)
    figures(test="large and tiny", inserts=count, seconds=round(time.monotonic() - began, 1))
