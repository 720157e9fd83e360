"""The example runs as it stands and shows what it says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from .support import PATIENCE_S, environment

WALK: Final = """\
A throw-away daemon listens at URL, in memory, keys kind, user, repo.
>>> c = Client()

1. Insert. Each call only queues; flush() waits until all of it is stored.
>>> c.insert({'kind': 'create-repo', 'repo': 17, 'user': 291, 'name': 'frist'})
>>> c.insert({'kind': 'delete-repo', 'repo': 17, 'user': 291, 'reason': 'Made a typo :('})
>>> c.insert({'kind': 'watch', 'repo': 2842, 'user': 291, 'owner': 23})
>>> c.insert({'kind': 'friend', 'user': 291, 'friend': 23})
>>> c.insert({'kind': 'friend', 'user': 23, 'friend': 291})
>>> c.flush()

2. Query. The newest come first; a list of values means any of them.
>>> c.items()
    {'kind': 'friend', 'user': 23, 'friend': 291}
    {'kind': 'friend', 'user': 291, 'friend': 23}
    {'kind': 'watch', 'repo': 2842, 'user': 291, 'owner': 23}
    {'kind': 'delete-repo', 'repo': 17, 'user': 291, 'reason': 'Made a typo :('}
    {'kind': 'create-repo', 'repo': 17, 'user': 291, 'name': 'frist'}
>>> c.items(kind="friend")
    {'kind': 'friend', 'user': 23, 'friend': 291}
    {'kind': 'friend', 'user': 291, 'friend': 23}
>>> c.items(kind="friend", user=23)
    {'kind': 'friend', 'user': 23, 'friend': 291}
>>> c.items(user=[23, 291], start=1, end=3)
    {'kind': 'friend', 'user': 291, 'friend': 23}
    {'kind': 'watch', 'repo': 2842, 'user': 291, 'owner': 23}
>>> c.count(kind="friend")
    2

3. Follow. A tail receives what is stored from now on, and nothing else.
>>> for event in c.tail(kind="friend"): ...
>>> c.insert({'kind': 'friend', 'user': 7, 'friend': 23}, wait=True)
    stored as 6
>>> c.insert({'kind': 'watch', 'user': 7, 'repo': 17}, wait=True)
    stored as 7
>>> c.insert({'kind': 'friend', 'user': 23, 'friend': 7}, wait=True)
    stored as 8

Stored 8 events, refused 0. The daemon stops now.
"""

RECEIVED: Final = """\
      a follower of kind=friend received {'kind': 'friend', 'user': 7, 'friend': 23}
      a follower of kind=friend received {'kind': 'friend', 'user': 23, 'friend': 7}
"""


def test_the_demo(repo_root: Path, tmp_path: Path) -> None:
    end = subprocess.run(
        [sys.executable, repo_root / "examples" / "demo.py"], cwd=tmp_path, env=environment(),
        timeout=2 * PATIENCE_S, check=False, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (end.returncode, end.stderr) == (0, "")
    said = re.sub(r"tcp://127\.0\.0\.1:\d+", "URL", end.stdout)
    # The follower prints when it receives, which is beside the rest and not before its insert.
    lines = said.removeprefix("\n").splitlines(keepends=True)
    walk = "".join(line for line in lines if "received" not in line)
    assert walk == WALK
    assert "".join(line for line in lines if "received" in line) == RECEIVED
    for friend in (
        "{'kind': 'friend', 'user': 7, 'f",
        "{'kind': 'friend', 'user': 23, 'friend': 7",
    ):
        inserted = next(at for at, line in enumerate(lines) if f"insert({friend}" in line)
        told = next(at for at, line in enumerate(lines) if f"received {friend}" in line)
        assert inserted < told
    assert not list(tmp_path.iterdir())
