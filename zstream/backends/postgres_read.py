"""Reading the PostgreSQL store: pages, replays and counts over memory and sealed partitions."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from zstream.backends import index_read, slices
from zstream.backends.base import Page, Position, Query, Replay
from zstream.backends.postgres_find import Arguments, Source, arguments, integers, tests
from zstream.backends.postgres_link import Connection, row_of
from zstream.backends.postgres_rows import Snapshot
from zstream.backends.slices import Run
from zstream.limits import MAX_INTEGER

#: So many partitions are looked into by one statement.
_MOST_RUNS: Final = 16
#: Partitions whose rows are fetched by one statement, whether some are wanted of each or not.
_BLOCK: Final = 8
#: Rows of a filter that are gathered and sorted by id; of more, all rows are looked through.
_GATHERED: Final = 20_000


class MissingRows(Exception):
    """The index names rows that are not there: they were trimmed meanwhile, or are lost."""


class Rows(NamedTuple):
    """Events, in the order that was asked for."""

    ids: list[int]
    ts: list[int]
    bodies: list[bytes]


class Reader:
    """Reads one snapshot through one connection.

    Args:
        db: The connection.
        snapshot: What is there.
        budget: Rows that one page looks at.
    """

    def __init__(self, db: Connection, snapshot: Snapshot, budget: int) -> None:
        self._db, self._now, self._budget = db, snapshot, budget

    def items(self, query: Query) -> Page:
        """Read a page, newest first."""
        view = self._now.view
        if not all(values for _, values in query.filter):
            return Page([], [], [], None, 0, view.head)
        args = arguments(query, view.floor, view.head)
        source = Source(self._db, self._now.sealed, query, args)
        runs = self._runs(query)
        places, next, skipped = slices.find(view, runs, source, query, self._budget)
        rows = self._fetch([place.id for place in places], query.max_bytes, "ts DESC, id DESC")
        if len(rows.ids) < len(places):
            next = Position(rows.ts[-1], rows.ids[-1])
        return Page(*rows, next, skipped, view.head)

    def _runs(self, query: Query) -> list[Run]:
        floor = self._now.view.floor
        return [each.run for each in self._now.sealed if each.run.last > floor]

    # ------------------------------------------------------------ by id

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first by id."""
        view = self._now.view
        if not all(values for _, values in query.filter):
            return Replay([], [], [], view.head, view.head)
        done = max(after, view.floor)
        ids, done, budget = self._replay_sealed(query, done)
        left = query.limit - len(ids)
        if left > 0 and budget > 0 and done < view.head:
            here = replace(query, limit=left)
            found, done = index_read.replay(view, here, done, budget)
            ids += [row.id for row in found]
        rows = self._fetch(ids, query.max_bytes, "id")
        if len(rows.ids) < len(ids):
            done = rows.ids[-1]
        return Replay(*rows, min(done, view.head), view.head)

    def _replay_sealed(self, query: Query, done: int) -> tuple[list[int], int, int]:
        """The ids that match, the id that they are complete up to, and the budget that is left."""
        args = arguments(query, self._now.view.floor, self._now.view.head)
        source = Source(self._db, self._now.sealed, query, args)
        left = [run for run in self._runs(query) if run.last > done]
        ids: list[int] = []
        budget, group = self._budget, 1
        while left and budget > 0 and len(ids) < query.limit:
            runs = left[:group]
            want = query.limit - len(ids)
            size, _, key = source.rarest(runs) if query.filter else (_GATHERED + 1, 0, 0)
            if size <= _GATHERED:
                candidates = [_gathered(run, key, args) for run in runs]
                args.values.update(after=done, depth=MAX_INTEGER)
                budget -= size // 8 + 100 * len(runs)
            else:
                runs = left[:1]
                depth = want if not query.filter else max(min(budget, 4 * want), 1)
                candidates = [_by_id(runs[0], args)]
                args.values.update(after=done, depth=depth)
                budget -= min(depth, runs[0].last - max(done, runs[0].first - 1))
            found, last = self._oldest(candidates, args, want)
            ids += found
            if len(ids) >= query.limit:
                return ids, ids[-1], budget
            done = runs[-1].last if last is None else last
            left = [run for run in left if run.last > done]
            group = min(group * 2, _MOST_RUNS)
        return ids, done, budget if not left else 0

    def _oldest(
        self, candidates: Iterable[str], args: Arguments, want: int
    ) -> tuple[list[int], int | None]:
        """The first ids that match, and the last candidate if there may be more."""
        row = row_of(
            self._db,
            f"WITH c AS MATERIALIZED ({' UNION ALL '.join(candidates)})"
            " SELECT (SELECT string_agg(int8send(id), '') FROM (SELECT DISTINCT id FROM c"
            " WHERE ok ORDER BY id LIMIT %(want)s) p),"
            " (SELECT max(id) FROM c WHERE n = %(depth)s)",
            args.values | {"want": want},
            args.few,
        )
        return integers(row[0]).tolist(), row[1]

    # ------------------------------------------------------------ counting

    def count(self, query: Query) -> int:
        """Count the events of a slice."""
        view = self._now.view
        if not all(values for _, values in query.filter):
            return 0
        if not query.filter and query.since is None and query.until is None:
            return view.head - view.floor
        args = arguments(query, view.floor, view.head)
        until = MAX_INTEGER if query.until is None else query.until
        args.values["until"] = until
        source = Source(self._db, self._now.sealed, query, args)
        total, left = index_read.count(view, query), []
        for run, sums in self._now.sealed:
            if run.last <= view.floor or run.min_ts >= until or run.max_ts < (query.since or 0):
                continue
            whole = (
                run.first > view.floor and run.min_ts >= (query.since or 0) and run.max_ts < until
            )
            known = _known(run, sums, query) if whole else None
            if known is None:
                left.append(run)
            else:
                total += known
        for start in range(0, len(left), _MOST_RUNS):
            runs = left[start : start + _MOST_RUNS]
            key = source.rarest(runs)[2] if query.filter else None
            counts = " UNION ALL ".join(_counted(run, key, args) for run in runs)
            total += row_of(
                self._db, f"SELECT sum(n)::int8 FROM ({counts}) c", args.values, args.few
            )[0]
        return total

    # ------------------------------------------------------------ figures

    def arrived(self, since: int) -> int:
        """The last id before a time, by the marks."""
        row = row_of(
            self._db,
            "SELECT max(last), max(arrival), coalesce((SELECT id FROM marks"
            " WHERE arrival <= %(since)s ORDER BY arrival DESC LIMIT 1), 0) FROM head",
            {"since": since},
            True,
        )
        last, arrival, marked = row
        return int(last if since > arrival else marked)

    def size_bytes(self, schema: str) -> int:
        """What the tables of the store and their indexes occupy."""
        row = row_of(
            self._db,
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::int8 FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %(schema)s"
            " AND relkind = 'r'",
            {"schema": schema},
            True,
        )
        return int(row[0])

    # ------------------------------------------------------------ bodies

    def _fetch(self, ids: Sequence[int], max_bytes: int, order: str) -> Rows:
        """The events of some ids, in their order: as many as fit, but one at least.

        Args:
            ids: They fall by (ts, id), or rise.
            max_bytes: So many bytes of bodies, together.
            order: ``ts DESC, id DESC`` or ``id``, as they do.
        """
        if not ids:
            return Rows([], [], [])
        floor = self._now.view.floor  # what is below may be dropped at any moment
        tables = [part.first for part in self._now.all_parts() if part.last > floor]
        wanted: dict[int, list[str]] = {}
        for id in ids:
            wanted.setdefault(bisect_right(tables, id) - 1, []).append(str(id))
        # All of a block of partitions are named, so that statements occur again and are planned
        # but once; in a partition of which nothing is wanted nothing is looked for.
        blocks = sorted({place // _BLOCK for place in wanted})
        places = [
            place
            for block in blocks
            for place in range(block * _BLOCK, min((block + 1) * _BLOCK, len(tables)))
        ]
        args: dict[str, Any] = {"max": max_bytes}
        for number, place in enumerate(places):
            args[f"i{number}"] = f"{{{','.join(wanted.get(place, ()))}}}"
        parts = " UNION ALL ".join(
            f"SELECT id, ts, body FROM events_{tables[place]}"
            f" WHERE id = ANY (%(i{number})s::int8[])"
            for number, place in enumerate(places)
        )
        row = row_of(self._db, _BODIES.format(order=order, rows=parts), args, True)
        found, ts, sizes = (integers(column).tolist() for column in row[:3])
        if found != list(ids[: len(found)]) or row[4] != len(ids):
            raise MissingRows(f"of {len(ids)} rows {row[4] or 0} are there")
        joined = row[3]
        bodies = [joined[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]
        return Rows(found, ts, bodies)


_BODIES: Final = (
    "SELECT string_agg(int8send(id), ''), string_agg(int8send(ts), ''),"
    " string_agg(int8send(octet_length(body)), ''), string_agg(body, ''), max(many) FROM ("
    "SELECT id, ts, body, row_number() OVER w AS n, sum(octet_length(body)) OVER w AS total,"
    " count(*) OVER () AS many FROM ({rows}) r WINDOW w AS (ORDER BY {order} ROWS UNBOUNDED"
    " PRECEDING) ORDER BY {order}) s WHERE total <= %(max)s OR n = 1"
)


def _by_id(run: Run, args: Arguments) -> str:
    """The rows of a partition by rising id."""
    ok = tests(run, args.terms, "e")
    return (
        f"(SELECT id, true{ok} AS ok, row_number() OVER (ORDER BY id) AS n"
        f" FROM events_{run.number} e WHERE id > %(after)s ORDER BY id LIMIT %(depth)s)"
    )


def _gathered(run: Run, key: int, args: Arguments) -> str:
    """All rows of a partition that have a value of a key, in no order."""
    rest = tests(run, [other for other in args.terms if other != key], "e")
    if key not in run.several:
        return (
            f"(SELECT id, true{rest} AS ok, 0 AS n FROM events_{run.number} e"
            f" WHERE k{key} = ANY (%(f{key})s::text[]) AND id > %(after)s)"
        )
    return (
        f"(SELECT e.id, true{rest} AS ok, 0 AS n FROM lists_{run.number} l"
        f" JOIN events_{run.number} e ON e.id = l.id"
        f" WHERE l.k = {key} AND l.v = ANY (%(f{key})s::text[]) AND l.id > %(after)s)"
    )


def _counted(run: Run, key: int | None, args: Arguments) -> str:
    """How many rows of a partition match."""
    rest = tests(run, [other for other in args.terms if other != key], "e")
    within = "e.ts >= %(since)s AND e.ts < %(until)s AND e.id > %(floor)s"
    if key is None:
        return f"SELECT count(*) AS n FROM events_{run.number} e WHERE {within}"
    if key not in run.several:
        return (
            f"SELECT count(*) AS n FROM events_{run.number} e"
            f" WHERE k{key} = ANY (%(f{key})s::text[]) AND {within}{rest}"
        )
    join = f" JOIN events_{run.number} r ON r.id = e.id" if rest else ""
    return (
        f"SELECT count(DISTINCT e.id) AS n FROM lists_{run.number} e{join}"
        f" WHERE e.k = {key} AND e.v = ANY (%(f{key})s::text[]) AND {within}"
        f"{tests(run, [other for other in args.terms if other != key], 'r')}"
    )


def _known(run: Run, sums: Mapping[int, Mapping[str, int]], query: Query) -> int | None:
    """How many rows of a partition match, if that was counted when it was sealed."""
    if not query.filter:
        return run.last - run.first + 1
    if len(query.filter) == 1:
        key, values = query.filter[0]
        if len(values) == 1 or key not in run.several:
            known = sums.get(key, {})
            if all(value in known for value in values):
                return sum(known[value] for value in values)
    return None
