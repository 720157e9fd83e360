"""Where do the microseconds go that the daemon spends on an event, from the socket to the commit?

Each step is run by itself, with the daemon's own classes, on events of one message each; the
producer and libzmq are measured while they work together. Times are those that a thread was
running, so that a busy machine and a slow disk do not show; what waiting for the disk takes is a
line of its own. The threads overlap: the sum is what two cores have to share.
"""

import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import zmq
from common import KEYS, arguments, events, report

from zstream import topics
from zstream.backends import open_backend
from zstream.backends.base import Batch
from zstream.limits import MAX_AHEAD_US
from zstreamd.follow import Followers
from zstreamd.inbox import Inbox, Item, costs
from zstreamd.producers import Producers
from zstreamd.receive import Receiver
from zstreamd.registrations import Registrations
from zstreamd.rejects import Rejects
from zstreamd.transaction import Transaction
from zstreamd.validate import Validator

#: What one turn takes from the socket, one call of the validator, and one transaction.
TURN, CHUNK, COMMIT = 64, 1_000, 5_000
TURN_BYTES = 8 << 20
NOW = 1_700_000_000_000_000
#: Rows are sealed a quarter of a million at a time; the rest of them is indexed at the end.
SETTLED_S = 60.0


def say(step: str, thread: str, seconds: float, count: int) -> None:
    """Report a step."""
    report("steps", step=step, thread=thread, us_per_event=round(seconds / count * 1e6, 3))


def pieces(frames: Sequence[bytes], size: int) -> Iterator[list[bytes]]:
    """Cut frames into lists of ``size``."""
    for start in range(0, len(frames), size):
        yield list(frames[start : start + size])


def took(work: Callable[[list[bytes]], object], frames: Sequence[bytes], size: int) -> float:
    """How long the thread runs for all frames, ``size`` at once: the best of three times."""
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        for some in pieces(frames, size):
            work(some)
        best = min(best, time.thread_time() - began)
    return best


def push(count: int, endpoint: str, pipe: Connection) -> None:
    """Be a producer: pack and send; tell how long the thread ran."""
    sample = events(min(count, 10_000), seed=2)
    pack = msgpack.packb
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(endpoint)
        send = socket.send
        began, all_began = time.thread_time(), time.process_time()
        for place in range(count):
            send(pack(sample[place % len(sample)]))
        ran = time.thread_time() - began
        pipe.send((ran, time.process_time() - all_began - ran))
        pipe.recv()


def socket_steps(count: int) -> None:
    """The producer, libzmq on both sides, and the socket as the I/O thread empties it."""
    here, there = multiprocessing.Pipe()
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.setsockopt(zmq.RCVHWM, TURN)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        producer = multiprocessing.Process(
            target=push, args=(count, f"tcp://127.0.0.1:{port}", there), daemon=True
        )
        producer.start()
        receiver, poller, found = Receiver(socket, 2), zmq.Poller(), 0
        poller.register(socket, zmq.POLLIN)
        poller.poll()
        began, all_began = time.thread_time(), time.process_time()
        while found < count:
            poller.poll()
            found += len(receiver.burst(4 * TURN, TURN_BYTES))
        ran = time.thread_time() - began
        network = time.process_time() - all_began - ran
        packing, sending = here.recv()
        here.send(None)
        producer.join()
    say("a producer packs and sends with PUSH", "producer", packing, count)
    say("libzmq, on the producer's side", "producer's libzmq", sending, count)
    say("libzmq, on the daemon's side", "libzmq", network, count)
    say("take messages off the socket", "I/O", ran, count)


def queue(frames: Sequence[bytes]) -> None:
    """The way from the I/O thread to the writer."""
    inbox = Inbox(1 << 40, lambda: None)
    began = time.thread_time()
    for some in pieces(frames, TURN):
        items: list[Item] = list(some)
        inbox.put(items, costs(items))
    while inbox.take(COMMIT, 1 << 40, 0):
        pass
    say("sum up their sizes, queue them, take them", "I/O, writer", time.thread_time() - began,
        len(frames))  # fmt: skip


def validation(frames: Sequence[bytes]) -> None:
    """What the writer does with a frame before it has a batch."""
    bare, whole = Validator([]), Validator(KEYS)

    def assemble(some: list[bytes]) -> None:
        transaction = Transaction(whole, Producers({}), Registrations({}, 0), Rejects(None), NOW)
        transaction.add(some)
        transaction.batch(1, NOW)

    decoding = took(lambda some: bare.admit(some, NOW), frames, CHUNK)
    columns = took(lambda some: whole.admit(some, NOW), frames, CHUNK) - decoding
    assembly = took(assemble, frames, COMMIT) - decoding - columns
    count = len(frames)
    say("decode, encode again, compare", "writer", decoding, count)
    say("index values of three keys", "writer", columns, count)
    say("one batch of them", "writer", max(0.0, assembly), count)


def batches(frames: Sequence[bytes]) -> Iterator[Batch]:
    """The batches that the writer makes of frames."""
    validator, first = Validator(KEYS), 1
    for place, some in enumerate(pieces(frames, COMMIT)):
        arrival = NOW + place * 10_000
        transaction = Transaction(
            validator, Producers({}), Registrations({}, 0), Rejects(None), arrival + MAX_AHEAD_US
        )
        transaction.add(some)
        yield transaction.batch(first, arrival)
        first += len(some)


def store_steps(frames: Sequence[bytes], store: str) -> None:
    """A transaction and what follows it in the background, on a new store."""
    with tempfile.TemporaryDirectory(prefix="zstream-bench-") as folder:
        url = "memory:" if store == "memory" else f"sqlite:///{Path(folder) / 'bench.db'}"
        backend = open_backend(url)
        backend.open(KEYS)
        try:
            ran = waited = put_off = 0.0
            process_began, thread_began = time.process_time(), time.thread_time()
            for batch in batches(frames):
                began, clock = time.thread_time(), time.perf_counter()
                backend.append(batch)
                running = time.thread_time() - began
                ran += running
                waited += time.perf_counter() - clock - running
                began = time.thread_time()
                backend.tidy()
                put_off += time.thread_time() - began
            settle = getattr(backend, "settle", None)
            if settle is not None:
                settle(SETTLED_S)
            ours = time.thread_time() - thread_began
            background = time.process_time() - process_began - ours
        finally:
            backend.close()
    count = len(frames)
    say("append a batch and commit it", "writer", ran, count)
    say("the same, waiting for the disk or a core", "writer", waited, count)
    say("index ahead of queries, once nothing waits", "writer", put_off, count)
    say("seal the rows and merge the runs", "keeper", background, count)


def publication(frames: Sequence[bytes]) -> None:
    """What a commit says to followers."""
    rare = [{"user": user} for user in range(1_000)]
    followers: dict[str, list[dict[str, Any]]] = {
        "nobody follows": [],
        "1,000 users are followed": rare,
        "one filter follows, {}": [{}],
    }
    made = list(batches(frames))
    for who, filters in followers.items():
        told = Followers(KEYS, 0, 1, 0, {}, {}, 10_000)
        for filter in filters:
            told.subscribe(topics.encode(filter), 0.0, NOW)
        began = time.thread_time()
        for batch in made:
            told.commit(batch, 1.0, NOW)
        say(f"publish: {who}", "writer", time.thread_time() - began, len(frames))


def main() -> None:
    options = arguments(__doc__, events=(500_000, 20_000))
    frames = [msgpack.packb(event) for event in events(options.events)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as the daemon does
    socket_steps(options.events)
    queue(frames)
    validation(frames)
    store_steps(frames, options.store)
    publication(frames)


if __name__ == "__main__":
    main()
