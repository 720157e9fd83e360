"""Messages off a socket: of one with too many frames the first ones, and the next is whole."""

from typing import NamedTuple

import pytest
import zmq

from zstreamd.receive import Receiver

Socket = zmq.Socket[bytes]


class Pair(NamedTuple):
    here: Socket
    there: Socket


@pytest.fixture
def pair(zmq_context: zmq.Context[Socket]) -> Pair:
    there = zmq_context.socket(zmq.PULL)
    there.bind("inproc://pair")
    here = zmq_context.socket(zmq.PUSH)
    here.connect("inproc://pair")
    return Pair(here, there)


def turns(receiver: Receiver, wanted: int, most: int = 100) -> list[list[list[bytes]]]:
    """Take until so many messages have come, and say what each turn brought."""
    found: list[list[list[bytes]]] = []
    while sum(map(len, found)) < wanted:
        found.append(list(receiver.messages(most)))
    return found


def test_messages_come_as_they_were_sent(pair: Pair) -> None:
    sent = [[b"1"], [b"", b"2"], [b"a", b"b", b"c"]]
    for message in sent:
        pair.here.send_multipart(message)
    assert turns(Receiver(pair.there, 3), 3) == [sent]


def test_a_turn_takes_no_more_than_it_is_told(pair: Pair) -> None:
    for number in range(5):
        pair.here.send(b"%d" % number)
    receiver = Receiver(pair.there, 1)
    assert [len(turn) for turn in turns(receiver, 5, most=2)] == [2, 2, 1]


def test_an_empty_socket_gives_nothing(pair: Pair) -> None:
    assert list(Receiver(pair.there, 1).messages(10)) == []


def test_a_message_of_too_many_frames_is_cut_and_the_next_is_whole(pair: Pair) -> None:
    pair.here.send_multipart([b"1", b"2", b"3", b"4", b"5"])
    pair.here.send_multipart([b"6", b"7"])
    found = turns(Receiver(pair.there, 2), 2)
    assert found == [[[b"1", b"2", b"3"], [b"6", b"7"]]]


def test_one_frame_too_many_is_no_cut(pair: Pair) -> None:
    pair.here.send_multipart([b"1", b"2", b"3"])
    receiver = Receiver(pair.there, 2)
    assert turns(receiver, 1) == [[[b"1", b"2", b"3"]]]
    assert not receiver.inside


def test_an_endless_message_is_passed_over_in_several_turns(pair: Pair) -> None:
    pair.here.send_multipart([b""] * 10_000)
    pair.here.send(b"behind it")
    found = turns(Receiver(pair.there, 1), 2)
    assert found[0] == [[b"", b""]]
    assert found[-1] == [[b"behind it"]]
    assert len(found) > 4


def bursts(receiver: Receiver, wanted: int, most: int = 100) -> list[list[bytes | list[bytes]]]:
    """Take until so many messages have come, and say what each burst brought."""
    found: list[list[bytes | list[bytes]]] = []
    while sum(map(len, found)) < wanted:
        found.append(receiver.burst(most, 1 << 20))
    return found


def test_a_burst_takes_what_is_there_and_loses_nothing_at_the_end_of_it(pair: Pair) -> None:
    sent = [b"%d" % number for number in range(37)]
    for frame in sent:
        pair.here.send(frame)
    assert bursts(Receiver(pair.there, 2), 37) == [sent]
    assert Receiver(pair.there, 2).burst(100, 1 << 20) == []


def test_a_burst_keeps_the_frames_of_a_message_together(pair: Pair) -> None:
    sent = [[b"1"], [b"", b"2"], [b""], [b"3", b"4"], [b"a", b"b", b"c"], [b"5"]]
    for message in sent:
        pair.here.send_multipart(message)
    wanted = [message if len(message) > 1 else message[0] for message in sent]
    assert bursts(Receiver(pair.there, 3), 6) == [wanted]


def test_a_burst_that_ends_within_a_message_takes_the_rest_of_it(pair: Pair) -> None:
    sent = [[b"head %d" % number, b"body"] for number in range(20)]
    pair.here.send(b"odd")
    for message in sent:
        pair.here.send_multipart(message)
    found = bursts(Receiver(pair.there, 2), 21, most=1)
    assert [message for burst in found for message in burst] == [b"odd", *sent]
    assert len(found) > 1


def test_a_burst_cuts_a_message_of_too_many_frames(pair: Pair) -> None:
    pair.here.send(b"before")
    pair.here.send_multipart([b"%d" % number for number in range(10)])
    pair.here.send(b"between")
    pair.here.send_multipart([b"%d" % number for number in range(10_000)])
    pair.here.send(b"behind")
    receiver = Receiver(pair.there, 2)
    found = bursts(receiver, 5)
    assert found[0] == [b"before", [b"0", b"1", b"2"], b"between", [b"0", b"1", b"2"]]
    assert found[-1] == [b"behind"]
    assert len(found) > 3
    assert not receiver.inside


def test_a_burst_of_large_frames_ends_soon(pair: Pair) -> None:
    for _ in range(40):
        pair.here.send(bytes(1 << 18))
    receiver = Receiver(pair.there, 1)
    assert [len(burst) for burst in bursts(receiver, 40)] == [16, 16, 8]
    for _ in range(16):
        pair.here.send(bytes(20 << 10))
    for _ in range(10):
        pair.here.send(bytes(1 << 18))
    assert [len(burst) for burst in bursts(receiver, 26)] == [19, 7]
