"""From the sources over their lanes to a PUSH, and back from the confirmations."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from zstream import topics, wire
from zstream.confirmation import Ask, Nack, Refusal, Report, Watermark
from zstream.errors import DecodeError, Error, Unavailable
from zstream.lane import ASK_S, Lane
from zstream.ledger import Ledger
from zstream.link.queries import Request
from zstream.link.sockets import Port
from zstream.source import Source

#: Hears how far a lane came, and what was refused of it since it heard last.
Tell = Callable[[Ledger, list[Report]], None]
#: Takes the header and the body of a publication.
_Sink = Callable[[bytes, bytes], None]
_Follow = Callable[[bytes, _Sink], None]
_Heard = Callable[[object], None]

#: Seconds after a batch in which the next events wait for company: a lone event goes out at
#: once, and under load a batch fills while the thread naps.
NAP_S: Final = 0.001
_ASK_TIMEOUT_S: Final = 2.0

_log = logging.getLogger("zstream")


class _Stream:
    """One lane in the link's thread."""

    def __init__(self, source: Source, tell: Tell, heard: _Heard) -> None:
        self.source, self.lane, self._tell, self._heard = source, Lane(source), tell, heard
        self.topic = b""
        self.asked: tuple[Ask, Request] | None = None
        self._told = (-1, -1, -1)
        self._restarts = self._lost = 0

    @property
    def is_over(self) -> bool:
        return self.lane.is_over or self.source.is_over

    def publication(self, header: bytes, body: bytes) -> None:
        """A confirmation came. It is but a hint: what cannot be read is passed over."""
        try:
            head = wire.decode_header(header)
            fields = wire.unpack(body)
            last, refused = _number(fields, "last"), _number(fields, "refused")
            nack = Nack(
                _number(fields, "n"), _number(fields, "epoch"), last, str(fields.get("code")),
                str(fields.get("message")), head.run,
            )  # fmt: skip
        except (Error, AttributeError):
            return
        if head.type == wire.ACK:
            self._heard(fields.get("durability"))
            self.lane.acknowledge(last, refused, head.run, time.monotonic())
        elif head.type == wire.NACK:
            self.lane.reject(nack, time.monotonic())

    def send(self, socket: "zmq.Socket[bytes]", now: float) -> bool:
        """Send the next batch; False if there is none. Raises `zmq.Again`."""
        frames = self.lane.offer(now)
        if frames is None:
            return False
        socket.send_multipart(frames, zmq.NOBLOCK)
        self.lane.taken(now)
        return True

    def ask(self, request: Callable[[Request], None], now: float) -> None:
        ask = self.lane.ask(now)
        if ask is not None:
            asked = Request("watermark", {"producer": ask.producer}, _ASK_TIMEOUT_S)
            self.asked = ask, asked
            request(asked)

    def read_answer(self, now: float) -> None:
        if self.asked is not None and self.asked[1].is_done:
            ask, request = self.asked
            self.asked = None
            self.lane.answer(ask, _watermark(request), now)

    def tell(self) -> None:
        ledger, lane = self.lane.ledger, self.lane
        told = ledger.sent, ledger.settled, ledger.confirmed_n
        reports = ledger.take_reports()
        if told != self._told or reports:
            self._told = told
            self._tell(ledger, reports)
        if lane.restarts != self._restarts:
            self._restarts = lane.restarts
            lost, self._lost = ledger.lost - self._lost, ledger.lost
            _log_restart(lost, len(ledger.kept), lane.is_over)


class InsertChannel:
    """The insert side of one client, in the link's thread.

    Args:
        request: Sends a request to the daemon.
        follow, leave: Subscribe to a topic, and do so no more.
        heard: Takes what a confirmation says of the store's durability.

    Attributes:
        nap_until: When to look for more at the earliest.
        is_blocked: The socket takes nothing just now.
    """

    def __init__(
        self, request: Callable[[Request], None], follow: _Follow, leave: _Follow, heard: _Heard
    ) -> None:
        self._request, self._follow, self._leave, self._heard = request, follow, leave, heard
        self._streams: deque[_Stream] = deque()
        self._is_connected = False
        self.nap_until = 0.0
        self.is_blocked = False

    def add(self, source: Source, tell: Tell) -> None:
        """Send what a source has until it is over."""
        stream = _Stream(source, tell, self._heard)
        if self._is_connected:
            stream.lane.connected()
        self._streams.append(stream)

    @property
    def has_answers(self) -> bool:
        """Whether a watermark came that no turn has read."""
        return any(each.asked is not None and each.asked[1].is_done for each in self._streams)

    @property
    def count(self) -> int:
        """Lanes that are not over."""
        return len(self._streams)

    def wake_at(self) -> float | None:
        """When a turn may have something to do without any other input."""
        times = [each.lane.wake_at() for each in self._streams]
        return min((each for each in times if each is not None), default=None)

    def turn(self, port: Port, now: float) -> None:
        """Send what may be sent, ask what is to be asked, tell what became of it."""
        for stream in self._streams:
            stream.read_answer(now)
        self._send(port.socket, now)
        for stream in list(self._streams):
            stream.ask(self._request, now)
            stream.tell()
            if stream.is_over:
                self._streams.remove(stream)
                self._leave(stream.topic, stream.publication)
            elif stream.topic != (topic := topics.of_producer(stream.lane.producer)):
                if stream.topic:
                    self._leave(stream.topic, stream.publication)
                self._follow(topic, stream.publication)
                stream.topic = topic

    def _send(self, socket: "zmq.Socket[bytes]", now: float) -> None:
        """Let each lane send a batch in its turn, as long as one has something and it is taken."""
        self.is_blocked = False
        self._streams.rotate(-1)
        ready = list(self._streams)
        try:
            while ready:
                ready = [each for each in ready if each.send(socket, now)]
                if ready:
                    self.nap_until = now + NAP_S
        except zmq.Again:
            self.is_blocked = True

    def monitor(self, happened: Sequence[bool]) -> None:
        """The connection came or went."""
        for is_connected in happened:
            self._is_connected = is_connected
            for stream in self._streams:
                if is_connected:
                    stream.lane.connected()
                else:
                    stream.lane.disconnected()


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    if type(value) is not int:
        raise DecodeError(f"{name} of a confirmation is a number")
    return value


def _watermark(request: Request) -> Watermark | None:
    try:
        reply: dict[str, Any] = request.result()
        refusals: list[Refusal] = [
            (int(n), int(position), str(code), str(message))
            for n, position, code, message in reply["refusals"]
        ]
        epoch, last, refused, run = (
            int(reply[name]) for name in ("epoch", "last", "refused", "run")
        )
        return Watermark(epoch, last, refused, refusals, run)
    except Unavailable:
        return None
    except (Error, KeyError, TypeError, ValueError) as error:
        _log.debug("no watermark, asked again in %g s: %s", ASK_S, error)
        return None


def _log_restart(lost: int, kept: int, is_over: bool) -> None:
    if lost:
        _log.error(
            "somebody else took over the producer of this client; the fate of %d events is not"
            " known, and they are not sent again", lost,
        )  # fmt: skip
    elif not is_over:
        _log.warning(
            "the daemon does not know what it confirmed: its store was replaced. This client"
            " counts anew, and sends again what is not confirmed (%d batches)", kept,
        )  # fmt: skip
