"""What can be asked of the daemon: each operation reads its fields and makes its reply."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zstream import times, topics, wire
from zstream.backends.base import Backend, Head, Position, Producer, Query
from zstream.cursor import Cursor, Token, parse_cursor, parse_token
from zstream.errors import BadRequest, CursorLost, Error, TooLarge, Trimmed, Unavailable
from zstream.keys import Filter, normalize
from zstream.limits import MAX_END, MAX_INTEGER, PAGE_EVENTS
from zstreamd.inbox import Call, Inbox, Item, Register, Trim, cost
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
        head: What it said when it was opened.
        writer, inbox: Where inserts go, and who knows what was committed.
        about: The rest of ``info``.
    """

    def __init__(
        self, backend: Backend, head: Head, writer: Writer, inbox: Inbox,
        about: Callable[[], Mapping[str, Any]],
    ) -> None:  # fmt: skip
        self._backend, self._opened, self._writer, self._inbox = backend, head, writer, inbox
        self._about = about
        self._runs = dict(head.runs)
        self._heals = 0
        self._counting = threading.Lock()
        self._table: dict[str, Callable[[dict[str, Any]], Reply]] = {
            "ping": self._ping,
            "info": self._info,
            "items": self._items,
            "replay": self._replay,
            "count": self._count,
            "watermark": self._watermark,
        }

    def run(self, op: str, request: dict[str, Any]) -> Reply:
        """Run an operation; an Error says what is wrong with the request."""
        method = self._table.get(op)
        if method is None:
            known = ", ".join([*self._table, "insert", "trim", "filter"])
            raise BadRequest(f"unknown op {op[:60]!r}; known are: {known}")
        return self._complete(method(request))

    def insert(self, frame: bytes, done: Callable[[Reply | Error], None]) -> None:
        """Hand events to the writer; ``done`` is called once they are on disk, or refused."""

        def reply(ids: Sequence[int] | Error) -> None:
            done(ids if isinstance(ids, Error) else self._complete(Reply({"ids": list(ids)})))

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
        if self._writer.down is not None:
            raise Unavailable(f"the store cannot be written: {self._writer.down}")
        self._inbox.put([item], cost(item))

    def _complete(self, reply: Reply) -> Reply:
        reply.fields.setdefault("head", self._writer.head)
        reply.fields["run"] = self._opened.run
        return reply

    # ------------------------------------------------------------ operations

    def _ping(self, request: dict[str, Any]) -> Reply:
        about = self._about()
        return Reply({"version": about["version"], "protocol": wire.VERSION})

    def _info(self, request: dict[str, Any]) -> Reply:
        writer, counters = self._writer, self._writer.counters
        stats, floor = self._backend.stats(), writer.retention.floor
        oldest = self._backend.replay(Query(limit=1), floor).ts
        fields = {
            "protocol": wire.VERSION,
            "keys": list(self._opened.keys),
            "node": self._opened.node,
            "floor": floor,
            "oldest": oldest[0] if oldest else None,
            "keep": str(writer.retention.keep),
            "events": stats.events,
            "size_bytes": stats.size_bytes,
            "received": counters.received,
            "stored": counters.stored,
            "refused": counters.refused,
            "duplicates": counters.duplicates,
            "nacked": counters.nacked,
            "unindexed": dict(zip(self._opened.keys, counters.unindexed, strict=True)),
            "queue_bytes": self._inbox.bytes,
            "commits": counters.commits,
            "commit_us": counters.commit_us,
            "filters": writer.followers.filters,
            "followers": writer.followers.filters + writer.followers.confirmed,
            "producers": len(writer.producers.stored),
            "heals": self._heals,
            "down": None if writer.down is None else str(writer.down),
            **self._about(),
        }
        return Reply(fields)

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
        self._writer.producers.hear(id, times.now())
        row = self._writer.producers.stored.get(id, Producer(id, 0, 0, 0, b"\x90", 0))
        return Reply(
            {"epoch": row.epoch, "last": row.last, "refused": row.refused},
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
        floor = self._writer.retention.floor
        if id < floor:
            raise Trimmed(
                f"events up to {floor} were trimmed; the cursor is at {id}. Begin anew: after=0 is"
                " the oldest event that is kept"
            )

    def _check_run(self, run: int, id: int, what: str) -> None:
        if run == self._opened.run:
            last = self._writer.head
        elif run in self._runs:
            last = self._runs[run]
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
