"""The figures that were asked for, and whether the results of a run reach them."""

from collections.abc import Callable

import figures_live
from lines import Figure, Results, millions, ratio


def inserts(results: Results) -> Figure:
    """In slices beside PostgreSQL, and the first five million of those without a pause."""
    line, flat = results.one("insert", who="zstream"), results.one("flat")
    steps = max(1, line["events"] // flat["step"])
    rates = flat["rates"][:steps]
    without = round(len(rates) / sum(1 / rate for rate in rates))
    text = f"{line['per_s']:,}/s in slices, {without:,}/s without a pause (`flat.py`)"
    return Figure(text, min(line["per_s"], without) >= 200_000, line["command"])


def beside_copy(results: Results) -> Figure:
    line, copy = results.one("insert", who="zstream"), results.one("insert", who="postgres copy")
    text = f"{line['to_postgres']} × ({copy['per_s']:,}/s)"
    return Figure(text, line["to_postgres"] >= 2.2, line["command"])


def clients(results: Results) -> Figure:
    line = results.one("clients", processes=2)
    return Figure(f"{line['per_s']:,}/s", line["per_s"] >= 200_000, line["command"])


def behind(results: Results) -> Figure:
    line = results.one("behind_postgres", who="behind the daemon")
    copy = results.one("behind_postgres", who="plain COPY")
    text = f"{line['to_copy']} × ({line['per_s']:,}/s to {copy['per_s']:,}/s)"
    return Figure(text, line["to_copy"] >= 1.5, line["command"])


def on_redis(results: Results) -> Figure:
    """With the append-only file and without, beside redis-py on a server that is set alike."""
    parts, met, command = [], True, ""
    for fsync, words in (("none", "no append-only file"), ("everysec", "synced each second")):
        line = results.one("redis_store", who="zstream", fsync=fsync)
        peer = results.one("redis_store", who=REDIS_PY, fsync=fsync)
        met, command = met and line["to_redis_py"] >= 2.5, line["command"]
        rates = f"{line['per_s']:,}/s to {peer['per_s']:,}/s"
        parts.append(f"{words}: {line['to_redis_py']} × ({rates})")
    return Figure("; ".join(parts), met, command)


REDIS_PY = "redis-py, SET + 4 ZADD pipelined by 1,000"


def redis_memory(results: Results) -> Figure:
    line, peer = (
        results.one("redis_store", who=who, what="memory") for who in ("zstream", REDIS_PY)
    )
    each = line["bytes_an_event"]
    text = f"{each} B, redis-py's {peer['bytes_an_event']} B, at {millions(line)}"
    return Figure(text, each < 560, line["command"])


def redis_feed(results: Results) -> Figure:
    parts, met, command = [], True, ""
    for query in ("1,000 values", "1,000 values of a sparser key"):
        line = results.one("redis_store", who="zstream", query=query)
        met, command = met and line["p50_ms"] <= 10, line["command"]
        parts.append(f"{query}: p50 {line['p50_ms']} ms, p99 {line['p99_ms']} ms")
    return Figure("; ".join(parts), met, command)


def flatness(results: Results) -> Figure:
    line = results.one("flat")
    text = f"{line['last_to_first']:.2f} ({line['last_per_s']:,}/s to {line['first_per_s']:,}/s)"
    return Figure(text, line["last_to_first"] >= 0.9, line["command"])


def stop(results: Results) -> Figure:
    line = results.one("flat")
    return Figure(f"{line['longest_stop_s']} s", line["longest_stop_s"] <= 0.3, line["command"])


def call(results: Results) -> Figure:
    line = results.one("clients", question="cost of a call")
    return Figure(f"{line['median_us']} µs", line["median_us"] <= 3, line["command"])


def one_value(results: Results) -> Figure:
    line = results.one("items", query="one value", order="in order")
    text = f"p50 {line['p50_ms']} ms, p99 {line['p99_ms']} ms"
    return Figure(text, line["p50_ms"] <= 0.5, line["command"])


def feed(results: Results) -> Figure:
    line = results.one("items", query="1,000 values", order="in order")
    text = f"p50 {line['p50_ms']} ms, p99 {line['p99_ms']} ms"
    return Figure(text, line["p50_ms"] <= 3 and line["p99_ms"] <= 15, line["command"])


def feed_peers(results: Results) -> Figure:
    """zstream and the better of a peer's queries, at each size at which both were asked."""
    parts, met, command = [], True, ""
    for own in results.all("feed", who="zstream", query="1,000 values"):
        asked = results.all("feed", query="1,000 values", events=own["events"])
        command = own["command"]
        for peer, names in PEERS.items():
            found = [line["p50_ms"] for line in asked if line["who"] in names]
            if found:
                met = met and own["p50_ms"] < min(found)
                parts.append(
                    f"{peer} {min(found)} ms, zstream {own['p50_ms']} ms at {millions(own)}"
                )
    if not {peer for peer in PEERS for part in parts if part.startswith(peer)} == set(PEERS):
        raise LookupError("feed: a peer is missing")
    return Figure("; ".join(parts), met, command)


PEERS = {
    "UmaDB": ("UmaDB",),
    "PostgreSQL": ("PostgreSQL, lateral join", "PostgreSQL, = ANY"),
}


def late(results: Results) -> Figure:
    parts, met, command = [], True, ""
    for query in ("one value", "1,000 values"):
        clean = results.one("items", query=query, order="in order")
        line = results.one("items", query=query, order="1% late")
        met = met and line["p50_ms"] <= 2 * clean["p50_ms"]
        command = line["command"]
        parts.append(f"{query} {ratio(line['p50_ms'], clean['p50_ms'])} × ({line['p50_ms']} ms)")
    return Figure("; ".join(parts), met, command)


def pages(results: Results) -> Figure:
    results.one("walk")
    lines = results.all("walk")
    parts = [f"{line['query']} {line['last_to_first']}" for line in lines]
    return Figure("; ".join(parts), max(each["last_to_first"] for each in lines) <= 1.5,
                  lines[0]["command"])  # fmt: skip


def rare(results: Results) -> Figure:
    line = results.one("items", query=RARE, order="in order")
    text = f"p50 {line['p50_ms']} ms, p99 {line['p99_ms']} ms"
    return Figure(text, line["p99_ms"] <= 10, line["command"])


RARE = "30 events, nine tenths of the store ago"


def empty(results: Results) -> Figure:
    line = results.one("items", query="empty intersection", order="in order")
    whole = f"{line['pages']} pages, {line['all_ms']} ms to the end"
    text = f"longest page {line['longest_ms']} ms; {whole}"
    return Figure(text, line["longest_ms"] <= 50 and line["to_the_end"], line["command"])


def busy(results: Results) -> Figure:
    parts, met, command = [], True, ""
    for query in ("one value", "replay of 1,000"):
        line = results.one("busy", query=query)
        met, command = met and line["p99_ms"] <= 50, line["command"]
        parts.append(f"{query} {line['p99_ms']} ms (at {line['meanwhile_per_s']:,} inserts/s)")
    return Figure("; ".join(parts), met, command)


def start(results: Results) -> Figure:
    results.one("start")
    lines = results.all("start")
    text = "; ".join(f"{each['after']} {each['median_s']} s" for each in lines)
    return Figure(text, max(each["median_s"] for each in lines) <= 1.5, lines[0]["command"])


def memory(results: Results) -> Figure:
    parts, met, command = [], True, ""
    for stage in ("fill", "fill-3kb"):
        line = results.one(stage)
        most = max(line["resident_mb"], line["settled_mb"])
        met, command = met and most <= 400, command or line["command"]
        parts.append(
            f"{line['body_bytes']:,} B: {most} MB at {line['events'] / 1e6:.1f} M events "
            f"(highest ever {line['highest_mb']} MB)"
        )
    asked = results.one("items", memory="afterwards", order="in order")["resident_mb"]
    parts.append(f"after a restart and the queries of `items.py` {asked} MB")
    met = met and asked <= 400
    return Figure("; ".join(parts), met, command)


def disk(results: Results) -> Figure:
    line = results.one("fill")
    return Figure(f"{line['bytes_an_event']} B", line["bytes_an_event"] <= 220, line["command"])


#: What was asked, how much, and how to find it in the results.
ASKED: tuple[tuple[str, str, Callable[[Results], Figure]], ...] = (
    ("sustained inserts, one event a message (raw PUSH), 3 keys, synchronous=FULL, 5 M events",
     "200,000/s", inserts),
    ("… beside PostgreSQL COPY in the same run", "2.2 ×", beside_copy),
    ("through `Client.insert`, two producer processes", "200,000/s", clients),
    ("into PostgreSQL behind the daemon, beside plain COPY into an indexed table", "1.5 ×", behind),
    ("single events into Redis behind the daemon, beside redis-py's pipelined SET + 4 ZADD, "
     "servers set alike", "2.5 ×", on_redis),
    ("memory of Redis an event, 85-byte events with 3 keys", "< 560 B", redis_memory),
    ("`items` of 1,000 values with the store in Redis, at 1 M events", "p50 ≤ 10 ms", redis_feed),
    ("last million of 20 M events / first million", "≥ 0.9", flatness),
    ("longest stop of the writer in these 20 M events", "≤ 0.3 s", stop),
    ("`Client.insert`, cost to the caller, median", "≤ 3 µs", call),
    ("`items` of one value, round trip, at 10 M events", "p50 ≤ 0.5 ms", one_value),
    ("`items` of 1,000 values (a feed), at 10 M events", "p50 ≤ 3 ms, p99 ≤ 15 ms", feed),
    ("… beside UmaDB and PostgreSQL in the same run, p50", "ahead of both", feed_peers),
    ("the same two with 1 % late rows, p50", "≤ 2 ×", late),
    ("page 500 by token / page 1", "≤ 1.5", pages),
    ("a value last seen 9 M events ago", "≤ 10 ms", rare),
    ("an empty intersection of two dense keys", "bounded, a page ≤ 50 ms", empty),
    ("`items` of one value, and a replay page of 1,000, while inserting at full rate",
     "p99 ≤ 50 ms", busy),
    ("start of the daemon on 10 M events, to the ready line, median", "≤ 1.5 s", start),
    ("daemon resident, default settings, 85-byte and 3 KB bodies", "≤ 400 MB", memory),
    ("disk an event, 85-byte events with 3 keys, all files", "≤ 220 B", disk),
    *figures_live.ASKED,
)  # fmt: skip
