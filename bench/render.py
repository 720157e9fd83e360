"""Renders ``docs/benchmarks.md``: its prose stays, its tables and plots come from the results.

What stands between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced; NAME is a function here.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from figures import ASKED
from lines import Line, Results, millions
from plot import chart

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BLOCK = re.compile(r"(<!-- (?P<name>[a-z_]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "not measured in the last run"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    if not rows:
        return f"{NOT_MEASURED}\n"
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def machine(results: Results) -> str:
    if not (known := results.machine):
        return f"{NOT_MEASURED}\n"
    return (
        f"{known['date']}: {known['cores']} cores ({known['processor']}), {known['memory_gib']} "
        f"GiB of memory, {known['system']}, {known['python']}, SQLite {known['sqlite']}.\n"
    )


def asked(results: Results) -> str:
    rows = []
    for what, wanted, find in ASKED:
        try:
            figure = find(results)
        except LookupError:
            rows.append([what, wanted, NOT_MEASURED, "", ""])
            continue
        verdict = "met" if figure.met else "**not met**"
        rows.append([what, wanted, figure.measured, verdict, f"`{shown(figure.command)}`"])
    failed = "".join(f"\nThis script failed: {each[:200]}\n" for each in results.failures())
    return table(["what", "asked", "measured", "", "command"], rows) + failed


def shown(command: str) -> str:
    """A command without the temporary folder that `make bench` gave it."""
    return re.sub(r" --folder \S+", "", command)


#: What a line of another script than `peers` is called in the table of rates.
WHO = {
    "zstream": "zstream, raw PUSH, one event a message",
    "postgres copy": "PostgreSQL, COPY of 20,000 rows into the indexed table",
    "PULL only": "(a PULL socket that stores nothing, one event a message)",
    "behind the daemon": "zstream on PostgreSQL, raw PUSH, one event a message",
    "plain COPY": "… beside it, COPY of 20,000 rows into the indexed table",
    1: "zstream, `Client.insert`, one process",
    2: "zstream, `Client.insert`, two processes",
}


def rates(results: Results) -> str:
    lines = [line for stage in ("insert", "clients", "behind_postgres", "peers")
             for line in results.all(stage)]  # fmt: skip
    rows = []
    for line in lines:
        name = line.get("who", line.get("processes"))
        who = WHO.get(name, name)
        if "absent" in line:
            rows.append([who, "", line["absent"]])
        elif "per_s" in line:
            rows.append([who, f"{line['per_s']:,}", line.get("setting", "SQLite")])
    return table(["inserts", "events/s", "set so"], rows)


def on_redis(results: Results) -> str:
    lines = results.all("redis_store")
    rates = [
        [line["who"], f"{line['per_s']:,}", line.get("to_redis_py", ""), line["setting"]]
        for line in lines
        if "per_s" in line
    ]
    weights = [
        [line["who"], f"{line['events']:,}", line["bytes_an_event"]]
        for line in lines
        if "bytes_an_event" in line
    ]
    feeds = [
        [line["query"], line["who"], line["p50_ms"], line["p99_ms"]]
        for line in lines
        if "query" in line
    ]
    absent = "".join(f"\nNot measured: {line['absent']}.\n" for line in lines if "absent" in line)
    return "\n".join(
        (
            table(["inserts into Redis", "events/s", "to redis-py", "set so"], rates),
            table(["used memory", "events", "B an event"], weights),
            table(["query", "who", "p50 ms", "p99 ms"], feeds) + absent,
        )
    )


def flat(results: Results) -> str:
    lines = [line for line in results.all("flat") if "rates" in line]
    if not lines:
        return f"{NOT_MEASURED}\n"
    line = lines[0]
    return (
        "![Rate of each million](benchmarks-flat.svg)\n\n"
        f"{line['events']:,} events without a pause, {line['per_s']:,}/s over all; the daemon was "
        f"idle {line['idle_after_s']} s after the last and had used {line['cpu_us_per_event']} µs "
        f"of the processors an event; resident {line['resident_mb']} MB at the end, "
        f"{line['highest_mb']} MB at the highest.\n"
    )


def flat_plot(results: Results) -> str | None:
    for line in results.all("flat"):
        if "rates" in line:
            xs = [line["step"] * (number + 1) / 1e6 for number in range(len(line["rates"]))]
            return chart(
                "events a second, by million", "million events stored", xs, {"": line["rates"]}
            )
    return None


def queries(results: Results) -> str:
    orders = sorted(
        {line["order"] for line in results.all("items") if "order" in line}, reverse=True
    )
    found: dict[str, list[object]] = {}
    for line in results.all("items"):
        if "p50_ms" in line:
            found.setdefault(line["query"], []).extend([line["p50_ms"], line["p99_ms"]])
    head = ["query", *(f"{order}, {q}" for order in orders for q in ("p50 ms", "p99 ms"))]
    rows = [[query, *figures] for query, figures in found.items()]
    for line in results.all("items", query="empty intersection"):
        rows.append([f"empty intersection, {line['order']}: longest page {line['longest_ms']} ms, "
                     f"{line['pages']} pages to the end", *[""] * (len(head) - 1)])  # fmt: skip
    return table(head, rows)


def feeds(results: Results) -> str:
    rows = [
        [f"{millions(line)} events, {line['query']}", line["who"], line["p50_ms"], line["p99_ms"]]
        for line in sorted(results.all("feed"), key=feed_order)
        if "p50_ms" in line
    ]
    rows += [
        ["", line["who"], line["absent"], ""] for line in results.all("feed") if "absent" in line
    ]
    return table(["query", "who", "p50 ms", "p99 ms"], rows)


def feed_order(line: Line) -> tuple[int, str]:
    return line.get("events", 0), line.get("query", "")


def walks(results: Results) -> str:
    rows = [
        [line["query"], line["page_1_ms"], line["last_ms"], line["last_to_first"]]
        for line in results.all("walk")
        if "page_1_ms" in line
    ]
    return "![Pages of a walk](benchmarks-walk.svg)\n\n" * bool(rows) + table(
        ["walk", "page 1, ms", "page 500, ms", "ratio"], rows
    )


def walk_plot(results: Results) -> str | None:
    lines = [line for line in results.all("walk") if "by_page_ms" in line]
    if not lines:
        return None
    step = max(1, lines[0]["pages"] // 50)
    xs = [1 + step * number for number in range(len(lines[0]["by_page_ms"]))]
    curves = {line["query"]: line["by_page_ms"] for line in lines}
    return chart("ms a page of 20, median", "page", xs, curves)


def loaded(results: Results) -> str:
    rows = [
        [
            line["query"],
            line["p50_ms"],
            line["p99_ms"],
            line["longest_ms"],
            f"{line['meanwhile_per_s']:,}",
        ]
        for line in results.all("busy")
        if "p50_ms" in line
    ]
    return table(["while inserting", "p50 ms", "p99 ms", "longest ms", "inserts/s meanwhile"], rows)


def tails(results: Results) -> str:
    rows = [
        [line["who"], line.get("p50_ms", ""), line.get("p99_ms", ""),
         line.get("setting", line.get("absent"))]
        for line in results.all("tail")
        if "who" in line
    ]  # fmt: skip
    return table(["insert to delivery, 500 events/s", "p50 ms", "p99 ms", "set so"], rows)


def streams(results: Results) -> str:
    rows = []
    for line in (*results.all("live"), *results.all("replay")):
        way = line.get("way") or "from the beginning"
        if "absent" in line:
            rows.append([line["who"], "", "", line["absent"]])
        elif "per_s" in line:
            healed = f", {line['heals']} heals" if "heals" in line else ""
            what = WAYS.get(way, way) + healed
            rows.append([line["who"], what, f"{line['per_s']:,}", line["setting"]])
    return table(["one reader of everything", "what", "events/s", "set so"], rows)


#: What the ways to feed a reader are called in a table.
WAYS = {
    "as fast as it reads": "live, fed as fast as it reads",
    "as fast as it goes": "live, fed as fast as the daemon takes it",
    "from the beginning": "history",
    "while inserting at full rate": "history, while inserting at full rate",
}


def resends(results: Results) -> str:
    lines = results.all("resend")
    rows = [
        [line["who"], line["processes"], f"{line['per_s']:,}", line["to_raw"], line["own_us"],
         line["daemon_us"]]
        for line in lines
        if "to_raw" in line
    ]  # fmt: skip
    calls = [[line["who"], line["median_us"], line["p99_us"]] for line in lines if "calls" in line]
    head = ["inserts in arrays of up to 1,000", "processes", "events/s", "to raw PUSH",
            "producer, µs an event", "daemon, µs an event"]  # fmt: skip
    return f"{table(head, rows)}\n{table(['a call', 'median µs', 'p99 µs'], calls)}"


def followers(results: Results) -> str:
    rows = [
        [f"{line['filters']:,}, {line['who']}" if line["filters"] else "none",
         f"{line['per_s']:,}", line["to_none"], f"{line['events']:,}", f"{line['delivered']:,}",
         line["cpu_us_per_event"]]
        for line in results.all("followers")
        if "filters" in line
    ]  # fmt: skip
    head = ["live filters", "inserts/s", "to none", "events inserted", "delivered",
            "daemon, µs an event"]  # fmt: skip
    return table(head, rows)


def heals(results: Results) -> str:
    rows = [
        [line["way"], f"{line['burst']:,}", f"{line['missed']:,}", line["median_s"],
         line["longest_s"], line["heals"]]
        for line in results.all("heal")
        if "burst" in line
    ]  # fmt: skip
    head = ["while the burst came", "events of the burst", "missed, at least", "median s",
            "longest s", "heals in all turns"]  # fmt: skip
    return table(head, rows)


def in_asyncio(results: Results) -> str:
    rows = [
        [line["what"], f"{line['sync_per_s']:,}", f"{line['async_per_s']:,}", line["ratio"]]
        for line in results.all("aio")
        if "ratio" in line
    ]
    return table(["a second", "`Client`", "`AsyncClient`", "ratio"], rows)


def weights(results: Results) -> str:
    filled = [
        [
            f"{line['events']:,} events of {line['body_bytes']:,} B{', 1 % late' * line['late']}",
            f"{line['filled_per_s']:,}", line["resident_mb"], line["settled_mb"],
            line["highest_mb"], line["bytes_an_event"],
        ]
        for stage in ("fill", "fill-late", "fill-3kb")
        for line in results.all(stage)
        if "files" in line
    ]  # fmt: skip
    starts = [
        [line["after"], line["median_s"], line["longest_s"], line["first_answer_s"]]
        for line in results.all("start")
        if "median_s" in line
    ]
    head = ["filled in arrays of 1,000", "events/s", "resident MB", "settled MB", "highest MB",
            "disk B an event"]  # fmt: skip
    after = ["start of the daemon, after it was", "median s", "longest s", "first answer, median s"]
    return f"{table(head, filled)}\n{table(after, starts)}"


def steps(results: Results) -> str:
    lines = [line for line in results.all("steps") if "step" in line]
    names = [name for name in (lines[0] if lines else {}) if name not in COMMON]
    return table(names, [[line.get(name, "") for name in names] for line in lines])


#: What every line has, and no table shows.
COMMON = ("bench", "command", "date", "version", "python", "machine")
BLOCKS: dict[str, Callable[[Results], str]] = {
    "machine": machine, "asked": asked, "rates": rates, "flat": flat, "queries": queries,
    "feeds": feeds, "walks": walks, "loaded": loaded, "tails": tails, "weights": weights,
    "steps": steps, "streams": streams, "resends": resends, "followers": followers,
    "heals": heals, "in_asyncio": in_asyncio, "on_redis": on_redis,
}  # fmt: skip
PLOTS: dict[str, Callable[[Results], str | None]] = {"flat": flat_plot, "walk": walk_plot}


def render(folder: Path, page: Path) -> None:
    """Put the results in a folder into a page, and draw the plots beside it.

    Raises:
        KeyError: The page has a block that nothing here renders.
    """
    results = Results(folder)

    def block(found: "re.Match[str]") -> str:
        return f"{found[1]}\n{BLOCKS[found['name']](results)}\n{found[4]}"

    page.write_text(BLOCK.sub(block, page.read_text(encoding="utf-8")), encoding="utf-8")
    for name, draw in PLOTS.items():
        if (drawn := draw(results)) is not None:
            (page.parent / f"{page.stem}-{name}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    render(RESULTS, PAGE)
