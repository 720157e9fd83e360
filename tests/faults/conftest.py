"""How long and how random; what was killed where is told at the end."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from .process import Process

Told = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--soak", type=int, default=1, help="so many times the rounds")
    group.addoption("--faults-seed", type=int, help="repeat the choices of an earlier run")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # workers inherit the environment
        seed = config.getoption("--faults-seed")
        if seed is None:  # in CI the same choices each time, as far as processes let it
            seed = 1 if os.environ.get("CI") else random.SystemRandom().randrange(1_000_000)
        os.environ["FAULTS_SEED"] = str(seed)


def pytest_report_header() -> str:
    return f"faults: --faults-seed {os.environ['FAULTS_SEED']}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(120 * config.getoption("--soak")))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random choices: each test has its own, all from one seed."""
    return random.Random(f"{os.environ['FAULTS_SEED']} {request.node.name}")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> int:
    """How many times the usual rounds."""
    return int(request.config.getoption("--soak"))


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Told:
    """Note for the summary where something was killed, or what else was done to it."""
    return lambda what: record_property("fault", what)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Have figures printed in the end, as one line of JSON a call."""
    return lambda **found: record_property("figures", json.dumps(found))


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    for process in list(Process.running):
        process.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted: Counter[str] = Counter()
    lines = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                counted.update(value for name, value in report.user_properties if name == "fault")
                lines += [value for name, value in report.user_properties if name == "figures"]
    terminalreporter.section(f"faults: --faults-seed {os.environ['FAULTS_SEED']}")
    for what, times in sorted(counted.items()):
        terminalreporter.line(f"{times:4} {what}")
    kills = sum(times for what, times in counted.items() if what.startswith("killed"))
    terminalreporter.line(f"{kills:4} kills in all")
    for line in lines:
        terminalreporter.line(line)
