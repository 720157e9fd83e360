"""The sequences of docs/vectors.json: what a follower and a producer do, step by step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from zstream import wire
from zstream.confirmation import Ask, Nack, Watermark
from zstream.cursor import Cursor, parse_cursor
from zstream.errors import Error, from_wire
from zstream.lane import Lane
from zstream.source import Batch
from zstream.tail import TailCore
from zstream.wire import Header

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "vectors.json").read_text(encoding="utf-8")
)
TYPES = {name: number for number, name in wire.TYPE_NAMES.items()}

Step = Mapping[str, Any]


def entries(ids: list[int]) -> bytes:
    return wire.pack_entries(ids, [0] * len(ids), [wire.pack({"n": id}) for id in ids])


class Follower:
    """`TailCore`, driven by steps."""

    def __init__(self, case: Step) -> None:
        after = case.get("cursor")
        self.core = TailCore(after=Cursor(after[0], {0: after[1]}) if after else None)
        self.is_asked = False

    def step(self, step: Step) -> dict[str, Any]:
        """What comes of a step: events to hand on, the request to send, the cursor, the end."""
        if "publication" in step:
            kind, run, prev, id, ids = step["publication"]
            body = entries(ids) if kind == "DATA" else b"\x80"
            self.core.publication(Header(TYPES[kind], 0, run, prev, id, 0), body)
        elif "page" in step:
            run, upto, head, ids = step["page"]
            self.is_asked = False
            self.core.page(run, upto, head, entries(ids))
        else:
            self.core.fail(from_wire(step["error"], "as the daemon said", None))
        told: dict[str, Any] = {"events": []}
        try:
            while (events := self.core.take()) is not None:
                told["events"] += [event.id for event in events]
        except Error as error:
            told["ends"] = error.code
            return told
        if not self.is_asked and self.core.wants_page:
            asked = self.core.ask()
            told["asks"] = {
                name: asked[name] for name in ("run", "after", "missed") if name in asked
            }
            self.is_asked = True
        cursor = parse_cursor(self.core.cursor)
        told["cursor"] = [cursor.run, cursor.ids[0]]
        return told


class Batches:
    """A source of batches of so many events; a new producer has the next number as its id."""

    resumes = is_over = False
    first = 1

    def __init__(self, case: Step) -> None:
        self.number, self.epoch = 1, case.get("epoch", 0)
        self.first = case.get("first", 1)
        self.resumes = case.get("resumes", False)
        self.waiting: list[int] = []

    @property
    def producer(self) -> bytes:
        return self.number.to_bytes(16, "big")

    def take(self) -> Batch | None:
        if not self.waiting:
            return None
        size = self.waiting.pop(0)
        return Batch(size, wire.array_header(size) + b"\x80" * size)

    def settled(self, n: int) -> None:
        assert n >= 0

    def restart(self) -> bool:
        self.number, self.epoch, self.resumes = self.number + 1, 0, False
        return True


class Producer:
    """`Lane`, driven by steps."""

    def __init__(self, case: Step) -> None:
        self.source = Batches(case)
        self.lane = Lane(self.source)
        self.asked: Ask | None = None

    def step(self, step: Step) -> dict[str, Any]:
        """What comes of a step: batches sent as (producer, epoch, n, events), and a request."""
        lane, now = self.lane, step["at"]
        if "insert" in step:
            self.source.waiting += step["insert"]
        elif "connection" in step:
            (lane.connected if step["connection"] else lane.disconnected)()
        elif "ack" in step:
            last, refused, run = step["ack"]
            lane.acknowledge(last, refused, run, now)
        elif "nack" in step:
            code, n, epoch, last, run = step["nack"]
            lane.reject(Nack(n, epoch, last, code, "", run), now)
        elif "watermark" in step:
            epoch, last, refused, run = step["watermark"]
            assert self.asked is not None
            asked, self.asked = self.asked, None
            lane.answer(asked, Watermark(epoch, last, refused, (), run), now)
        sent = []
        while (frames := lane.offer(now)) is not None:
            header = wire.decode_batch_header(frames[0])
            number = int.from_bytes(header.producer, "big")
            sent.append([number, header.epoch, header.n, header.size])
            lane.taken(now)
        told: dict[str, Any] = {"sends": sent}
        if (ask := lane.ask(now)) is not None:
            self.asked = ask
            told["asks"] = int.from_bytes(ask.producer, "big")
        told["confirmed"] = lane.ledger.confirmed_n
        return told


def named(section: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in VECTORS[section]]


@pytest.mark.parametrize("case", named("followers"))
def test_a_follower_does_as_documented(case: Step) -> None:
    follower = Follower(case)
    for number, (step, expected) in enumerate(case["steps"]):
        assert follower.step(step) == expected, f"step {number}: {step}"


@pytest.mark.parametrize("case", named("producers"))
def test_a_producer_does_as_documented(case: Step) -> None:
    producer = Producer(case)
    for number, (step, expected) in enumerate(case["steps"]):
        assert producer.step(step) == expected, f"step {number}: {step}"
