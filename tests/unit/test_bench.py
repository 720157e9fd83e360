"""The benchmarks' own arithmetic: when was an id committed, which figure is met, what is drawn."""

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

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


# ---------------------------------------------------------------- what was seen


def test_an_id_was_committed_between_two_looks(load: Load) -> None:
    producer = load("producer")
    seen = [producer.Seen(10.0, 0), producer.Seen(11.0, 100), producer.Seen(15.0, 300)]
    assert producer.times_at(seen, [0, 50, 100, 200, 300]) == [10.0, 10.5, 11.0, 13.0, 15.0]
    assert producer.longest_stop(seen) == 4.0
    assert producer.longest_stop(seen[:1]) == 0.0


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


def test_a_script_that_failed_is_named_and_the_prose_stays(load: Load, tmp_path: Path) -> None:
    render = load("render")
    write(tmp_path, "tail", {"rate": 500, "p50_ms": 0.5, "p99_ms": 1.0})
    write(tmp_path, "flat", {"bench": "flat", "failed": "exit code 1: boom"})
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- tails -->\nold\n<!-- end -->\nafter\n<!-- asked -->\n<!-- end -->"
    )
    render.render(tmp_path, page)
    once = page.read_text()
    assert once.startswith("before\n<!-- tails -->\n")
    assert "| 500 events/s | 0.5 | 1.0 |" in once
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
