"""The end of a daemon in the middle of work: what it says it stored is there, and no less.

Every event carries the name of its producer and a number from 0, so that what is in the store
afterwards can be held against what was sent and what was confirmed.
"""

import json
import os
import re
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from zstream import Client, FlushError, TimedOut, Unavailable
from zstream.testing import Server, server
from zstreamd.inbox import cost

from .plain import jsonl
from .support import (
    BYE,
    HELLO,
    PATIENCE_S,
    Socket,
    ask_well,
    everything,
    receive,
    start_zstream,
    wait_until,
)  # fmt: skip

KEYS: Final = ("producer", "seq")
#: So much is stored before the daemon is told to stop.
MIDDLE: Final = 3_000
PAD: Final = "x" * 100


def event(producer: str, seq: int) -> dict[str, Any]:
    return {"producer": producer, "seq": seq, "pad": PAD}


class Producer(threading.Thread):
    """Sends until it is told to end.

    Attributes:
        sent: So many events at the most were given away; those stored are a part of them.
        confirmed: The daemon said of so many, from the first, that they are stored.
        failure: What ended it before it was told to, and should not have.
    """

    confirms = False

    def __init__(self, name: str, running: Server) -> None:
        super().__init__(name=name, daemon=True)
        self.url, self.endpoints = running.url, running.endpoints
        self.sent = self.confirmed = 0
        self.failure: Exception | None = None
        self._end = threading.Event()

    @property
    def ending(self) -> bool:
        return self._end.is_set()

    def run(self) -> None:
        try:
            self.produce()
        except Exception as error:  # noqa: BLE001 - raised again by end()
            self.failure = error

    def produce(self) -> None:
        raise NotImplementedError

    def tell_end(self) -> None:
        self._end.set()

    def end(self) -> None:
        if self.ident is not None:
            self.join(PATIENCE_S)
        assert not self.is_alive(), f"{self.name} hangs"
        if self.failure is not None:
            raise self.failure

    def next(self) -> dict[str, Any]:
        self.sent += 1
        return event(self.name, self.sent - 1)


class RawProducer(Producer):
    """A bare PUSH socket: single events, arrays, and now and then something that is refused."""

    def produce(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            push.linger = 0
            push.sndtimeo = 100
            push.connect(self.endpoints.insert)
            turn = 0
            while not self.ending:
                turn += 1
                frame: object = self.next()
                if turn % 3 == 0:
                    frame = [frame, self.next(), "this is no event", self.next()]
                if turn % 100 == 0:
                    self.push(push, b"\xc1")
                self.push(push, msgpack.packb(frame))

    def push(self, socket: "zmq.Socket[bytes]", data: bytes) -> None:
        while not self.ending:
            try:
                socket.send(data)
                return
            except zmq.Again:
                continue


class FlushingProducer(Producer):
    """A client that flushes after each 200 events."""

    confirms = True
    pending = 0

    def produce(self) -> None:
        with Client(self.url, on_full="block") as client:
            while not self.ending:
                for _ in range(200):
                    client.insert(self.next())
                try:
                    client.flush(timeout=2)
                except FlushError as error:
                    self.pending = error.pending
                    break
                self.confirmed = self.sent
            self._end.wait(PATIENCE_S)


class WaitingProducer(Producer):
    """A client that waits for each of its events."""

    confirms = True
    ids: dict[int, int]

    def produce(self) -> None:
        self.ids = {}
        with Client(self.url, timeout=2) as client:
            while not self.ending:
                seq = self.sent
                try:
                    self.ids[seq] = client.insert(self.next(), wait=True)
                except (TimedOut, Unavailable):
                    break
                self.confirmed = self.sent
            self._end.wait(PATIENCE_S)


class Import(Producer):
    """``zstream import`` with an endless stdin. It confirms by what it says in the end."""

    confirms = True
    process: "subprocess.Popen[bytes]"

    def __init__(self, name: str, running: Server) -> None:
        super().__init__(name, running)
        self._go_on = threading.Event()

    def go_on(self) -> None:
        """More than the first line. It is waited for alone, because the command has to start."""
        self._go_on.set()

    def tell_end(self) -> None:
        super().tell_end()
        self._go_on.set()

    def produce(self) -> None:
        self.process = start_zstream(self.url, "--timeout", "1", "import", "-")
        try:
            self.write(1)
            self._go_on.wait(PATIENCE_S)
            while not self.ending:
                self.write(100)
        except BrokenPipeError:
            self._end.wait(PATIENCE_S)
        self.said = self.process.communicate(timeout=PATIENCE_S)[1].decode()
        claimed = re.search(r"^stored ([\d,]+) events", self.said, re.MULTILINE)
        assert claimed is not None, self.said
        self.confirmed = int(claimed[1].replace(",", ""))

    def write(self, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(jsonl(self.next() for _ in range(count)))
        self.process.stdin.flush()


@contextmanager
def producing(running: Server, life: str) -> Iterator[list[Producer]]:
    """Run some of each kind until the block ends; it begins when all of them are at work."""
    producers = [
        Import(f"import {life}", running),
        FlushingProducer(f"flush 1 {life}", running),
        FlushingProducer(f"flush 2 {life}", running),
        WaitingProducer(f"wait {life}", running),
        RawProducer(f"raw 1 {life}", running),
        RawProducer(f"raw 2 {life}", running),
    ]
    importing, *others = producers
    assert isinstance(importing, Import)
    try:
        importing.start()
        wait_until(lambda: stored(running, producer=importing.name), f"{importing.name} works")
        importing.go_on()
        for each in others:
            each.start()
        for each in others:
            wait_until(lambda name=each.name: stored(running, producer=name), f"{each.name} works")
        wait_until(lambda: stored(running) > MIDDLE, "the daemon is in the middle of it")
        yield producers
    finally:
        for each in producers:
            each.tell_end()
        for each in producers:
            each.end()


@contextmanager
def a_daemon(folder: Path) -> Iterator[Server]:
    """On SQLite, and with a short queue: it is full all the time and soon stored."""
    url = f"sqlite:///{folder}/events.db"
    with server(keys=KEYS, store=url, options=("--queue-bytes", "1MiB")) as running:
        yield running


def stored(running: Server, **filter: str) -> int:
    return int(ask_well(running.url, "count", filter=filter)["count"])


def end_by(running: Server, *numbers: int) -> int:
    """Send just these signals; gives the exit code."""
    for number in numbers:
        os.kill(running.pid, number)
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    return running.stop()


def stopped_line(running: Server) -> dict[str, Any]:
    line = json.loads(running.log[-1])
    assert line["event"] == "stopped", line
    assert isinstance(line, dict)
    return line


def check_store(url: str, producers: list[Producer]) -> int:
    """What is there: ids without gaps, of each producer a prefix, and all that was confirmed."""
    found = everything(url)
    assert [id for id, _, _ in found] == list(range(1, len(found) + 1))
    assert ask_well(url, "count")["count"] == len(found)
    stored = defaultdict(list)
    ids = {}
    for id, _, each in found:
        stored[each["producer"]].append(each["seq"])
        ids[each["producer"], each["seq"]] = id
    assert set(stored) <= {each.name for each in producers}
    for each in producers:
        count = len(stored[each.name])
        assert stored[each.name] == list(range(count)), each.name
        assert each.confirmed <= count <= each.sent, each.name
        if isinstance(each, WaitingProducer):
            assert all(ids[each.name, seq] == id for seq, id in each.ids.items())
    return len(found)


def follow_to_the_end(
    subscriber: "zmq.Socket[bytes]", topic: bytes, complete: int, head: int
) -> list[int]:
    """The ids that a follower was given; the last it hears is that it has all up to the head."""
    ids: list[int] = []
    while True:
        told = receive(subscriber, topic)
        assert told.prev == complete
        complete = told.id
        ids += [id for id, _, _ in told.entries]
        if told.kind == BYE:
            assert complete == head
            return ids


def test_a_stop_accounts_for_everything(tmp_path: Path, zmq_socket: Socket) -> None:
    """Twice on one store, by both signals; the second life goes on where the first ended."""
    lives: list[Producer] = []
    total = 0
    with a_daemon(tmp_path) as running:
        for life, number in (("once", signal.SIGTERM), ("again", signal.SIGINT)):
            topic = json.dumps({"producer": f"flush 1 {life}"}).encode()
            subscriber = zmq_socket(zmq.SUB, running.endpoints.publish)
            subscriber.subscribe(topic)
            hello = receive(subscriber, topic)
            assert (hello.kind, hello.id) == (HELLO, total)
            with producing(running, life) as producers:
                assert end_by(running, number) == 0
            line = stopped_line(running)
            assert line["received"] == line["stored"] + line["refused"]
            assert line["stored"] > MIDDLE
            assert line["refused"] > 0
            assert line["lost"] == 0
            total += line["stored"]
            lives += producers
            followed = follow_to_the_end(subscriber, topic, hello.id, total)
            subscriber.close()

            importing = producers[0]
            assert isinstance(importing, Import)
            assert importing.process.returncode in (1, 3), importing.said
            assert "Traceback" not in importing.said

            running.start()
            assert check_store(running.url, lives) == total
            assert ask_well(running.url, "info")["head"] == total
            slice_ = everything(running.url, filter=json.loads(topic))
            assert followed == [id for id, _, _ in slice_]


def backlog(running: Server, push: "zmq.Socket[bytes]") -> int:
    """Send faster than it is stored; gives a number of events that are stored or were read."""
    # All frames are of one size, so that the size of the queue tells their number.
    frame = msgpack.packb([event("raw", 1_000 + seq) for seq in range(50)])
    waiting, info = 0, {"stored": 0}
    while waiting < 200 or not info["stored"]:
        for _ in range(1_000):
            push.send(frame)
        info = ask_well(running.url, "info")
        waiting = info["queue_bytes"] // cost(frame)
    return int(info["stored"]) + waiting * 50


def test_a_stop_stores_what_was_read(tmp_path: Path, zmq_socket: Socket) -> None:
    with server(keys=KEYS, store=f"sqlite:///{tmp_path}/events.db") as running:
        read = backlog(running, zmq_socket(zmq.PUSH, running.endpoints.insert))
        assert end_by(running, signal.SIGTERM) == 0
        assert stopped_line(running)["stored"] >= read


def test_a_second_signal_forces_the_end(tmp_path: Path, zmq_socket: Socket) -> None:
    """In the middle of work; the store is whole all the same."""
    with server(keys=KEYS, store=f"sqlite:///{tmp_path}/events.db") as running:
        push = zmq_socket(zmq.PUSH, running.endpoints.insert)
        backlog(running, push)
        # Both are pending when it goes on, so the second comes before the stop is done.
        numbers = signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT
        assert end_by(running, *numbers) == 1
        push.close()
        running.start()
        head = ask_well(running.url, "info")["head"]
        assert head > 0
        assert [id for id, _, _ in everything(running.url)] == list(range(1, head + 1))
        with Client(running.url) as client:
            assert client.insert({"producer": "after"}, wait=True) == head + 1


def test_what_was_confirmed_outlives_a_kill(tmp_path: Path) -> None:
    with a_daemon(tmp_path) as running:
        with producing(running, "once") as producers:
            assert running.kill() == -signal.SIGKILL
        assert all(each.confirmed > 0 for each in producers if each.confirms)
        running.start()
        assert check_store(running.url, producers) > MIDDLE


def test_clients_that_stay_go_on_after_a_kill(tmp_path: Path) -> None:
    """A flush tells of a loss once; what is inserted after it is stored, once and in order."""
    with a_daemon(tmp_path) as running:
        with Client(running.url, timeout=PATIENCE_S) as client:
            told, told_lost, seq = set(), 0, 0
            for _ in range(3):
                for _ in range(10_000):
                    client.insert(event("client", seq))
                    seq += 1
                wait_until(lambda: client.info()["stored"] > 0, "something is stored")
                running.restart(kill=True)
                try:
                    client.flush(timeout=PATIENCE_S)
                except FlushError as error:
                    told_lost += error.pending
                after = range(seq, seq + 50)
                for each in after:
                    client.insert(event("client", each))
                seq += 50
                client.flush(timeout=PATIENCE_S)
                told |= set(after)
            stored = [each["seq"] for _, _, each in everything(running.url)]
        assert stored == sorted(set(stored))
        assert told <= set(stored)
        # It may count as lost what was stored and not confirmed, but never the other way round.
        assert seq - len(stored) <= told_lost
