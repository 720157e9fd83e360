"""The README does what it says: its sessions run here word for word, its links lead somewhere."""

import doctest
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from zstream.testing import Server, server

from .support import PATIENCE_S, environment

FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
#: Files of this repository that the text names without a link.
NAMED: Final = re.compile(r"`((?:tests|bench|config|docs|examples|zstream|daemon)/[\w./-]*)`")


class Command(NamedTuple):
    """A command of a console session, and what it writes."""

    line: str
    output: str


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def python_session(text: str) -> str:
    return "\n".join(body for body in blocks(text, "python") if body.startswith(">>> "))


def python_scripts(text: str) -> list[str]:
    return [body for body in blocks(text, "python") if not body.startswith(">>> ")]


def console_session(text: str) -> list[Command]:
    found: list[Command] = []
    for body in blocks(text, "console"):
        assert body.startswith("$ "), body
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.append(Command(line, output))
    return found


def run_python_session(session: str, url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run it as one session; gives the number of its statements."""
    monkeypatch.setenv("ZSTREAM_URL", url)
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    told: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=told.append, clear_globs=False)
    if result.failed:
        pytest.fail("".join(told), pytrace=False)
    return result.attempted


def run_console_session(session: list[Command], url: str, folder: Path) -> None:
    for line, output in session:
        if line.startswith("make "):
            continue
        done = subprocess.run(
            ["/bin/sh", "-c", line], env=environment(url), cwd=folder, timeout=PATIENCE_S,
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout == output, line


@pytest.fixture(scope="module")
def readme(repo_root: Path) -> str:
    return (repo_root / "README.md").read_text()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    """What `zstreamd` alone is: a new store with the keys that it chooses."""
    with server(keys=None, store=f"sqlite:///{tmp_path}/zstream.db") as running:
        yield running


def test_the_walk_through(
    readme: str, running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First in Python, then in the shell, on one daemon."""
    assert run_python_session(python_session(readme), running.url, monkeypatch) > 20
    commands = console_session(readme)
    assert sum(command.line.startswith("zstream ") for command in commands) > 2
    run_console_session(commands, running.url, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("{'kind': 'friend', 'user': 23, 'friend': 7}\n", "{'kind': 'friend', 'user': 23}\n"),
        (">>> len(c.items(user=[23, 291]))\n5\n", ">>> len(c.items(user=[23, 291]))\n4\n"),
        (">>> c.flush()\n", ">>> c.flash()\n"),
    ],
)
def test_a_wrong_walk_through_is_noticed(
    readme: str, running: Server, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    session = python_session(readme)
    assert session.count(right) == 1
    with pytest.raises(pytest.fail.Exception, match=r"README\.md"):
        run_python_session(session.replace(right, wrong), running.url, monkeypatch)


def test_a_wrong_console_session_is_noticed(running: Server, tmp_path: Path) -> None:
    right = Command("zstream count kind=friend", "0\n")
    run_console_session([right], running.url, tmp_path)
    for line, output in (right._replace(output="1\n"), right._replace(line="zstream coumt")):
        with pytest.raises(AssertionError):
            run_console_session([Command(line, output)], running.url, tmp_path)


def test_the_scripts(readme: str, tmp_path: Path) -> None:
    scripts = python_scripts(readme)
    assert scripts
    for script in scripts:
        done = subprocess.run(
            [sys.executable, "-"], input=script, env=environment(), cwd=tmp_path,
            timeout=PATIENCE_S, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), script


def test_what_make_is_told(readme: str, repo_root: Path) -> None:
    makefile = (repo_root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    lines = [command.line for command in console_session(readme)]
    lines += re.findall(r"`(make [^`]+)`", readme)
    told = {shlex.split(line, comments=True)[1] for line in lines if line.startswith("make ")}
    assert {"run", "test", "demo"} <= told <= targets


def anchors(text: str) -> set[str]:
    """The names that a heading can be linked to by."""
    prose = FENCE.sub("", text)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_ends(page: Path, root: Path) -> list[str]:
    """The links of a page, and the files that it names, that lead nowhere."""
    text = page.read_text()
    prose = FENCE.sub("", text)
    dead = [name for name in NAMED.findall(prose) if not (root / name).exists()]
    for link in LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            dead.append(link)
    return dead


def pages(root: Path) -> list[Path]:
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))]


def test_every_link_leads_somewhere(repo_root: Path) -> None:
    found = pages(repo_root)
    assert {"README.md", "protocol.md", "guarantees.md"} <= {page.name for page in found}
    dead = {page.name: ends for page in found if (ends := dead_ends(page, repo_root))}
    assert not dead


def test_every_page_of_docs_is_linked(readme: str, repo_root: Path) -> None:
    linked = set(LINK.findall(readme))
    assert {f"docs/{page.name}" for page in (repo_root / "docs").glob("*.md")} <= linked


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "there.md").write_text("# A `heading`, of sorts\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-heading-of-sorts) [c](https://example.org/) `docs/there.md`\n"
    )
    assert not dead_ends(page, tmp_path)
    page.write_text("[a](gone.md) [b](there.md#other) [c](#here) `tests/gone.py`\n")
    assert dead_ends(page, tmp_path) == ["tests/gone.py", "gone.md", "there.md#other", "#here"]
