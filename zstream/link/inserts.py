"""From the outbox over the lane to a PUSH, and back from the confirmations to the outbox."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from zstream import topics, wire
from zstream.confirmation import Ask, Refusal, Report, Watermark
from zstream.errors import DecodeError, Error, Refused, Unavailable
from zstream.event import Event
from zstream.lane import ASK_S, Lane
from zstream.link.queries import Request
from zstream.link.sockets import Port
from zstream.outbox import Outbox, Progress, refused_error

#: Called with the events that were refused, as far as they are known, and the error.
OnRefused = Callable[[list[Event], Refused], None]

#: Seconds after a batch in which the next events wait for company: a lone event goes out at
#: once, and under load a batch fills while the thread naps.
NAP_S: Final = 0.001
_ASK_TIMEOUT_S: Final = 2.0

_log = logging.getLogger("zstream")


class InsertChannel:
    """The insert side of one client, in the link's thread.

    Args:
        outbox: Where the events come from.
        on_refused: Hears of refused events.
        request: Sends a request to the daemon.
    """

    def __init__(
        self, outbox: Outbox, on_refused: OnRefused | None, request: Callable[[Request], None]
    ) -> None:
        self.lane = Lane(keep=on_refused is not None)
        self._outbox = outbox
        self._on_refused = on_refused
        self._request = request
        self._answers: list[tuple[Ask, Request]] = []
        self._restarts = 0
        self._has_warned = False
        self.nap_until = 0.0
        self.is_blocked = False

    @property
    def topic(self) -> bytes:
        """The topic of the producer's confirmations."""
        return topics.of_producer(self.lane.producer)

    @property
    def has_answers(self) -> bool:
        """Whether a watermark came that no turn has read."""
        return any(request.is_done for _, request in self._answers)

    def turn(self, port: Port, now: float) -> None:
        """Take what was put, send what may be sent, ask what is to be asked."""
        self.lane.put(self._outbox.take())
        self._read_answers(now)
        self.is_blocked = False
        while (frames := self.lane.offer(now)) is not None:
            try:
                port.socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                self.is_blocked = True
                break
            self.lane.taken(now)
            self.nap_until = now + NAP_S
        ask = self.lane.ask(now)
        if ask is not None:
            self._ask(ask)
        self._tell()

    def monitor(self, happened: Sequence[bool], now: float) -> None:
        """The connection came or went."""
        for is_connected in happened:
            if is_connected:
                self.lane.connected(now)
            else:
                self.lane.disconnected(now)

    def publication(self, header: bytes, body: bytes, now: float) -> None:
        """A confirmation came."""
        try:
            kind = wire.decode_header(header).type
            fields = wire.unpack(body)
            last, refused = fields["last"], fields.get("refused", 0)
            if type(last) is not int or type(refused) is not int:
                raise DecodeError("a confirmation has numbers")
        except (Error, KeyError, AttributeError, TypeError):
            return  # it is but a hint; the watermark is the truth
        if kind == wire.ACK:
            self.lane.acknowledge(last, refused, now)
        elif kind == wire.NACK:
            self.lane.reject(now)

    def _ask(self, ask: Ask) -> None:
        request = Request("watermark", {"producer": ask.producer}, _ASK_TIMEOUT_S)
        self._answers.append((ask, request))
        self._request(request)

    def _read_answers(self, now: float) -> None:
        for entry in self._answers[:]:
            ask, request = entry
            if request.is_done:
                self._answers.remove(entry)
                self.lane.answer(ask, _watermark(request), now)

    def _tell(self) -> None:
        lane = self.lane
        progress = Progress(
            lane.settled, lane.released, lane.sent, lane.stored, lane.refused, lane.lost
        )
        before = self._outbox.progress
        reports, lane.reports = lane.reports, []
        if progress != before:
            refusals = [refusal for report in reports for refusal in report.refusals]
            self._outbox.tell(progress, refusals)
        if lane.restarts != self._restarts:
            self._restarts = lane.restarts
            _log_restart(progress.lost - before.lost)
        for report in reports:
            self._report(report)

    def _report(self, report: Report) -> None:
        error = refused_error(report.count, tuple(report.refusals))
        if self._on_refused is None:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s; flush() and stats() tell of more", error)
            return
        try:
            self._on_refused([_event(element) for element in report.elements], error)
        except Exception:  # noqa: BLE001 - the caller's code must not end the client's thread
            _log.exception("on_refused failed")


def _watermark(request: Request) -> Watermark | None:
    try:
        reply: dict[str, Any] = request.result()
        refusals: list[Refusal] = [
            (int(n), int(position), str(code), str(message))
            for n, position, code, message in reply["refusals"]
        ]
        return Watermark(int(reply["epoch"]), int(reply["last"]), int(reply["refused"]), refusals)
    except Unavailable:
        return None
    except (Error, KeyError, TypeError, ValueError) as error:
        _log.debug("no watermark, asked again in %g s: %s", ASK_S, error)
        return None


def _event(element: bytes) -> Event:
    value = wire.unpack(element)
    date, fields = value if isinstance(value, list) else (0, value)
    return Event(fields, 0, date)


def _log_restart(lost: int) -> None:
    if lost:
        _log.warning("%d events were lost on the way to a daemon that went away", lost)
    else:
        _log.info("the daemon does not know the numbers of this client: it counts anew")
