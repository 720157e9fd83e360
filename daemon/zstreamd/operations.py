"""What can be asked of the daemon: each operation reads its fields and makes its reply."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zstream import times, topics, wire
from zstream.backends.base import Backend, Head, Position, Producer, Query
from zstream.cursor import Cursor, Token, parse_cursor, parse_token
from zstream.errors import (
    BadRequest,
    CursorLost,
    Error,
    TooLarge,
    Trimmed,
    Unavailable,
)  # fmt: skip
from zstream.keys import Filter, normalize
from zstream.limits import MAX_END, MAX_INTEGER, PAGE_EVENTS
from zstreamd.inbox import Call, Inbox, Item, Register, Trim, cost
from zstreamd.information import information
from zstreamd.opening import Opening
from zstreamd.outage import RETRY_S, Outage
from zstreamd.writer import Writer


@dataclass(slots=True)
class Reply:
    """The fields of a good reply; ``packed`` are values that are msgpack already."""

    fields: dict[str, Any]
    packed: dict[str, bytes] = field(default_factory=dict)


class Operations:
    """The operations of one daemon. Any thread may call them.

    Args:
        backend: The store, open.
        writer, inbox: Where inserts go, and who knows what was committed.
        outage: Knows whether the store is away.
        about: The rest of ``info``.
    """

    def __init__(
        self, backend: Backend, writer: Writer, inbox: Inbox, outage: Outage,
        about: Callable[[], Mapping[str, Any]],
    ) -> None:  # fmt: skip
        self._backend, self._writer, self._inbox = backend, writer, inbox
        self._outage, self._about = outage, about
        self._heals = 0
        self._counting = threading.Lock()
        self._table: dict[str, Callable[[dict[str, Any]], Reply]] = {
            "ping": self._ping,
            "info": lambda request: self.info(asks=True),
            "items": self._items,
            "replay": self._replay,
            "count": self._count,
            "watermark": self._watermark,
        }

    @property
    def _opening(self) -> Opening:
        return self._writer.opening

    @property
    def _opened(self) -> Head:
        return self._writer.opening.opened

    def run(self, op: str, request: dict[str, Any]) -> Reply:
        """Run an operation; an Error says what is wrong with the request."""
        method = self._table.get(op)
        if method is None:
            known = ", ".join([*self._table, "insert", "trim", "filter"])
            raise BadRequest(f"unknown op {op[:60]!r}; known are: {known}")
        for _ in range(2):
            opening = self._opening
            reply = method(request)
            if opening is self._opening:
                return self._complete(reply)
            # What was read may be of before, and must not be told with the run of now.
        raise Unavailable("the store was opened anew meanwhile; ask again", retry_s=RETRY_S)

    def info(self, *, asks: bool) -> Reply:
        """What ``info`` tells; without asking the store it waits for nobody."""
        told = information(self._backend, self._writer, self._inbox, self._outage, asks=asks)
        return self._complete(Reply({**told, "heals": self._heals, **self._about()}))

    def insert(self, frame: bytes, done: Callable[[Reply | Error], None]) -> None:
        """Hand events to the writer; ``done`` is called once they are on disk, or refused."""

        def reply(ids: Sequence[int] | Error) -> None:
            if isinstance(ids, Error):
                done(ids)
            else:
                fields = {"ids": list(ids), "durability": self._backend.durability}
                done(self._complete(Reply(fields)))

        if not frame:
            raise BadRequest("insert wants 'events', an array")
        self._hand_over(Call(frame, reply))

    def trim(self, request: dict[str, Any], done: Callable[[Reply | Error], None]) -> None:
        """Have the writer forget events; ``done`` is called once they are, or not."""

        def reply(result: tuple[int, int] | Error) -> None:
            if isinstance(result, Error):
                done(result)
            else:
                trimmed, floor = result
                done(self._complete(Reply({"trimmed": trimmed, "floor": floor})))

        if ("floor" in request) is (request.get("before") is not None):
            raise BadRequest("trim wants 'floor', an id, or 'before', a time of arrival")
        if "floor" in request:
            floor = _integer(request, "floor", 0, 0, MAX_INTEGER)
            last = self._backend.last_id()
            if floor > last:
                raise BadRequest(f"'floor' is {floor}, but the last id is {last}")
        else:
            floor = self._backend.arrived(_integer(request, "before", 0, 0, MAX_INTEGER))
        self._hand_over(Trim(floor, reply))

    def register(self, request: dict[str, Any], done: Callable[[Reply | Error], None]) -> None:
        """Have the writer note a filter; ``done`` is called once it can be followed, or not."""
        if "filter" not in request:
            raise BadRequest("filter wants 'filter', a map")
        text = topics.canonical(self._filter(request), self._opened.keys)
        name = topics.name_of(text)

        def reply(error: Error | None) -> None:
            topic = topics.of_registered(name).decode()
            done(self._complete(Reply({"topic": topic})) if error is None else error)

        self._hand_over(Register(name, text, reply))

    def _hand_over(self, item: Item) -> None:
        if (down := self._outage.down) is not None:
            raise Unavailable(f"the store cannot be written: {down}", retry_s=RETRY_S)
        self._inbox.put([item], cost(item))

    def _complete(self, reply: Reply) -> Reply:
        reply.fields.setdefault("head", self._opening.last)
        reply.fields["run"] = self._opened.run
        return reply

    # ------------------------------------------------------------ operations

    def _ping(self, request: dict[str, Any]) -> Reply:
        about = self._about()
        return Reply({
            "version": about["version"], "protocol": wire.VERSION,
            "durability": self._backend.durability,
        })  # fmt: skip

    def _items(self, request: dict[str, Any]) -> Reply:
        start = _integer(request, "start", 0, 0, MAX_END)
        limit = _integer(request, "limit", 20, 1, PAGE_EVENTS)
        if start + limit > MAX_END:
            raise TooLarge(f"start + limit is {start + limit}; beyond {MAX_END} walk with 'before'")
        token = self._token(request.get("before"))
        page = self._backend.items(Query(
            filter=self._filter(request),
            since=_optional(request, "since"),
            until=_optional(request, "until"),
            before=Position(token.ts, token.id) if token else None,
            head=token.head if token else None,
            offset=start,
            limit=limit,
        ))  # fmt: skip
        next_token = None
        if page.next is not None:
            head = token.head if token else page.head
            next_token = str(Token(self._opened.run, page.next.ts, page.next.id, head))
        return Reply(
            {"next": next_token, "skipped": page.skipped, "head": page.head},
            {"events": wire.pack_entries(page.ids, page.ts, page.bodies)},
        )

    def _replay(self, request: dict[str, Any]) -> Reply:
        query = Query(
            filter=self._filter(request),
            limit=_integer(request, "limit", PAGE_EVENTS, 1, PAGE_EVENTS),
        )
        after, is_place = self._after(request)
        missed = request.get("missed", False)
        if not isinstance(missed, bool):
            raise BadRequest("'missed' is true or false")
        replay = self._backend.replay(query, after)
        if is_place:  # now, because the floor may have risen before the page was read
            self._check_floor(after)
        with self._counting:
            self._heals += missed
        return Reply(
            {"upto": replay.upto, "head": replay.head},
            {"events": wire.pack_entries(replay.ids, replay.ts, replay.bodies)},
        )

    def _count(self, request: dict[str, Any]) -> Reply:
        query = Query(
            filter=self._filter(request),
            since=_optional(request, "since"),
            until=_optional(request, "until"),
        )
        return Reply({"count": self._backend.count(query)})

    def _watermark(self, request: dict[str, Any]) -> Reply:
        id = request.get("producer")
        if not isinstance(id, bytes) or len(id) != 16:
            raise BadRequest("watermark wants 'producer', 16 bytes")
        self._opening.producers.hear(id, times.now())
        row = self._opening.producers.stored.get(id, Producer(id, 0, 0, 0, b"\x90", 0))
        return Reply(
            {
                "epoch": row.epoch,
                "last": row.last,
                "refused": row.refused,
                "durability": self._backend.durability,
            },
            {"refusals": row.refusals},
        )

    # ------------------------------------------------------------ fields

    def _filter(self, request: dict[str, Any]) -> Filter:
        return normalize(request.get("filter", {}), self._opened.keys)

    def _token(self, text: object) -> Token | None:
        if text is None:
            return None
        token = parse_token(text)
        self._check_run(token.run, token.head, "the page token")
        return token

    def _after(self, request: dict[str, Any]) -> tuple[int, bool]:
        """Where to begin, and whether somebody stood there and must not miss what follows."""
        after, run = request.get("after", 0), request.get("run")
        if request.get("since") is not None:
            if "after" in request:
                raise BadRequest("replay takes 'after' or 'since', not both")
            return self._backend.arrived(_integer(request, "since", 0, 0, MAX_INTEGER)), False
        if isinstance(after, str):
            cursor: Cursor = parse_cursor(after)
            if cursor.ids.keys() != {self._opened.node}:
                raise CursorLost("the cursor is of other nodes than this one")
            run, id = cursor.run, cursor.ids[self._opened.node]
        else:
            id = _integer(request, "after", 0, 0, MAX_INTEGER)
        if run is not None:
            self._check_run(_integer({"run": run}, "run", 0, 0, MAX_INTEGER), id, "the cursor")
        else:
            self._check_run(self._opened.run, id, "the id")
        return id, id > 0 or run is not None

    def _check_floor(self, id: int) -> None:
        floor = self._opening.retention.floor
        if id < floor:
            raise Trimmed(
                f"events up to {floor} were trimmed; the cursor is at {id}. Begin anew: after=0 is"
                " the oldest event that is kept"
            )

    def _check_run(self, run: int, id: int, what: str) -> None:
        if run == self._opened.run:
            last = self._opening.last
        elif run in self._opening.runs:
            last = self._opening.runs[run]
        else:
            raise CursorLost(
                f"{what} is of another store, or of a life of this one that was lost; begin anew"
            )
        if id > last and run == self._opened.run:
            # A reader may have seen a commit that the writer is just about to speak of.
            last = self._backend.last_id()
        if id > last:
            raise CursorLost(
                f"{what} is at {id}, but its run of the store ended at {last}; begin anew"
            )


def _integer(request: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = request.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name!r} is an integer from {low} to {high}")
    return value


def _optional(request: Mapping[str, Any], name: str) -> int | None:
    return None if request.get(name) is None else _integer(request, name, 0, 0, MAX_INTEGER)
