"""A few rows into PostgreSQL: one statement, one answer, and no COPY that has to begin and end."""

import json
from collections.abc import Sequence
from typing import Any, Final

from zstream.backends.base import Batch, Producer
from zstream.backends.postgres_parts import Part

#: A batch of more rows is copied.
FEW_ROWS: Final = 4

_PRODUCERS: Final = (
    "told AS (INSERT INTO producers SELECT p.* FROM unnest(%(p0)s::bytea[], %(p1)s::int8[],"
    " %(p2)s::int8[], %(p3)s::int8[], %(p4)s::bytea[], %(p5)s::int8[]) p CROSS JOIN moved"
    " ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, last = excluded.last,"
    " refused = excluded.refused, refusals = excluded.refusals, seen = excluded.seen), "
)
_MARK: Final = (
    "marked AS (INSERT INTO marks SELECT %(arrival)s, %(before)s FROM moved"
    " ON CONFLICT DO NOTHING), "
)


def statement(batch: Batch, part: Part, columns: str, mark: bool) -> tuple[str, dict[str, Any]]:
    """What stores a batch, and counts one if the last id is the one before it, else none.

    Args:
        batch: It; of one row at least.
        part: Where its rows go, all of them.
        columns: Those of ``events``.
        mark: Whether its arrival is noted.
    """
    count = len(batch.ts)
    texts = [
        [value if type(value) is str else None for value in column] for column in batch.columns
    ]
    args: dict[str, Any] = {
        "last": batch.first - 1 + count,
        "before": batch.first - 1,
        "arrival": batch.arrival,
        "ids": list(range(batch.first, batch.first + count)),
        "ts": list(batch.ts),
        "lists": [_lists(batch, row) for row in range(count)],
        "bodies": list(batch.bodies),
        **{f"k{key}": column for key, column in enumerate(texts)},
        **_producers(batch.producers),
    }
    values = ", ".join(f"%(k{key})s::text[]" for key in range(len(texts)))
    sql = (
        "WITH moved AS (UPDATE head SET last = %(last)s, arrival = greatest(arrival, %(arrival)s)"
        f" WHERE last = %(before)s RETURNING 1), {_MARK if mark else ''}"
        f"{_PRODUCERS if batch.producers else ''}"
        f"stored AS (INSERT INTO events_{part.first} ({columns}) SELECT r.* FROM"
        f" unnest(%(ids)s::int8[], %(ts)s::int8[], {values}, %(lists)s::text[]::jsonb[],"
        " %(bodies)s::bytea[]) r CROSS JOIN moved) SELECT count(*) FROM moved"
    )
    return sql, args


def _lists(batch: Batch, row: int) -> str | None:
    several = {
        str(key): column[row]
        for key, column in enumerate(batch.columns)
        if type(column[row]) is tuple
    }
    return json.dumps(several, ensure_ascii=False) if several else None


def _producers(producers: Sequence[Producer]) -> dict[str, Any]:
    newest = {each.id: each for each in producers}  # a row may not be moved twice at once
    return {
        f"p{place}": list(column) for place, column in enumerate(zip(*newest.values(), strict=True))
    }
