"""What goes on while a store goes away: threads that insert, ask and follow, and look closely."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import zmq

from zstream import Client
from zstream.errors import Error, Unavailable

from .traffic import END, Row, make_event

#: The p of a flood without numbers.
FLOOD = 11


class Worker:
    """A thread that does the same again and again, until it is told to stop or finds a failure.

    Attributes:
        failure: What is wrong.
    """

    #: Seconds between two turns.
    pause_s = 0.0

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.work()
        except (Error, AssertionError, KeyError, OSError) as error:
            self.failure = f"{type(self).__name__}: {error!r}"

    def work(self) -> None:
        """All that it does; here one turn after the other."""
        while not self._stopping.wait(self.pause_s):
            self.turn()

    def turn(self) -> None:
        """What it does again and again."""

    def tell_to_stop(self) -> None:
        """Stop, once what is under way is done."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for its end, which must be a good one."""
        self._thread.join(60)
        assert self.failure is None, self.failure
        assert not self._thread.is_alive(), f"{type(self).__name__} hangs"

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self.tell_to_stop()
        self.join()


class Inserter(Worker):
    """Inserts numbered events, a few hundred a second; it waits when it must."""

    pause_s = 0.003

    def __init__(self, client: Client, p: int = 0) -> None:
        self._client, self._p = client, p
        self.count = 0
        super().__init__()

    def turn(self) -> None:
        self._client.insert(make_event(self._p, self.count))
        self.count += 1


class Reader(Worker):
    """Follows everything, from the first event on, until the one that ends it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.got: list[Row] = []
        super().__init__()

    @property
    def last(self) -> int:
        """The last id that it got."""
        return self.got[-1][0] if self.got else 0

    def work(self) -> None:
        with self._client.tail(after=0) as tail:
            for event in tail:
                assert event == make_event(event["p"], event["n"])
                self.got.append((event.id, event["p"], event["n"]))
                if event["p"] == END:
                    return


class Asker(Worker):
    """Asks for pages and counts over a bare socket, one after the other.

    Args:
        url: The daemon.
        sure: The last id that is known to be stored: whoever asks from now on must see it.

    Attributes:
        asked: When each was asked, how long its answer took, and its code, "" if it was good.
    """

    pause_s = 0.02

    def __init__(self, url: str, sure: Callable[[], int]) -> None:
        self._url, self._sure = url, sure
        self._number = 0
        self.asked: list[tuple[float, float, str]] = []
        super().__init__()

    def work(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as self._socket:
            self._socket.linger = 0
            self._socket.connect(self._url)
            super().work()

    def turn(self) -> None:
        self._number += 1
        ask: dict[str, Any] = (
            {"op": "items", "filter": {"kind": "watch"}, "limit": 20},
            {"op": "replay", "filter": {}, "after": 0, "limit": 5},
            {"op": "count", "filter": {}},
        )[self._number % 3]
        began, sure = time.monotonic(), self._sure()
        self._socket.send_multipart([b"", msgpack.packb({**ask, "id": self._number})])
        assert self._socket.poll(30_000), f"no answer to {ask}"
        reply = msgpack.unpackb(self._socket.recv_multipart()[1])
        took = time.monotonic() - began
        assert reply["id"] == self._number, "an answer to something else"
        if reply["ok"]:
            _check(ask["op"], reply, sure)
        else:
            assert reply["error"]["code"] == "unavailable", reply
            assert reply["error"]["retry_ms"] > 0, reply
        self.asked.append((began, took, "" if reply["ok"] else reply["error"]["code"]))

    def since(self, began: float) -> list[tuple[float, float, str]]:
        """What was asked since then."""
        return [each for each in self.asked.copy() if each[0] >= began]


def _check(op: str, reply: dict[str, Any], sure: int) -> None:
    assert reply["head"] >= sure, f"{op} sees up to {reply['head']}, {sure} is stored"
    if op == "count":
        assert reply["count"] >= sure, f"counted {reply['count']}, {sure} are stored"
        return
    ids = [id for id, _, _ in reply["events"]]
    assert sorted(set(ids), reverse=op == "items") == ids, f"{op}: an odd order: {ids}"
    if op == "replay":
        assert ids == list(range(1, len(ids) + 1)), f"a hole: {ids}"
    assert len(ids) == 5 or op == "items" or sure < 5, f"a short page: {ids}"
    for _, _, event in reply["events"]:
        assert event == make_event(event["p"], event["n"]), f"a changed event: {event}"


class Caller(Worker):
    """Calls a client: what needs no store must work always, what needs it works or says when to.

    Attributes:
        called: When each was called, what, how long it took, and whether it was good.
    """

    pause_s = 0.05

    def __init__(self, client: Client) -> None:
        self._client = client
        self.called: list[tuple[float, str, float, bool]] = []
        super().__init__()

    def turn(self) -> None:
        client = self._client
        calls: list[tuple[str, Callable[[], object]]] = [
            ("ping", client.ping), ("info", client.info),
            ("items", lambda: client.items(kind="watch")),
            ("count", lambda: client.count(kind="watch")),
        ]  # fmt: skip
        for name, call in calls:
            began, why = time.monotonic(), None
            try:
                call()
            except Unavailable as error:
                why = error
            self.called.append((began, name, time.monotonic() - began, why is None))
            assert why is None or name in ("items", "count"), f"{name} needs no store: {why}"
            assert why is None or why.retry_s, f"{name} does not say when to try again: {why}"

    def since(self, began: float) -> list[tuple[float, str, float, bool]]:
        """What was called since then."""
        return [each for each in self.called.copy() if each[0] >= began]


class Flood(Worker):
    """Throws events at the daemon as fast as it can, with a bare socket.

    Attributes:
        count: How many events the socket has taken.
        waits: For how many tenths of a second it has taken nothing since.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}-insert"
        self.count, self.waits = 0, 0
        super().__init__()

    def work(self) -> None:
        # What was taken is delivered when the daemon reads again: to close the socket waits for it.
        with zmq.Context() as context, context.socket(zmq.PUSH) as self._socket:
            self._socket.sndtimeo, self._socket.sndhwm = 100, 100
            self._socket.connect(self._url)
            super().work()

    def turn(self) -> None:
        some = range(self.count, self.count + 100)
        try:
            self._socket.send(msgpack.packb([make_event(FLOOD, n) for n in some]))
        except zmq.Again:
            self.waits += 1
        else:
            self.count, self.waits = self.count + 100, 0
