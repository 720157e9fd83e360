"""What a client asks the daemon, beside inserts and tails: each call is a request or a few."""

import time
from collections.abc import Mapping
from typing import Any, TypeVar

from zstream import calls
from zstream.base import ClientBase
from zstream.calls import Call
from zstream.errors import Error
from zstream.event import Page
from zstream.queries import Filter, make_query, make_trim
from zstream.times import Time

T = TypeVar("T")


class Asking(ClientBase):
    """The part of a client that asks, and waits for answers."""

    def _ask(
        self, op: str, fields: Mapping[str, Any], packed: Mapping[str, bytes] | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its good reply; a bad one is raised."""
        return self._submit(op, fields, packed).wait()

    def _run(self, call: Call[T]) -> T:
        try:
            ask = next(call)
            while True:
                try:
                    reply = self._ask(*ask)
                except Error as error:
                    ask = call.throw(error)
                else:
                    ask = call.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    def items(
        self, filter: Filter | None = None, /, *, start: int = 0, end: int | None = None,
        since: Time | None = None, until: Time | None = None, before: str | None = None,
        **keys: Any,
    ) -> Page:  # fmt: skip
        """Read events, newest first.

        Args:
            filter: A map of keys to a value or an iterable of values: every key must match, any
                of its values will do. Keys called start, end, since, until, before or after go
                in here.
            start, end: Which of the newest: ``[start:end]``. Without ``end`` 20; at most 10,000.
            since, until: Only ``since <= ts < until``: seconds, ISO 8601 text, an age such as
                ``"1h"``, or a datetime.
            before: The ``next`` of a page: go on where it ended.
            keys: More of the filter.

        Returns:
            A list of events, with ``next``, the token to go on with, or None at the end.

        Raises:
            BadFilter: A key is not indexed, or a value can match nothing.
            BadRequest, BadTime: start, end, a time or the token cannot be used.
            CursorLost: The token is of another store.
            TimedOut, Unavailable, Busy: The daemon did not answer, or not now.
            TypeError: A key stands in the filter and among ``keys``.
        """
        query = make_query(filter, keys, since, until, self._tz)
        return self._run(calls.items(query, start, end, before))

    def count(
        self, filter: Filter | None = None, /, *, since: Time | None = None,
        until: Time | None = None, **keys: Any,
    ) -> int:  # fmt: skip
        """Count events; arguments and errors as of ``items``."""
        return self._run(calls.count(make_query(filter, keys, since, until, self._tz)))

    def trim(self, *, before: Time | None = None, upto: int | None = None) -> int:
        """Forget events for good, the oldest first: queries and tails are without them at once.

        The store keeps one floor, an id that only rises, and forgets all up to it, whatever
        their filter. Who follows from below it gets Trimmed.

        Args:
            before: All that arrived before this time: seconds, ISO 8601 text, an age such as
                ``"30d"``, or a datetime. Up to a second's worth of them may stay.
            upto: All up to this id; instead of ``before``.

        Returns:
            How many events were forgotten.

        Raises:
            BadRequest, BadTime: Not one of the two is given, it is no id or time, or the id is
                above the last one.
            TimedOut, Unavailable: The daemon did not answer or the store cannot be written just
                now; they may have been forgotten, or be soon.
        """
        return self._run(calls.trim(make_trim(before, upto, self._tz)))

    def info(self) -> dict[str, Any]:
        """What the daemon knows of itself; the fields are those of ``info`` in the protocol."""
        return self._run(calls.info())

    def ping(self) -> float:
        """Ask the daemon for a sign of life; returns the seconds that it took."""
        start = time.perf_counter()
        self._run(calls.ping())
        return time.perf_counter() - start
