"""What is subscribed to and is no filter gets an error on its own bytes; followers go on."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from zstream import wire
from zstream.limits import MAX_SUBSCRIPTION_BYTES, MAX_TOPIC_BYTES

from .hostile import MORE, Siege, dial, frame, resident_bytes, siege
from .support import wait_until

pack = msgpack.packb


@pytest.fixture(name="siege")
def _siege(tmp_path: Path) -> Iterator[Siege]:
    with siege(tmp_path) as running:
        yield running


class Follower:
    """A subscriber that keeps what it is told, and checks that its chain has no hole."""

    def __init__(self, siege: Siege, topic: bytes = b"{}", **options: Any) -> None:
        self.socket = siege.socket(zmq.SUB, rcvhwm=0, **options)
        self.topic = topic
        self.events: list[dict[str, Any]] = []
        self.kinds: Counter[int] = Counter()
        self._at: int | None = None
        self.socket.subscribe(topic)
        self.read_until(lambda: self.kinds[wire.HELLO])

    def read_until(self, enough: Any) -> None:
        while not enough():
            topic, header, body = self.socket.recv_multipart()
            told = wire.decode_header(header)
            if topic != self.topic:
                continue
            assert self._at is None or told.prev <= self._at, "a hole"
            self._at = told.id
            self.kinds[told.type] += 1
            if told.type == wire.DATA:
                self.events += [event for _, _, event in wire.unpack(body)]


def errors(socket: "zmq.Socket[bytes]", count: int) -> dict[bytes, tuple[str, str]]:
    """Read until so many topics got an error; gives code and message of each."""
    found: dict[bytes, tuple[str, str]] = {}
    while len(found) < count:
        topic, header, body = socket.recv_multipart()
        if wire.decode_header(header).type == wire.ERR:
            told = wire.unpack(body)
            found[topic] = (told["code"], told["message"])
    return found


BAD_TOPICS = [
    b"", b" ", b"x", b"kind=friend", b"null", b"[]", b"5", b'"text"', b"{", b"}", b"{}{}", b"{} ",
    b" {}", b"{}\0", b"\0", b"\xff\xfe", b'{"kind": }', b'{"kind": "x"', b'{"kind": "x"}}',
    b'{"kind": "x"}x', b"{'kind': 'x'}", b'{"kind": NaN}', b'{"kind": Infinity}',
    b'{"kind": 1e999}', b'{"kind": null}', b'{"kind": [null]}', b'{"kind": {"$ne": 1}}',
    b'{"kind": [["x"]]}', b'{"nokey": 1}', b'{"": 1}', b'{"kind": 1, "kind": 2}',
    b'{"kind": "\xff"}', b'{"kind": "nul\\u0000"}', b'{"\\ud800": 1}',
    b'{"\\ud800": 1, "\\ud800": 2}', b'{"kind": "' + b"x" * 256 + b'"}',
    b'{"kind": ' + b"9" * 4_000 + b"}", b'{"kind": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    b'{"a":' * 800 + b"}" * 800, b'{"kind": "' + b"x" * MAX_TOPIC_BYTES + b'"}',
    b"#" + b"0" * 32, b"#" + b"f" * 31, b"@" + b"0" * 31, b"@" + b"0" * 33, b"@" + b"F" * 32,
    b"x" * (MAX_SUBSCRIPTION_BYTES - len(b"\x09SUBSCRIBE")),
    *(b'{"kind":' + b"[" * n + b"]" * n + b"}" for n in range(950, 1_030)),
    *(b'{"kind":' + b'{"":' * n + b"1" + b"}" * n + b"}" for n in range(600, 817)),
]  # fmt: skip


def test_bad_topics_get_an_error_and_good_ones_go_on(siege: Siege) -> None:
    follower = Follower(siege)
    bad = siege.socket(zmq.SUB, sndhwm=0)
    for topic in BAD_TOPICS:
        bad.subscribe(topic)
    found = errors(bad, len(BAD_TOPICS))
    assert found.keys() == set(BAD_TOPICS)
    assert {code for code, _ in found.values()} == {"bad_filter", "too_large"}
    assert all(0 < len(message) < 1_000 for _, message in found.values())
    for topic in BAD_TOPICS:
        bad.unsubscribe(topic)
    push = siege.socket(zmq.PUSH)
    for _ in range(10):
        siege.push_good(push)
    follower.read_until(lambda: len(follower.events) >= 10)
    assert siege.info("filters") == 1


def test_surrogates_in_a_filter_match_nothing_and_break_nothing(siege: Siege) -> None:
    """JSON can say what UTF-8 and so no event can."""
    for topic in (b'{"kind": "\\ud800"}', b'{"kind": ["good", "\\udfff"], "user": "\\ud83d"}'):
        follower = Follower(siege, topic)
        siege.push_good(siege.socket(zmq.PUSH))
        follower.read_until(lambda kinds=follower.kinds: kinds[wire.BEAT])
        assert not follower.events


def test_a_hundred_thousand_subscriptions(siege: Siege) -> None:
    """Half of them are filters, of which 10,000 are taken, and half are none."""
    follower = Follower(siege)
    many = dial(siege.server.endpoints.publish, b"SUB")
    for start in range(0, 50_000, 1_000):
        many.sendall(
            b"".join(
                frame(b'\x01{"user":"u%d"}' % number) + frame(b"\x01none%d" % number)
                for number in range(start, start + 1_000)
            )
        )
    wait_until(lambda: siege.info("filters") >= 10_000, "10,000 filters are live")
    late = siege.socket(zmq.SUB)
    wait_until(lambda: _subscribes(late) == "busy", "all subscriptions were taken")
    push = siege.socket(zmq.PUSH)
    for _ in range(10):
        siege.push_good(push)
    follower.read_until(lambda: len(follower.events) >= 10)
    assert siege.info("filters") == 10_000
    many.close()
    wait_until(lambda: siege.info("filters") == 1, "the filters left with their follower")
    assert resident_bytes(siege.server, "VmHWM") < 500 << 20


def _subscribes(socket: "zmq.Socket[bytes]") -> str:
    socket.subscribe(b'{"kind":"late"}')
    return errors(socket, 1)[b'{"kind":"late"}'][0]


def test_subscribing_again_and_again_is_answered_at_a_bounded_rate(siege: Siege) -> None:
    follower = Follower(siege)
    many = dial(siege.server.endpoints.publish, b"SUB")
    many.sendall((frame(b"\x01{}") + frame(b'\x01{"kind":"x"}')) * 20_000)
    many.sendall((frame(b'\x01{"kind":"y"}') + frame(b'\x00{"kind":"y"}')) * 5_000)
    many.sendall((frame(b'\x00{"kind":"never"}') + frame(b"\x00")) * 5_000)
    many.sendall(frame(b'\x01{"kind":"last"}'))
    wait_until(lambda: siege.info("filters") == 3, "all of it was taken")
    push = siege.socket(zmq.PUSH)
    siege.push_good(push)
    follower.read_until(lambda: follower.events)
    assert follower.kinds[wire.HELLO] < 1_000
    many.close()


def test_a_subscription_over_the_limit_hurts_only_who_made_it(siege: Siege) -> None:
    """Its connection is reset again and again, until it takes the subscription back."""
    follower = Follower(siege)
    large = Follower(siege, b'{"kind":"good"}', reconnect_ivl=10)
    large.socket.subscribe(b"x" * (MAX_SUBSCRIPTION_BYTES + 1))
    huge = dial(siege.server.endpoints.publish, b"SUB")
    with pytest.raises(OSError, match=r"[Rr]eset|[Bb]roken"):
        huge.sendall(frame(b"\x01" + bytes(64 << 20)))
    huge.close()
    push = siege.socket(zmq.PUSH)
    siege.push_good(push)
    follower.read_until(lambda: follower.events)
    large.socket.unsubscribe(b"x" * (MAX_SUBSCRIPTION_BYTES + 1))
    hellos = large.kinds[wire.HELLO]
    large._at = None  # what it missed it would fetch by replay
    large.read_until(lambda: large.kinds[wire.HELLO] > hellos)
    siege.push_good(push)
    large.read_until(lambda: large.events)
    assert resident_bytes(siege.server, "VmHWM") < 200 << 20


def test_messages_that_are_no_subscriptions_are_refused(siege: Siege) -> None:
    """An XSUB may send anything; so may a SUB that is none of libzmq's."""
    follower = Follower(siege)
    for kind in (b"XSUB", b"SUB"):
        raw = dial(siege.server.endpoints.publish, kind)
        raw.sendall(frame(b"hello") + frame(b"") + frame(b"\x02{}"))
        raw.sendall(frame(b"a", MORE) + frame(b"b", MORE) * 5_000 + frame(b"c"))
        raw.sendall(frame(b'\x01{"kind":"%s"}' % kind))
        topic = b'{"kind":"%s"}' % kind
        got = b""
        while topic not in got:
            got += raw.recv(4096)
        raw.close()
    wait_until(lambda: siege.info("filters") == 1, "they left")
    lines = siege.wait_refused(siege.info("refused"))
    assert len(lines) >= 8
    assert {line["code"] for line in lines} == {"bad_request"}
    siege.push_good(siege.socket(zmq.PUSH))
    follower.read_until(lambda: follower.events)


def test_a_subscriber_that_never_reads_costs_a_bounded_amount(siege: Siege) -> None:
    """What it does not take is dropped in the end; the others get all of it."""
    follower = Follower(siege)
    slow = dial(siege.server.endpoints.publish, b"SUB")
    slow.sendall(frame(b'\x01{"kind":"good"}'))
    wait_until(lambda: siege.info("filters") == 2, "both follow")
    push = siege.socket(zmq.PUSH, sndhwm=10)
    event = siege.event(x=bytes(200_000))
    siege.expect(event, 2_500 - 1)
    body = pack(event)
    for number in range(1, 2_501):
        push.send(body)
        if number % 100 == 0:
            follower.read_until(lambda number=number: len(follower.events) == number)
            follower.events[:] = [{}] * number
    siege.wait_stored()
    held = resident_bytes(siege.server) - siege.info("size_bytes")
    assert held < 400 << 20
    slow.close()
