"""Rows into MySQL in bulk: a few statements of some size each, whatever the number of rows."""

from collections.abc import Iterator, Sequence
from typing import Final

from zstream.backends.base import Batch, Producer
from zstream.keys import Value

#: Bytes of one statement; more does not make it faster, and a row may be as large by itself.
STATEMENT_BYTES: Final = 1 << 20
#: Keys with a column and an index of their own; what the others have stands in ``lists`` alone.
#: A row that is deleted goes whole into a page of the undo log, as far as it is indexed: with
#: 64 texts of 255 bytes it could be inserted and never deleted again.
COLUMNS: Final = 28


def literal(text: str) -> str:
    """A text as SQL. Sessions are set up so that nothing but these two is special."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def literals(texts: Sequence[str]) -> str:
    """Texts as SQL, with commas."""
    return ",".join(map(literal, texts))


def blob(data: bytes) -> bytes:
    """Bytes as SQL, within their quotes."""
    return data.replace(b"\\", b"\\\\").replace(b"'", b"\\'")


def _column(position: int, column: Sequence[Value]) -> list[bytes]:
    """A key's column as SQL: a list is NULL there."""
    if position >= COLUMNS:
        return [b"NULL"] * len(column)
    if set(map(type, column)) == {str}:
        joined = "\0".join(column)  # type: ignore[arg-type]  # all are texts, none has a NUL
        texts = blob(joined.encode("utf-8", "surrogatepass")).split(b"\0")
        return [b"'%b'" % text for text in texts]
    return [
        literal(value).encode("utf-8", "surrogatepass") if type(value) is str else b"NULL"
        for value in column
    ]


def _statements(head: bytes, rows: Sequence[bytes]) -> Iterator[bytes]:
    begin, size = 0, 0
    for end, row in enumerate(rows):
        if size + len(row) > STATEMENT_BYTES and end > begin:
            yield head + b",".join(rows[begin:end])
            begin, size = end, 0
        size += len(row) + 1
    if begin < len(rows):
        yield head + b",".join(rows[begin:])


def inserts(batch: Batch, events: str = "events") -> Iterator[bytes]:
    """The statements that insert a batch's events."""
    columns = [_column(position, column) for position, column in enumerate(batch.columns)]
    row = b"(%%d,%%d,%b%%d,'%%b')" % (b"%b," * len(columns))
    ids = range(batch.first, batch.first + len(batch.ts))
    values = zip(
        ids, batch.ts, *columns, map(len, batch.bodies), map(blob, batch.bodies), strict=True
    )
    return _statements(f"INSERT INTO {events} VALUES ".encode(), [row % each for each in values])


def in_lists(batch: Batch) -> list[tuple[int, str, int, int]]:
    """What a batch has for the table ``lists``: (key, value, ts, id)."""
    found: list[tuple[int, str, int, int]] = []
    for key, column in enumerate(batch.columns):
        if key < COLUMNS and tuple not in set(map(type, column)):
            continue
        for id, (ts, value) in enumerate(zip(batch.ts, column, strict=True), batch.first):
            if type(value) is tuple:
                found += [(key, text, ts, id) for text in value]
            elif type(value) is str and key >= COLUMNS:
                found.append((key, value, ts, id))
    return found


def list_inserts(
    entries: Sequence[tuple[int, str, int, int]], lists: str = "lists"
) -> Iterator[bytes]:
    """The statements that insert them, in the order of the table."""
    rows = [
        b"(%d,%b,%d,%d)" % (key, literal(text).encode("utf-8", "surrogatepass"), ts, id)
        for key, text, ts, id in sorted(entries)
    ]
    return _statements(f"INSERT INTO {lists} VALUES ".encode(), rows)


def others(batch: Batch) -> Iterator[bytes]:
    """The statements that note and forget producers and registered filters."""
    yield from _producer_inserts(batch.producers)
    filters = [
        b"('%b','%b',%d)" % (blob(name), blob(text.encode()), seen)
        for name, text, seen in batch.filters
    ]
    yield from _statements(b"REPLACE INTO filters VALUES ", filters)
    for where, gone in (
        (b"producers WHERE id", batch.forgotten_producers),
        (b"filters WHERE name", batch.forgotten_filters),
    ):
        if gone:
            names = b",".join(b"'%b'" % blob(each) for each in gone)
            yield b"DELETE FROM %b IN (%b)" % (where, names)


def _producer_inserts(producers: Sequence[Producer]) -> Iterator[bytes]:
    rows = [
        b"('%b',%d,%d,%d,'%b',%d)"
        % (blob(one.id), one.epoch, one.last, one.refused, blob(one.refusals), one.seen)
        for one in producers
    ]
    return _statements(b"REPLACE INTO producers VALUES ", rows)
