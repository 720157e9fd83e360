"""Filters that are followed by their hash: registered, followed, remembered by the next daemon."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from zstream import wire
from zstream.testing import Server, server

Socket = zmq.Socket[bytes]
Connect = Callable[[int, str], Socket]

LONG = {"user": [f"somebody with a long name {n}" for n in range(9_999)], "kind": ["a", "b"]}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    with server(store=f"sqlite:///{tmp_path}/store.db", keys=["kind", "user"]) as made:
        yield made


@pytest.fixture
def ask(running: Server, zmq_socket: Connect) -> Callable[..., dict[str, Any]]:
    def ask(op: str, **fields: Any) -> dict[str, Any]:
        socket = zmq_socket(zmq.REQ, running.endpoints.query)
        socket.send(msgpack.packb({"op": op, **fields}))
        return wire.decode_reply(socket.recv())

    return ask


def receive(sub: Socket, *types: int) -> tuple[bytes, wire.Header, Any]:
    while True:
        topic, header, body = sub.recv_multipart()
        if (decoded := wire.decode_header(header)).type in types:
            return topic, decoded, wire.unpack(body)


def test_a_long_filter_is_followed_by_its_hash(
    running: Server, ask: Callable[..., dict[str, Any]], zmq_socket: Connect
) -> None:
    reply = ask("filter", filter=LONG)
    text = json.dumps(
        {"kind": sorted(LONG["kind"]), "user": sorted(LONG["user"])},
        separators=(",", ":"), ensure_ascii=False,
    )  # fmt: skip
    assert reply["topic"] == "#" + sha256(text.encode()).hexdigest()[:32]
    again = {"kind": ["b", "a", "b"], "user": list(reversed(LONG["user"]))}
    assert ask("filter", filter=again)["topic"] == reply["topic"], "it is the same filter"
    sub = zmq_socket(zmq.SUB, running.endpoints.publish)
    sub.subscribe(reply["topic"].encode())
    assert receive(sub, wire.HELLO)[0] == reply["topic"].encode()
    last = LONG["user"][-1]
    events = [{"kind": "a", "user": last}, {"kind": "c", "user": last}, {"kind": "b", "user": last}]
    ask("insert", events=events)
    _, header, body = receive(sub, wire.DATA)
    assert [id for id, _, _ in body] == [1, 3]
    # The next daemon knows it: who subscribes again by himself is greeted.
    running.restart(kill=True)
    topic, header, _ = receive(sub, wire.HELLO)
    assert (topic, header.id) == (reply["topic"].encode(), 3)
    ask("insert", events=events)
    assert [id for id, _, _ in receive(sub, wire.DATA)[2]] == [4, 6]


def test_registering_greets_who_has_subscribed_already(
    running: Server, ask: Callable[..., dict[str, Any]], zmq_socket: Connect
) -> None:
    topic = "#" + sha256(b'{"kind":["x"]}').hexdigest()[:32]
    sub = zmq_socket(zmq.SUB, running.endpoints.publish)
    sub.subscribe(topic)
    name, _, body = receive(sub, wire.ERR, wire.HELLO)
    assert (name, body["code"]) == (topic.encode(), "bad_filter")
    assert "operation 'filter'" in body["message"]
    commits = ask("info")["commits"]
    assert ask("filter", filter={"kind": "x"})["topic"] == topic
    assert receive(sub, wire.ERR, wire.HELLO)[1].type == wire.HELLO
    for _ in range(3):
        assert ask("filter", filter={"kind": "x"})["topic"] == topic
    assert ask("info")["commits"] == commits + 1, "what is known is not written again"


def test_filters_that_cannot_be_registered(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask("filter")["error"]["code"] == "bad_request"
    for filter, code in (
        (5, "bad_filter"),
        ({"unknown": 1}, "bad_filter"),
        ({"kind": [str(n) for n in range(10_001)]}, "bad_filter"),
        ({"kind": ["x" * 240 + str(n) for n in range(10_000)]}, "too_large"),
    ):
        assert ask("filter", filter=filter)["error"]["code"] == code
    assert ask("info")["commits"] == 0


def test_there_is_an_end_to_them(zmq_socket: Connect) -> None:
    with server(options=["--max-filters", "2"]) as running:
        socket = zmq_socket(zmq.REQ, running.endpoints.query)
        answers = []
        for n in (1, 2, 3, 2):
            socket.send(msgpack.packb({"op": "filter", "filter": {"user": n}}))
            reply = wire.decode_reply(socket.recv())
            answers.append(reply.get("error", {}).get("code"))
        assert answers == [None, None, "busy", None]
