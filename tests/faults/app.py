"""An app server: a parent and its forked workers insert through one spool folder, till killed.

    python app.py JSON

Each worker has a p of its own. ``P.returned`` has an entry for each insert that returned, ``P.pid``
says who it is. A worker that was killed is replaced. On SIGTERM the workers close their clients,
then the parent ends; ``P.closed`` says that one did.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from traffic import RETURNED, make_event

from zstream import Client


class App:
    """The parent.

    Args:
        told: ``folder`` for its files, ``url``, ``options`` of the client, ``first``: the p of the
            first worker, ``workers``.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self._folder = Path(told["folder"])
        self._next = told["first"]
        self._pids: set[int] = set()
        self._is_ending = False
        self.client = Client(told["url"], **told["options"])
        # The parent's own lane is open, and its threads run, when it forks.
        self._insert(self._next, 0, self._log(self._next))
        self._next += 1
        signal.signal(signal.SIGTERM, self._end)
        for _ in range(told["workers"]):
            self._fork()

    def run(self) -> None:
        """Replace workers that were killed, until told to end."""
        while self._pids:
            pid, status = os.wait()
            self._pids.discard(pid)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                raise SystemExit(f"a worker failed: {status}")
            if not self._is_ending:
                self._fork()
        self.client.close()

    def _end(self, *_: object) -> None:
        self._is_ending = True
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)

    def _fork(self) -> None:
        p, self._next = self._next, self._next + 1
        # A signal between the fork and the note of the pid would leave the worker alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid == 0:
            self._work(p)
        self._pids.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _work(self, p: int) -> NoReturn:
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        code = 1
        try:
            rng, log, n = random.Random(p), self._log(p), 0
            while not ended.wait(rng.uniform(0, 0.03)):
                for _ in range(rng.choice((1, 1, 3, 20, 20, 20, 20, 200))):
                    self._insert(p, n, log)
                    n += 1
            self.client.close()
            (self._folder / f"{p}.closed").touch()
            code = 0
        finally:
            if code:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)

    def _log(self, p: int) -> int:
        made = self._folder / f"{p}.pid.part"
        made.write_text(str(os.getpid()))
        log = os.open(self._folder / f"{p}.returned", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        made.rename(self._folder / f"{p}.pid")
        return log

    def _insert(self, p: int, n: int, log: int) -> None:
        self.client.insert(make_event(p, n))
        os.write(log, RETURNED.pack(time.monotonic_ns(), n))


if __name__ == "__main__":
    App(json.loads(sys.argv[1])).run()
