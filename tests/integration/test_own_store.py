"""The store of docs/backends.md: installed as a package of somebody else, judged, and served."""

import os
import re
import subprocess
import sys
import tomllib
from itertools import islice
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from zstream import Client
from zstream.testing import server

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
SECTION: Final = "## A store of your own\n"
#: A block that begins with the name of the file that it is.
FILE: Final = re.compile(r"^```\w+\n(# ([\w.]+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S: Final = 100.0


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the path with the page's package, as pip leaves it there."""
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    files = {name: body for body, name in FILE.findall(section)}
    assert files.keys() == {"mylog.py", "pyproject.toml", "test_mylog.py"}
    target = tmp_path / "installed"
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    (target / "mylog.py").write_text(files["mylog.py"])
    (tmp_path / "test_mylog.py").write_text(files["test_mylog.py"])
    monkeypatch.setenv("PYTHONPATH", str(target))
    return target


def test_it_passes_the_whole_suite(installed: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q",
        "-W", "error", "--rootdir", str(tmp_path), "--junitxml", str(report), "test_mylog.py",
    ]  # fmt: skip
    # Not what this run of pytest told its own children.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, timeout=PATIENCE_S, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    assert int(suite.attrib["tests"]) > 50
    assert [suite.attrib[each] for each in ("failures", "errors", "skipped")] == ["0", "0", "0"]


def test_a_daemon_serves_from_it_and_finds_it_again(installed: Path, tmp_path: Path) -> None:
    log = tmp_path / "events.log"
    store = f"mylog://{log}"
    with server(store=store, keys=("kind", "user")) as running, Client(running.url) as client:
        for number in range(100):
            client.insert({"kind": "even" if number % 2 == 0 else "odd", "user": [1, number]})
        client.flush(20)
        newest = client.items(kind="odd", user=[23, 25, 26], end=5)
        assert [event["user"][1] for event in newest] == [25, 23]
        with client.tail(kind="even", after=0) as tail:
            assert [event["user"][1] for event in islice(tail, 50)] == list(range(0, 100, 2))
            running.kill()
            with log.open("ab") as file:
                file.write(b'12345678 {"first": 101')  # what a crash may leave of the last line
            running.start()
            client.insert({"kind": "even", "user": "later"})
            client.flush(20)
            assert next(tail)["user"] == "later"
        assert client.count(user=1) == 100
        assert client.count() == 101
        assert str(log) in client.info()["store"]
    assert log.read_bytes().splitlines()[0][9:] == b'{"keys": ["kind", "user"]}'
