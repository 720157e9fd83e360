"""The ancestor's own tests and examples, restated as data, through a real daemon."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from zstream import Client
from zstream.testing import server

from .plain import Plain
from .support import ask_well

#: What AwesomeStream gave when no page was asked for.
START, END = 0, 20


class Asked(NamedTuple):
    filter: dict[str, Any]
    start: int
    end: int
    expected: list[dict[str, Any]]


@pytest.fixture(scope="module")
def scenarios(shared_data: Path) -> list[dict[str, Any]]:
    path = shared_data / "vectors" / "awesomestream-cases.json"
    if not path.is_file():
        pytest.skip(f"the real data is not here: {path.name} is missing")
    found = json.loads(path.read_text())["scenarios"]
    assert isinstance(found, list)
    return found


def questions(scenario: dict[str, Any]) -> list[Asked]:
    """What is asked, and what must come: as stated there, or else by a plain scan."""
    inserted = scenario["insert"]
    plain = Plain(inserted, scenario["keys"])
    found = []
    for case in scenario["queries"]:
        filter = dict(case["query"])
        start, end = filter.pop("start", START), filter.pop("end", END)
        scanned = [row.event for row in plain.select(filter)][start:end]
        if case["expect"] is not None:
            stated = [inserted[place] for place in case["expect"]]
            assert stated == scanned, "the scan and the original differ"
        found.append(Asked(filter, start, end, scanned))
    return found


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_every_scenario(scenarios: list[dict[str, Any]], tmp_path: Path, store: str) -> None:
    assert {scenario["name"] for scenario in scenarios} == {"backend test", "README"}
    for number, scenario in enumerate(scenarios):
        url = "memory:" if store == "memory" else f"sqlite:///{tmp_path}/{number}.db"
        with server(keys=scenario["keys"], store=url) as running, Client(running.url) as client:
            for event in scenario["insert"]:
                client.insert(event)
            client.flush()
            asked = questions(scenario)
            assert len(asked) == len(scenario["queries"]) > 0
            for filter, start, end, expected in asked:
                assert client.items(filter, start=start, end=end) == expected
                assert client.items(start=start, end=end, **filter) == expected
                if (start, end) == (START, END):
                    assert client.items(**filter) == expected
                    assert client.count(**filter) == len(expected)
                raw = ask_well(running.url, "items", filter=filter, start=start, limit=end - start)
                assert [event for _, _, event in raw["events"]] == expected
