"""The page itself: every block is a file, and every file is run by some test."""

import re
from pathlib import Path

from .recipes import NAME, PAGE, files, sections

HERE = Path(__file__).parent


def test_every_block_is_a_file() -> None:
    named = {title: blocks for title, blocks in sections(PAGE.read_text()).items() if blocks}
    assert {"Django", "FastAPI", "Celery", "gunicorn"} == set(named)
    for title, blocks in named.items():
        assert len(files(title)) == len(blocks)
        for body in blocks:
            compile(body, "page", "exec")
            assert NAME.match(body)


def test_every_recipe_is_run() -> None:
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    run = set(re.findall(r'write\("(\w+)"', tests))
    assert run == {title for title, blocks in sections(PAGE.read_text()).items() if blocks}
