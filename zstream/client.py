"""The client: inserts without waiting, queries, tails."""

from collections.abc import Iterable
from typing import Any, Literal, Self, overload

from zstream import calls
from zstream.asking import Asking
from zstream.follower import Tail
from zstream.packing import Fields
from zstream.queries import Filter, make_filter, make_start
from zstream.times import Time


class Client(Asking):
    """A connection to a daemon. Threads may share it; a forked child gets its own by itself.

    Making one does no I/O; the first use starts one background thread, which owns the sockets.
    As a context manager it closes at the end. Without that, the end of the process closes it, and
    a client that is let go of still sends what it was given.

    Args:
        url: The query endpoint, ``tcp://host:port`` or ``ipc://path``, from which the two others
            follow, or all three as `Endpoints`. Without it ``$ZSTREAM_URL``, and without that
            ``tcp://127.0.0.1:5570``.
        timeout: Seconds that a query, an ``insert(wait=True)`` and the start of a tail may take.
        buffer_bytes: Bytes of inserted events, 48 more for each, that may wait in memory: for
            confirmation, or with a spool until they are written to it.
        on_full: What ``insert`` does beyond that: ``drop`` the event, count it and warn once;
            ``block`` until there is room; ``raise`` BufferFull.
        spool: A folder in which inserts outlive the process; it is made, for this user only, if
            it is not there. Any number of clients of one daemon, in any number of processes of
            one machine, share it. What a dead process left in it the next client sends.
        spool_sync: Seconds, from 0 to 60, after which an insert is synced to the spool's disk: it
            then outlives a crash of the machine. A crash of the process it outlives some
            milliseconds after it returned.
        spool_bytes: Bytes that the lanes in the folder may have, about; beyond that events wait in
            memory, and ``on_full`` decides once ``buffer_bytes`` are full.
        default: Called with each value that cannot be packed (a datetime, a UUID, a Decimal, a
            set); what it returns is packed instead. ``default=str`` takes nearly everything.
        tz: The zone of dates and times that name none.
        on_refused: Called as ``on_refused(events, error)`` when the daemon refused events for
            good: ``events`` are those of them whose reason it still has, the newest 100, with id
            0 and ts 0 or their date; ``error`` is a `Refused` that counts all. It runs in the
            background thread, for which it must not wait. Without it ``flush`` raises the error.

    Attributes:
        url: The query endpoint.

    Raises:
        ConfigError: A setting cannot work.
    """

    # ------------------------------------------------------------ inserts

    @overload
    def insert(
        self, event: Fields, *, date: Time | None = None, wait: Literal[False] = False
    ) -> None: ...

    @overload
    def insert(self, event: Fields, *, date: Time | None = None, wait: Literal[True]) -> int: ...

    @overload
    def insert(self, event: Fields, *, date: Time | None = None, wait: bool) -> int | None: ...

    def insert(self, event: Fields, *, date: Time | None = None, wait: bool = False) -> int | None:
        """Insert an event: pack it, queue it, and return. What becomes of it ``flush`` tells.

        Args:
            event: A map; it may be changed at once, a copy is sent.
            date: The event's time, instead of its arrival; at most 24 h ahead.
            wait: Wait until it is on disk. It then goes past the events that are queued: call
                ``flush`` before it if the order matters.

        Returns:
            The id with ``wait``, else None.

        Raises:
            EventError: The event cannot be stored; the message names the place in it.
            BadTime: The date cannot be used.
            BufferFull: The buffer is full, with ``on_full="raise"``.
            TimedOut, Unavailable: With ``wait``; after TimedOut it may have been stored.
            Closed: The client is closed.
        """
        element = self._packer.element(event, date)
        if wait:
            return self._run(calls.insert([element]))[0]
        self._outbox.put(element)
        return None

    def insert_many(self, events: Iterable[Fields], *, wait: bool = False) -> list[int] | None:
        """Insert events in their order; beyond the buffer it waits for room, and drops nothing.

        Args:
            events: Maps; an iterator is read as there is room.
            wait: Wait until all are on disk. All are packed first, so that one that cannot be
                packed keeps all of them out.

        Returns:
            The ids with ``wait``, else None.

        Raises:
            EventError: An event cannot be stored; the message names its place and the place in
                it. Without ``wait`` those before it are inserted.
            TimedOut, Unavailable: With ``wait``; a note says how many were stored.
            Closed: The client is closed.
        """
        elements = self._packer.elements(events)
        if wait:
            return self._run(calls.insert(list(elements)))
        self._outbox.put_all(elements)
        return None

    def flush(self, timeout: float = 5.0) -> None:
        """Wait until every event that was inserted before is on disk.

        Args:
            timeout: Seconds to wait.

        Raises:
            FlushError: Not all of it is: it was not confirmed in time, was lost with a daemon
                that went away, or was dropped because the buffer was full. ``error.pending``
                counts them. What is lost or dropped is told once.
            Refused: The daemon refused events for good, and there is no ``on_refused``.
            Closed: The client is closed.
        """
        self._link.check()
        self._outbox.flush(timeout)

    # ------------------------------------------------------------ following

    def tail(
        self, filter: Filter | None = None, /, *, after: int | str | None = None,
        since: Time | None = None, **keys: Any,
    ) -> Tail:  # fmt: skip
        """Follow events as they are committed, oldest first.

        It returns once the daemon follows: what is committed from now on is in the tail. With
        ``after`` or ``since`` it begins with what is stored and goes over to live. Each matching
        event comes once and in order; what was missed on the way, because the reader was slow or
        the daemon away, is read from the store.

        Args:
            filter, keys: As in ``items``; up to 10,000 values of a key.
            after: Begin behind this id, or ``tail.cursor`` of an earlier one; 0 is the beginning.
            since: Begin with what arrived at this time.

        Raises:
            BadFilter, BadTime, BadRequest, TypeError: As in ``items``.
            TimedOut, Unavailable: The daemon did not answer.
        """
        wanted = make_filter(filter, keys)
        core = make_start(after, since, self._options.tz)
        tail = Tail(self, self._link, core, wanted, self._options.timeout)
        self._tails.add(tail)
        tail.start()
        return tail

    # ------------------------------------------------------------ the rest

    def stats(self) -> dict[str, Any]:
        """What this client knows of itself, without asking the daemon.

        Returns:
            A map: the events ``queued`` (not yet sent), ``sent``, ``unconfirmed`` (of those),
            ``confirmed`` (on disk), ``refused``, ``lost`` (with a daemon that went away) and
            ``dropped`` (no room); ``queued_bytes`` of all that are not settled, 48 for each
            included; ``tails``, ``connected``, ``daemon`` (its version, once it answered) and
            ``problem`` (why it cannot be used, or None); ``spool``, None without one, else a map
            of the ``events`` and ``bytes`` of this client that are kept in it, the events
            ``adopted`` from a dead process that it sends just now, when the ``oldest`` of all
            these was written (µs since 1970, or None), and the ``problem`` that keeps it from
            writing, or None.
        """
        return self._stats()

    def close(self) -> None:
        """Send what is left and stop; later calls raise Closed. A second close does nothing.

        It waits for confirmations for ``timeout`` seconds, less than one if nobody is connected,
        and warns of what is then not known to be on disk; ``flush`` before it raises instead.
        Tails are closed: their iterators end.
        """
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
