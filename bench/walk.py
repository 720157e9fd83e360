"""Does page 500 of a walk through a slice, by its token, cost more than page 1?"""

import random
import statistics
import time
from typing import Any

from common import USERS, arguments, report, say
from filling import filled

from zstream import Client

PAGE = 20


def walk(client: Client, wanted: dict[str, Any], pages: int) -> list[float]:
    """Turn so many pages; the seconds of each."""
    took, token = list[float](), None
    for number in range(pages):
        began = time.perf_counter()
        page = client.items(wanted, end=PAGE, before=token)
        took.append(time.perf_counter() - began)
        token = page.next
        if len(page) < PAGE or token is None:
            raise RuntimeError(f"page {number + 1} has {len(page)} events and no next")
    return took


def main() -> None:
    options = arguments(__doc__, events=(10_000_000, 20_000), pages=(500, 30), walks=(15, 2))
    feed = random.Random(5).sample(range(USERS), 1_000)
    if options.quick:
        feed = list(range(USERS // 2))[:10_000]
    slices: dict[str, dict[str, Any]] = {
        "everything": {},
        "kind=friend": {"kind": "friend"},
        "1,000 values": {"user": feed},
    }
    with filled(options.folder, options.events) as (running, _), Client(running.url) as client:
        for name, wanted in slices.items():
            client.items(wanted)
            walks = [walk(client, wanted, options.pages) for _ in range(options.walks)]
            by_page = [statistics.median(each) * 1e3 for each in zip(*walks, strict=True)]
            say(f"{name}: page 1 {by_page[0]:.2f} ms, the last {by_page[-1]:.2f} ms")
            report(
                "walk", events=options.events, query=name, pages=options.pages,
                walks=options.walks, page_1_ms=round(by_page[0], 3),
                last_ms=round(by_page[-1], 3), last_to_first=round(by_page[-1] / by_page[0], 2),
                by_page_ms=[round(each, 3) for each in by_page[:: max(1, options.pages // 50)]],
            )  # fmt: skip


if __name__ == "__main__":
    main()
