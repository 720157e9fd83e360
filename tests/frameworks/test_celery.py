"""Celery: a real worker whose pool forks, and recycles its processes."""

import signal
from collections.abc import Callable
from pathlib import Path

from zstream import Client
from zstream.testing import Server

from .recipes import program, run, wait_until, write

SEND = """
import tasks
for n in range(12):
    tasks.resize.delay(f"{n}.png", user=n)
tasks.pay.delay(1, user=1)
"""


def test_tasks_insert(
    daemon: Server, client: Client, tmp_path: Path, needs: Callable[..., None]
) -> None:
    needs("celery")
    write("Celery", tmp_path)
    (tmp_path / "queue").mkdir()
    worker = ("celery", "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "INFO")
    with program(tmp_path, daemon.url, *worker, "--max-tasks-per-child", "4") as running:
        running.wait_for("ready")
        run(tmp_path, daemon.url, "-c", SEND)
        running.wait_for(r"tasks\.pay.* succeeded")
        wait_until(lambda: client.count() >= 13, "all is stored")
        assert running.end(signal.SIGTERM) == 0
    pictures = [event["picture"] for event in client.items(kind="resized")]
    assert sorted(pictures) == sorted(f"{n}.png" for n in range(12))
    assert client.count(kind="paid") == 1
