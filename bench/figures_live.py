"""The figures of what is live: tails, the peers' readers, resending clients, followers."""

from collections.abc import Callable

from lines import Figure, Results, ratio

#: The peers that sync before they deliver.
SYNCED = ("JetStream, synced always", "Redis, synced always")
SUSTAINED, UNBOUND = "as fast as it reads", "as fast as it goes"
WHILE_INSERTING = "while inserting at full rate"
IN_PYTHON, IN_C = (
    f"Redis, synced each second, parser in {way}" for way in ("Python", "C (hiredis)")
)


def delivery(results: Results) -> Figure:
    line = results.one("tail", who="zstream")
    text = f"p50 {line['p50_ms']} ms, p99 {line['p99_ms']} ms"
    return Figure(text, line["p50_ms"] <= 1.5 and line["p99_ms"] <= 8, line["command"])


def delivery_peers(results: Results) -> Figure:
    """The median beside those of peers that sync too; those of their defaults are only shown."""
    line = results.one("tail", who="zstream")
    others = {each["who"]: each["p50_ms"] for each in results.all("tail") if "p50_ms" in each}
    del others["zstream"]
    if not set(SYNCED) <= set(others):
        raise LookupError("tail: a peer is missing")
    text = "; ".join(f"{who} {p50} ms" for who, p50 in others.items())
    met = all(line["p50_ms"] < others[who] for who in SYNCED)
    return Figure(f"zstream {line['p50_ms']} ms; {text}", met, line["command"])


RAW, CLIENT = "raw PUSH of batches", "`Client.insert`"


def to_raw(results: Results) -> Figure:
    results.one("resend", who=CLIENT)
    parts, met, command = [], True, ""
    for line in results.all("resend", who=CLIENT):
        if "to_raw" in line:
            raw = results.one("resend", who=RAW, processes=line["processes"])
            met, command = met and line["to_raw"] >= 0.8, line["command"]
            count = {1: "one process", 2: "two"}.get(line["processes"], line["processes"])
            parts.append(
                f"{count}: {line['to_raw']:.2f} ({line['per_s']:,}/s to {raw['per_s']:,}/s)"
            )
    return Figure("; ".join(parts), met, command)


def one_tail(results: Results) -> Figure:
    """Live, as fast as the whole of producer, daemon and tail goes; and history."""
    line = results.one("live", who="zstream", way=SUSTAINED)
    live, history = line["per_s"], results.one("replay", who="zstream", way="")["per_s"]
    text = f"live {live:,}/s, history {history:,}/s (`replay.py`)"
    return Figure(text, live >= 150_000 and history >= 250_000, line["command"])


def replay_loaded(results: Results) -> Figure:
    line = results.one("replay", who="zstream", way=WHILE_INSERTING)
    text = f"{line['per_s']:,}/s (at {line['meanwhile_per_s']:,} inserts/s)"
    return Figure(text, line["per_s"] >= 30_000, line["command"])


def followed(results: Results) -> Figure:
    silent, hot = (results.one("followers", who=who) for who in ("silent", "silent and hot"))
    none = results.one("followers", who="nobody")
    text = (
        f"{hot['to_none']:.2f} ({hot['per_s']:,}/s to {none['per_s']:,}/s); "
        f"with the silent ones only {silent['to_none']:.2f}"
    )
    return Figure(text, hot["to_none"] >= 0.5, hot["command"])


def healing(results: Results) -> Figure:
    results.one("heal")
    lines = [line for line in results.all("heal") if "way" in line]
    text = "; ".join(
        f"{line['way']}: {line['median_s']} s, at the longest {line['longest_s']} s, "
        f"{line['missed']:,} missed"
        for line in lines
    )
    met = all(line["median_s"] <= 2 and line["missed"] >= 100_000 for line in lines)
    return Figure(text, met, lines[0]["command"])


def beside_jetstream(results: Results) -> Figure:
    """JetStream in its default setting, in which it is fastest."""
    parts, met, command = [], True, ""
    for stage, way in (("live", SUSTAINED), ("replay", "")):
        own = results.one(stage, who="zstream", way=way)
        peer = results.one(stage, who="JetStream, default sync", way=way)
        met = met and own["per_s"] > peer["per_s"]
        command = command or own["command"]
        name = "history" if stage == "replay" else stage
        parts.append(f"{name} {own['per_s']:,}/s to {peer['per_s']:,}/s")
    return Figure("; ".join(parts), met, command)


def beside_redis(results: Results) -> Figure:
    """Redis as its Python package comes; with the parser in C it is only shown."""
    own = results.one("replay", who="zstream", way="")
    peer = results.one("replay", who=IN_PYTHON, way="")
    text = f"{ratio(own['per_s'], peer['per_s'])} × ({own['per_s']:,}/s to {peer['per_s']:,}/s)"
    for line in results.all("replay", who=IN_C):
        text += f"; with hiredis, Redis's parser in C, {ratio(own['per_s'], line['per_s'])} ×"
    return Figure(text, own["per_s"] >= 0.8 * peer["per_s"], own["command"])


#: As `figures.ASKED`.
ASKED: tuple[tuple[str, str, Callable[[Results], Figure]], ...] = (
    ("insert to tail at 500 events/s, committed and synced before",
     "p50 ≤ 1.5 ms, p99 ≤ 8 ms", delivery),
    ("… beside JetStream and Redis that sync before they deliver, p50", "ahead of both",
     delivery_peers),
    ("`Client.insert` / raw PUSH of the same batches without numbers", "≥ 0.8", to_raw),
    ("one tail of everything, live / history, as `Event` objects",
     "≥ 150,000/s / ≥ 250,000/s", one_tail),
    ("history while inserting at full rate", "≥ 30,000/s", replay_loaded),
    ("… live and history beside JetStream's ordered consumer in the same run, from Python",
     "ahead in both", beside_jetstream),
    ("… history beside Redis, XREAD of 1,000, in the same run, from Python", "≥ 0.8 ×",
     beside_redis),
    ("inserts with 10 hot and 9,990 silent live filters / with none", "≥ 0.5", followed),
    ("a tail overrun by a burst has all of it, 100,000 missed events", "≤ 2 s", healing),
)  # fmt: skip
