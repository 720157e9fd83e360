"""Messages off a socket: of one with too many frames the first ones, and the next is whole."""

from collections.abc import Callable
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


def test_a_first_frame_taken_by_somebody_else_is_finished(pair: Pair) -> None:
    for message in ([b"1"], [b"2", b"3"], [b"4", b"5", b"6", b"7"], [b"8"]):
        pair.here.send_multipart(message)
    receiver = Receiver(pair.there, 2)
    take: Callable[[], bytes] = pair.there.recv
    assert receiver.finish(take()) == [b"1"]
    assert receiver.finish(take()) == [b"2", b"3"]
    assert receiver.finish(take()) == [b"4", b"5", b"6"]
    assert receiver.inside
    assert receiver.pass_over()
    assert receiver.finish(take()) == [b"8"]
