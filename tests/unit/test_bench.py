"""The benchmarks' own arithmetic: when was an id committed, which figure is met, what is drawn."""

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgpack
import pytest
import zmq

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a module of ``bench/``, which is no package."""
    monkeypatch.syspath_prepend(repo_root / "bench")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(repo_root / "bench") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, stage: str, *lines: dict[str, Any]) -> None:
    text = "".join(json.dumps({"command": "python bench/x.py", **line}) + "\n" for line in lines)
    (folder / f"{stage}.jsonl").write_text(text)


# ---------------------------------------------------------------- events and messages


def test_every_peer_gets_the_same_events(load: Load) -> None:
    events, packed = load("common").events(3, 1_000), load("producer").packed(3)
    assert [msgpack.unpackb(each) for each in packed] == events
    assert 80 <= len(packed[0]) <= 90


def test_a_producer_sends_just_as_many_as_it_is_told(load: Load) -> None:
    pool = [b"a", b"b", b"c"]
    messages = load("producer").single(pool)
    assert [each for some in messages(7) for each in some] == [*pool, *pool, b"a"]


def test_arrays_hold_times_that_go_on_from_message_to_message(load: Load) -> None:
    producer = load("producer")
    messages = producer.arrays([b"\x01", b"\x02"], 2, producer.spread(100, 5))
    sent = [msgpack.unpackb(each) for some in messages(3) for each in some]
    assert sent == [[[100, 1], [105, 2]], [[110, 1]]]


def test_late_times_are_few_and_bounded(load: Load) -> None:
    times = load("producer").spread(1_000_000, 10, 0.01, 500)
    late = [1_000_000 + 10 * number - next(times) for number in range(20_000)]
    assert min(late) >= 0
    assert max(late) < 500
    assert 100 < sum(each > 0 for each in late) < 400


def test_a_result_names_its_command_without_the_folder_of_this_machine(load: Load) -> None:
    command = load("common").command
    assert command(["/x/bench/items.py"]) == "python bench/items.py"
    words = ["/x/bench/fill.py", "--late", "1", "--folder", "/tmp/y", "--quick"]
    assert command(words) == "python bench/fill.py --late 1 --quick"


def test_a_batch_is_an_array_as_a_client_sends_it(load: Load) -> None:
    producer = load("producer")
    batches = producer.plain_arrays(producer.packed(5), 2)
    assert [msgpack.unpackb(each) for each in batches] == [
        load("common").events(5, 1_000)[at : at + 2] for at in (0, 2, 4)
    ]


def test_the_peers_get_the_same_bodies_in_their_own_words(load: Load) -> None:
    streams = load("streams")
    bodies = [b"a\r\n", b"bc"] * 750
    lines = b"PUB events 3\r\na\r\n\r\nPUB events 2\r\nbc\r\n"
    assert streams.JetStream("").chunks(bodies) == [lines * 500, lines * 250]
    head = b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$1\r\nb\r\n"
    words = head + b"$3\r\na\r\n\r\n" + head + b"$2\r\nbc\r\n"
    assert streams.Redis("").chunks(bodies) == [words * 500, words * 250]


def test_each_event_goes_out_under_four_of_ten_hot_filters(load: Load) -> None:
    followers, common = load("followers"), load("common")
    hot = [json.loads(each) for each in followers.hot()]
    assert len({json.dumps(each) for each in hot}) == 10
    for kind in common.KINDS:
        assert sum(kind in filter["kind"] for filter in hot) == 4
    users = {json.loads(each)["user"][0] for each in followers.silent(50)}
    assert len(users) == 50
    assert users.isdisjoint(str(each["user"]) for each in common.events(1_000))


# ---------------------------------------------------------------- what was seen


def test_an_id_was_committed_between_two_looks(load: Load) -> None:
    producer = load("producer")
    seen = [producer.Seen(10.0, 0), producer.Seen(11.0, 100), producer.Seen(15.0, 300)]
    assert producer.times_at(seen, [0, 50, 100, 200, 300]) == [10.0, 10.5, 11.0, 13.0, 15.0]
    assert producer.longest_stop(seen) == 4.0
    assert producer.longest_stop(seen[:1]) == 0.0


def test_a_reader_ends_at_the_total_or_when_its_time_is_over(load: Load) -> None:
    flows, chunk = load("flows"), load("streams").CHUNK
    seen, total = SimpleNamespace(value=0), SimpleNamespace(value=0)
    marks = [0.0]
    see = flows.metering(seen, total, float("inf"), marks)
    assert not any(see({}) for _ in range(2 * chunk))
    total.value = 3 * chunk
    assert [see({}) for _ in range(chunk)] == [False] * (chunk - 1) + [True]
    assert seen.value == 3 * chunk
    assert len(marks) == 4

    see = flows.metering(seen, SimpleNamespace(value=0), 0.0, [0.0])
    assert [see({}) for _ in range(chunk)] == [False] * (chunk - 1) + [True]


def test_a_rate_counts_from_one_mark_to_the_last(load: Load) -> None:
    flows, chunk = load("flows"), load("streams").CHUNK
    assert flows.rate_of([0.0, 10.0, 11.0, 12.0]) == chunk
    assert flows.rate_of([0.0, 10.0, 11.0, 12.0], 0) == 3 * chunk / 12


def test_a_producer_keeps_within_its_window_and_tells_the_total_first(load: Load) -> None:
    flows, chunk = load("flows"), load("streams").CHUNK
    seen, total = SimpleNamespace(value=0), SimpleNamespace(value=0)
    sent: list[tuple[str, int]] = []

    def send(what: str) -> None:
        sent.append((what, total.value))
        seen.value = max(0, len(sent) - 2) * chunk

    stream = SimpleNamespace(send=send)
    assert flows.pump(stream, ["a", "b"], 0.002, 2 * chunk, seen, total) == len(sent) * chunk
    assert {known for _, known in sent[:-1]} <= {0}
    assert sent[-1][1] == len(sent) * chunk
    assert [what for what, _ in sent[:4]] == ["a", "b", "a", "b"][: len(sent)]


def test_a_follower_counts_the_events_of_what_it_was_sent(load: Load) -> None:
    followers = load("followers")
    arrays = [msgpack.packb([[1, 2, {}]] * count) for count in (0, 3, 15, 16, 700)]
    frames = [*([b"{}", b"", body] for body in [*arrays, msgpack.packb({})])]

    def receive(flags: int) -> list[bytes]:
        if not frames:
            raise zmq.Again
        return frames.pop(0)

    assert followers.drain(SimpleNamespace(recv_multipart=receive)) == 734


def test_a_part_that_fails_says_why(load: Load) -> None:
    parts, followers = load("parts"), load("followers")
    with parts.part(followers.following, "nonsense") as part:
        part.tell("follow", [b"{}"])
        with pytest.raises(RuntimeError, match="following: ZMQError"):
            part.hear()


# ---------------------------------------------------------------- the page


def test_a_figure_is_met_or_not_and_says_so(load: Load, tmp_path: Path) -> None:
    figures, render = load("figures"), load("render")
    write(tmp_path, "flat", {"last_to_first": 0.91, "last_per_s": 91, "first_per_s": 100,
                             "longest_stop_s": 0.31})  # fmt: skip
    results = figures.Results(tmp_path)
    assert figures.flatness(results).met
    assert not figures.stop(results).met
    page = render.asked(results)
    assert "| 0.31 s | **not met** |" in page
    assert page.count(render.NOT_MEASURED) == len(figures.ASKED) - 2


def test_the_better_query_of_a_peer_counts(load: Load, tmp_path: Path) -> None:
    figures = load("figures")

    def line(who: str, p50_ms: float) -> dict[str, Any]:
        return {"who": who, "query": "1,000 values", "events": 1_000_000, "p50_ms": p50_ms}

    lines = [line("zstream", 2.0), line("PostgreSQL, lateral join", 9.0)]
    write(tmp_path, "feed", *lines, line("PostgreSQL, = ANY", 1.9), line("UmaDB", 9.0))
    assert not figures.feed_peers(figures.Results(tmp_path)).met
    write(tmp_path, "feed", *lines, line("PostgreSQL, = ANY", 2.1), line("UmaDB", 9.0))
    assert figures.feed_peers(figures.Results(tmp_path)).met
    write(tmp_path, "feed", *lines)
    with pytest.raises(LookupError):
        figures.feed_peers(figures.Results(tmp_path))


def on_redis(to_redis_py: float, bytes_an_event: float, p50_ms: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for fsync in ("none", "everysec"):
        for who in ("zstream", "redis-py, SET + 4 ZADD pipelined by 1,000"):
            more = {"to_redis_py": to_redis_py} if who == "zstream" else {}
            lines.append({"who": who, "fsync": fsync, "per_s": 1_000, "setting": fsync, **more})
    for who in ("redis-py, SET + 4 ZADD pipelined by 1,000", "zstream"):
        weight = bytes_an_event if who == "zstream" else 570.0
        memory = {"what": "memory", "events": 1_000_000, "bytes_an_event": weight}
        lines.append({"who": who, **memory})
        for query in ("1,000 values", "1,000 values of a sparser key"):
            lines.append({"who": who, "query": query, "p50_ms": p50_ms, "p99_ms": 20.0})
    return lines


def test_a_store_in_redis_has_three_figures(load: Load, tmp_path: Path) -> None:
    figures, render, lines = load("figures"), load("render"), load("lines")
    for measured, met in (((2.5, 559.9, 10.0), True), ((2.49, 560.0, 10.1), False)):
        write(tmp_path, "redis_store", *on_redis(*measured))
        results = lines.Results(tmp_path)
        for figure in (figures.on_redis, figures.redis_memory, figures.redis_feed):
            assert figure(results).met is met
    assert "redis-py's 570.0 B, at 1 M" in figures.redis_memory(results).measured
    rows = render.on_redis(results).splitlines()
    assert "| zstream | 1,000 | 2.49 | everysec |" in rows
    assert "| zstream | 1,000,000 | 560.0 |" in rows
    assert "| 1,000 values | zstream | 10.1 | 20.0 |" in rows
    write(tmp_path, "redis_store", {"absent": "no redis-server in the PATH"})
    assert "Not measured: no redis-server" in render.on_redis(lines.Results(tmp_path))
    write(tmp_path, "redis_store", *on_redis(2.5, 1, 1)[:2])
    for figure in (figures.on_redis, figures.redis_memory, figures.redis_feed):
        with pytest.raises(LookupError):
            figure(lines.Results(tmp_path))


def test_slices_of_a_pool_go_on_where_the_last_one_ended(load: Load) -> None:
    messages = load("redis_store").lined_up([b"a", b"b", b"c"])
    sent = [[each for some in messages(count) for each in some] for count in (2, 5, 0, 1)]
    assert sent == [[b"a", b"b"], [b"c", b"a", b"b", b"c", b"a"], [], [b"b"]]


def test_the_scripts_of_redis_and_their_figures_call_things_alike(load: Load) -> None:
    assert load("redis_store").PEER == load("figures").REDIS_PY


def flowing(rate: int, way: str, who: str = "zstream") -> dict[str, Any]:
    return {"who": who, "way": way, "per_s": rate, "setting": "as it is"}


def test_a_tail_must_reach_both_figures_live_and_in_history(load: Load, tmp_path: Path) -> None:
    figures, lines = load("figures_live"), load("lines")
    for now, then, met in ((150_000, 250_000, True), (149_999, 250_000, False),
                           (150_000, 249_999, False)):  # fmt: skip
        write(tmp_path, "live", flowing(now, figures.SUSTAINED))
        write(tmp_path, "replay", flowing(then, ""), flowing(1, figures.WHILE_INSERTING))
        figure = figures.one_tail(lines.Results(tmp_path))
        assert figure.met is met
        assert f"live {now:,}/s" in figure.measured
        assert f"history {then:,}/s" in figure.measured


def test_redis_counts_as_its_package_comes_and_its_other_parser_is_shown(
    load: Load, tmp_path: Path
) -> None:
    figures, lines = load("figures_live"), load("lines")
    in_c = flowing(500, "", figures.IN_C)
    write(tmp_path, "replay", flowing(80, ""), flowing(100, "", figures.IN_PYTHON), in_c)
    figure = figures.beside_redis(lines.Results(tmp_path))
    assert figure.met
    assert "hiredis, Redis's parser in C, 0.16 ×" in figure.measured
    write(tmp_path, "replay", flowing(79, ""), flowing(100, "", figures.IN_PYTHON))
    assert not figures.beside_redis(lines.Results(tmp_path)).met


def test_peers_that_do_not_sync_are_shown_but_do_not_count(load: Load, tmp_path: Path) -> None:
    figures, lines = load("figures_live"), load("lines")

    def line(who: str, p50_ms: float) -> dict[str, Any]:
        return {"who": who, "p50_ms": p50_ms, "p99_ms": 7.0}

    own, fast = line("zstream", 1.0), line("Redis, synced each second", 0.1)
    slow = [line(who, 1.1) for who in figures.SYNCED]
    write(tmp_path, "tail", own, fast, *slow)
    figure = figures.delivery_peers(lines.Results(tmp_path))
    assert figure.met
    assert "Redis, synced each second 0.1 ms" in figure.measured
    assert figures.delivery(lines.Results(tmp_path)).met
    write(tmp_path, "tail", own, *slow[:1], line(figures.SYNCED[1], 0.9))
    assert not figures.delivery_peers(lines.Results(tmp_path)).met
    write(tmp_path, "tail", own, fast, slow[0])
    with pytest.raises(LookupError):
        figures.delivery_peers(lines.Results(tmp_path))


def test_every_number_of_processes_must_keep_the_rate(load: Load, tmp_path: Path) -> None:
    figures, lines = load("figures_live"), load("lines")

    def line(who: str, processes: int, to_raw: float) -> dict[str, Any]:
        return {"who": who, "processes": processes, "to_raw": to_raw, "per_s": 1_000}

    raw = [line(figures.RAW, processes, 1.0) for processes in (1, 2)]
    cost = {"who": figures.CLIENT, "question": "cost of a call", "median_us": 1.5}
    for second, met in ((0.8, True), (0.79, False)):
        own = [line(figures.CLIENT, 1, 0.9), line(figures.CLIENT, 2, second)]
        write(tmp_path, "resend", *raw, *own, cost)
        figure = figures.to_raw(lines.Results(tmp_path))
        assert figure.met is met
        assert "one process: 0.90" in figure.measured


def test_healing_both_ways_must_be_quick_and_enough_be_missed(load: Load, tmp_path: Path) -> None:
    figures, lines = load("figures_live"), load("lines")
    for median, missed, met in ((2.0, 100_000, True), (2.1, 100_000, False), (1, 99_999, False)):
        line = {"way": "it slept", "median_s": median, "longest_s": 2.5, "missed": missed}
        write(tmp_path, "heal", {**line, "median_s": 0.5, "missed": 100_000}, line)
        assert figures.healing(lines.Results(tmp_path)).met is met


def test_followers_and_loaded_history_are_judged_by_their_own_lines(
    load: Load, tmp_path: Path
) -> None:
    figures, lines = load("figures_live"), load("lines")
    for hot, met in ((0.5, True), (0.49, False)):
        found = {"nobody": 1.0, "silent": 0.1, "silent and hot": hot}
        found_lines = ({"who": who, "to_none": each, "per_s": 7} for who, each in found.items())
        write(tmp_path, "followers", *found_lines)
        assert figures.followed(lines.Results(tmp_path)).met is met
    for rate, met in ((30_000, True), (29_999, False)):
        loaded = {**flowing(rate, figures.WHILE_INSERTING), "meanwhile_per_s": 150_000}
        write(tmp_path, "replay", flowing(1, ""), loaded)
        assert figures.replay_loaded(lines.Results(tmp_path)).met is met


def test_one_must_be_ahead_of_jetstream_in_both(load: Load, tmp_path: Path) -> None:
    figures, lines = load("figures_live"), load("lines")
    peer = "JetStream, default sync"
    for now, then, met in ((2, 2, True), (1, 2, False), (2, 1, False)):
        write(
            tmp_path, "live", flowing(now, figures.SUSTAINED), flowing(1, figures.SUSTAINED, peer)
        )
        write(tmp_path, "replay", flowing(then, ""), flowing(1, "", peer))
        assert figures.beside_jetstream(lines.Results(tmp_path)).met is met


def test_the_tables_of_what_is_live_show_every_line_and_who_is_absent(
    load: Load, tmp_path: Path
) -> None:
    render, lines = load("render"), load("lines")
    absent = {"who": "Redis, synced always", "absent": "no redis-server in the PATH"}
    healed = {**flowing(140_000, "as fast as it goes"), "heals": 3}
    write(tmp_path, "live", flowing(160_000, "as fast as it reads"), healed, absent)
    write(tmp_path, "replay", flowing(260_000, ""))
    write(tmp_path, "tail", {"who": "zstream", "p50_ms": 1, "p99_ms": 2, "setting": "s"}, absent)
    write(tmp_path, "heal", {"way": "it slept", "burst": 300_000, "missed": 100_000,
                             "median_s": 0.5, "longest_s": 0.7, "heals": 5})  # fmt: skip
    write(tmp_path, "followers", {"who": "silent", "filters": 9_990, "per_s": 190_000,
                                  "to_none": 0.99, "delivered": 0, "events": 1_000,
                                  "cpu_us_per_event": 3.0})  # fmt: skip
    write(tmp_path, "resend", {"who": "raw", "processes": 2, "per_s": 250_000, "to_raw": 1.0,
                               "own_us": 0.1, "daemon_us": 3.0},
          {"who": "client", "calls": 5, "median_us": 1.5, "p99_us": 3.0})  # fmt: skip
    write(tmp_path, "aio", {"what": "`items`", "sync_per_s": 1_500, "async_per_s": 1_400,
                            "ratio": 0.93})  # fmt: skip
    results = lines.Results(tmp_path)
    for block, row in {
        "streams": "| zstream | live, fed as fast as it reads | 160,000 | as it is |",
        "tails": "| Redis, synced always |  |  | no redis-server in the PATH |",
        "heals": "| it slept | 300,000 | 100,000 | 0.5 | 0.7 | 5 |",
        "followers": "| 9,990, silent | 190,000 | 0.99 | 1,000 | 0 | 3.0 |",
        "resends": "| client | 1.5 | 3.0 |",
        "in_asyncio": "| `items` | 1,500 | 1,400 | 0.93 |",
    }.items():
        assert row in render.BLOCKS[block](results).splitlines()
    assert "the daemon takes it, 3 heals | 140,000 |" in render.streams(results)
    assert "| zstream | history | 260,000 | as it is |" in render.streams(results)
    assert "| raw | 2 | 250,000 | 1.0 | 0.1 | 3.0 |" in render.resends(results)


def test_the_scripts_and_the_figures_call_things_alike(load: Load) -> None:
    figures, live_, replay = load("figures_live"), load("live"), load("replay")
    ours = (figures.SUSTAINED, figures.UNBOUND)
    assert ours == (live_.SUSTAINED, live_.UNBOUND)
    assert figures.WHILE_INSERTING == replay.WHILE_INSERTING
    assert {*ours, figures.WHILE_INSERTING} < set(load("render").WAYS)
    resend = load("resend")
    assert (figures.RAW, figures.CLIENT) == (resend.RAW, resend.CLIENT)


def test_a_script_that_failed_is_named_and_the_prose_stays(load: Load, tmp_path: Path) -> None:
    render = load("render")
    write(tmp_path, "tail", {"who": "zstream", "p50_ms": 0.5, "p99_ms": 1.0, "setting": "synced"})
    write(tmp_path, "flat", {"bench": "flat", "failed": "exit code 1: boom"})
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- tails -->\nold\n<!-- end -->\nafter\n<!-- asked -->\n<!-- end -->"
    )
    render.render(tmp_path, page)
    once = page.read_text()
    assert once.startswith("before\n<!-- tails -->\n")
    assert "| zstream | 0.5 | 1.0 | synced |" in once
    assert "flat: exit code 1: boom" in once
    assert "old" not in once
    render.render(tmp_path, page)
    assert page.read_text() == once


def test_the_page_has_a_place_for_every_block(load: Load) -> None:
    render = load("render")
    found = [each["name"] for each in render.BLOCK.finditer(render.PAGE.read_text())]
    assert sorted(found) == sorted(render.BLOCKS)


@pytest.mark.parametrize("highest", [0.0, 0.04, 0.7, 3, 9.9, 1_234, 265_000])
def test_an_axis_goes_a_little_beyond_the_highest(load: Load, highest: float) -> None:
    marks = load("plot").ticks(highest)
    assert marks[0] == 0
    assert highest <= marks[-1] <= max(1.0, highest * 2.1)
    assert len(marks) <= 8


def test_a_chart_is_xml_with_a_line_for_each_curve(load: Load) -> None:
    drawn = load("plot").chart("a < b", "x", [1, 2, 3], {"one": [1, 2, 3], "two": [3, 2, 1]})
    tree = ElementTree.fromstring(drawn)
    lines = [each for each in tree.iter() if each.tag.endswith("polyline")]
    assert [len(each.attrib["points"].split()) for each in lines] == [3, 3]
