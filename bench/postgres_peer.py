"""PostgreSQL as a user would set it up for the same events: a table, its indexes, COPY."""

import time
from collections.abc import Sequence
from typing import Any

from common import KEYS
from servers import library

COPY_ROWS = 20_000
COLUMNS = ["int8", "int8", "text", "text", "text", "bytea"]

Row = tuple[str, str, str, bytes]


def rows_of(events: Sequence[dict[str, Any]], bodies: Sequence[bytes]) -> list[Row]:
    """The columns of these events, but for id and ts."""
    return [
        (each["kind"], str(each["user"]), str(each["repo"]), body)
        for each, body in zip(events, bodies, strict=True)
    ]


class Table:
    """The table ``e(id, ts, kind, user, repo, body)`` in a database.

    Args:
        address: Of the server.
        indexed: Whether it has its three indexes from the start.
    """

    def __init__(self, address: str, *, indexed: bool = True) -> None:
        self.connection = library("psycopg").connect(address, autocommit=True)
        self.stored = 0
        self.run("DROP TABLE IF EXISTS e")
        self.run(
            "CREATE TABLE e (id bigint PRIMARY KEY, ts bigint NOT NULL, "
            'kind text, "user" text, repo text, body bytea NOT NULL)'
        )
        if indexed:
            self.index()

    def run(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self.connection.execute(statement, values)

    def index(self) -> None:
        """One index a key, as zstream keeps them: by value, then by time."""
        for key in KEYS:
            self.run(f'CREATE INDEX ON e ("{key}", ts)')

    def copy(self, pool: Sequence[Row], count: int, *, step: int = 0) -> float:
        """Store ``count`` rows by binary COPY, a transaction each 20,000 of them.

        Args:
            pool: What to store, again and again.
            count: How many.
            step: Microseconds from a row to the next; 0 gives each the present time.

        Returns:
            The seconds that it took, without the checkpoint behind it.
        """
        began = time.perf_counter()
        for first in range(self.stored, self.stored + count, COPY_ROWS):
            last = min(first + COPY_ROWS, self.stored + count)
            now = time.time_ns() // 1_000
            with self.connection.cursor().copy("COPY e FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(COLUMNS)
                write = copy.write_row
                for number in range(first, last):
                    ts = number * step if step else now
                    write((number, ts, *pool[number % len(pool)]))
        self.stored += count
        took = time.perf_counter() - began
        self.run("CHECKPOINT")
        return took

    def insert(self, pool: Sequence[Row], seconds: float) -> tuple[int, float]:
        """Store rows for so long, each in a transaction of its own."""
        statement = "INSERT INTO e VALUES (%s, %s, %s, %s, %s, %s)"
        began, first = time.perf_counter(), self.stored
        while (now := time.perf_counter()) - began < seconds:
            row = pool[self.stored % len(pool)]
            self.run(statement, (self.stored, time.time_ns() // 1_000, *row))
            self.stored += 1
        return self.stored - first, now - began

    def count(self) -> int:
        """How many rows can be queried."""
        return int(self.run("SELECT count(*) FROM e").fetchone()[0])

    def close(self) -> None:
        self.connection.close()
