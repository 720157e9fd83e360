"""The command that moves events out: export."""

import gzip
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import click

from zstream import Client
from zstream.cli import exits, jsontext, loading, output, words
from zstream.cli.app import connect, connected, filtered
from zstream.cli.progress import Progress
from zstream.errors import DecodeError
from zstream.event import Event
from zstream.limits import MAX_INTEGER, PAGE_EVENTS
from zstream.queries import make_filter


@click.command(short_help="Write what is stored, for import.")
@filtered
@click.option(
    "-o", "--output", "name", metavar="FILE", default="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write to FILE, packed if it ends in .gz; it appears when it is complete.",
)  # fmt: skip
@click.option(
    "--after", type=click.IntRange(0, MAX_INTEGER), default=0, metavar="ID",
    help="Only events behind this id.",
)  # fmt: skip
@connected
def export(filter: tuple[str, ...], name: str, after: int) -> int:
    """Write what is stored as JSON Lines that import restores: a header, then oldest first.

    \b
    zstream export -o all.jsonl.gz
    zstream export type=PushEvent > pushes.jsonl
    """
    chosen = words.parse_filter(filter)
    with connect() as client:
        about = client.info()
        header = {
            "zstream": loading.FORM, "keys": about["keys"], "run": about["run"],
            "head": about["head"], "filter": chosen,
        }  # fmt: skip
        if name == "-":
            return _to_stdout(client, header, after)
        with Progress() as progress:
            with whole_file(Path(name)) as write:
                count = _write(client, header, after, write, progress)
            progress.clear()
            output.note(progress.sum_up("exported", count))
    return exits.OK


def _to_stdout(client: Client, header: dict[str, Any], after: int) -> int:
    try:
        with Progress(show=False) as progress:
            _write(client, header, after, output.emit, progress)
        output.flush()
    except BrokenPipeError:
        # Not quietly, as elsewhere: whoever keeps this would keep a part of it.
        exits.forget_stdout()
        exits.complain("the export was not read to its end")
        return exits.FAILURE
    return exits.OK


def _write(
    client: Client, header: dict[str, Any], after: int, write: Callable[[str], object],
    progress: Progress,
) -> int:  # fmt: skip
    write(jsontext.encode(header) + "\n")
    count, head = 0, header["head"]
    for events, upto in replay(client, header["filter"], after, header["run"], head):
        write("".join(output.line(event, meta=True) for event in events))
        count += len(events)
        progress.update(count, upto - after, head - after)
    return count


def replay(
    client: Client, filter: dict[str, Any], after: int, run: int, head: int
) -> Iterator[tuple[list[Event], int]]:
    """Read a slice of history page by page, oldest first.

    Args:
        client: Who asks.
        filter: As ``Client.items`` takes it.
        after: Begin behind this id.
        run: The run of the store that ``after`` and ``head`` are of.
        head: The last id that is wanted.

    Yields:
        Events, and the id up to which the slice is complete with them.

    Raises:
        CursorLost: The store is not the one any more, or never had that id.
        DecodeError: The reply is not what the protocol says.
    """
    fields = {"filter": make_filter(filter, {}), "run": run, "limit": PAGE_EVENTS}
    while True:
        reply = client._ask("replay", {**fields, "after": after})
        try:
            events = [Event(event, id, ts) for id, ts, event in reply["events"] if id <= head]
            upto = reply["upto"]
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"the daemon's page cannot be read: {error!r}") from error
        yield events, min(upto, head)
        if upto >= head:
            return
        if upto <= after:
            raise DecodeError(f"the daemon's replay stands still at {upto}")
        after = upto


@contextmanager
def whole_file(path: Path) -> Iterator[Callable[[str], object]]:
    """Write a text file that appears under its name only when it is complete and on disk.

    What is no regular file (a pipe, a device) is written directly.

    Args:
        path: A name that ends in ``.gz`` makes it gzip.

    Yields:
        A function that writes text.
    """
    special = path.exists() and not path.is_file()
    target = path if special else path.resolve()
    part = path if special else target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    flags = os.O_WRONLY if special else os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(str(part), flags, 0o666), "wb") as raw:
            if not special and target.exists():
                os.fchmod(raw.fileno(), stat.S_IMODE(target.stat().st_mode))
            with _packed(raw, path) as stream:
                yield lambda text: stream.write(text.encode("utf-8"))
            raw.flush()
            if not special:
                os.fsync(raw.fileno())
        if not special:
            os.replace(part, target)
    except BaseException as error:
        if not special:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename = str(path)
        raise


@contextmanager
def _packed(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".gz":
        yield raw
        return
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        yield cast(IO[bytes], packed)
