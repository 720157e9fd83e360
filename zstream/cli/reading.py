"""Lines out of files and pipes: plain or gzip, in bounded memory, and as they come.

Whatever can be read is handed on before the trouble behind it is told: a damaged or truncated
gzip file gives every line in front of the damage.
"""

import itertools
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from zstream.cli.hashed import HashedFile, hashed

#: Bytes of a line. An event of 1 MiB can take six times as much as JSON.
MAX_LINE_BYTES: Final = 8 << 20
#: Bytes asked for at once.
_BLOCK: Final = 256 << 10
#: Bytes unpacked at once, so that a small gzip file cannot fill the memory.
_UNPACKED: Final = 1 << 20

_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_GZIP_FORMAT: Final = 31  # to zlib: a gzip header and the largest window
#: Other packed or encoded forms that people try, by their first bytes.
_FOREIGN: Final = {
    b"\x28\xb5\x2f\xfd": "zstd: zstdcat",
    b"\xfd7zXZ": "xz: xzcat",
    b"BZh": "bzip2: bzcat",
    b"PK\x03\x04": "zip: unzip -p",
    b"\xff\xfe": "UTF-16: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16: iconv -f UTF-16 -t UTF-8",
}


class ReadError(Exception):
    """A file could not be read to its end; what came before was handed out.

    The message says why, and leaves the name to whoever tells it.
    """


@contextmanager
def opened(name: str) -> Iterator["Source"]:
    """Open a file for reading; ``-`` is stdin, which is left open.

    Raises:
        ReadError: It cannot be opened.
    """
    if name == "-":
        if sys.stdin is None:
            raise ReadError("it is closed")
        yield Source(sys.stdin.buffer, "stdin")
        return
    try:
        stream = open(name, "rb", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise ReadError(error.strerror or str(error)) from error
    with stream:
        try:
            file = hashed(stream)
        except OSError as error:
            raise ReadError(error.strerror or str(error)) from error
        yield Source(file or stream, name)


class Source:
    """A file or pipe, read once.

    Attributes:
        name: What messages call it.
        digest: Of the bytes of a file, all that is read of it; None for a pipe.
        size: Its bytes, packed if it is; None for a pipe.
        position: How many of them were read.
        line: The number of the line handed out last, from 1.
    """

    name: str
    digest: bytes | None
    size: int | None
    position: int
    line: int

    def __init__(self, stream: BinaryIO | HashedFile, name: str) -> None:
        """Args:
        stream: Opened for reading without a buffer, or with one that has ``read1``.
        name: What messages call it.
        """
        self._stream = stream
        self.digest = stream.digest if isinstance(stream, HashedFile) else None
        self._read = getattr(stream, "read1", stream.read)
        self.name = name
        self.size = _size(stream)
        self.position = 0
        self.line = 0

    def lines(self) -> Iterator[bytes | None]:
        """Hand out the lines without their ends, as soon as they are complete.

        A byte order mark in front is taken off. The number of the line is in ``line``.

        Yields:
            The bytes of a line; None for one over 8 MiB, which is passed over.

        Raises:
            ReadError: The rest cannot be read: a disk error, or a gzip file that is truncated
                or damaged.
        """
        lines = _split(self._unpacked())
        for self.line, line in enumerate(lines, 1):
            if self.line == 1 and line is not None and line.startswith(_BOM):
                yield line[len(_BOM) :]
            else:
                yield line

    def check(self) -> None:
        """Make sure that what was read is what was hashed.

        Raises:
            ReadError: It is not, or that cannot be read.
        """
        if not isinstance(self._stream, HashedFile):
            return
        try:
            is_same = self._stream.is_same()
        except OSError as error:
            raise ReadError(error.strerror or str(error)) from error
        if not is_same:
            raise ReadError("it was changed while it was read; what came before that may be stored")

    def _unpacked(self) -> Iterator[bytes]:
        blocks: Iterator[bytes] = self._blocks()
        first = b""
        for block in blocks:
            first += block
            if len(first) > 1 or first == b"\n":
                break
        for magic, advice in _FOREIGN.items():
            if first.startswith(magic):
                form, _, command = advice.partition(": ")
                raise ReadError(f"it is {form}; unpack it: {command} FILE | zstream import -")
        blocks = itertools.chain((first,), blocks)
        yield from _gunzip(blocks) if first.startswith(_GZIP) else blocks

    def _blocks(self) -> Iterator[bytes]:
        while True:
            try:
                block = self._read(_BLOCK)
            except OSError as error:
                raise ReadError(error.strerror or str(error)) from error
            if not block:
                return
            self.position += len(block)
            yield block


def _size(stream: BinaryIO | HashedFile) -> int | None:
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # not a file of the system: io.UnsupportedOperation is one of these
        return None
    return status.st_size or None


def _split(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    pending: list[bytes] = []
    size = 0
    failure = None
    try:
        for block in blocks:
            head, *rest = block.split(b"\n")
            size += len(head)
            pending = [*pending, head] if size <= MAX_LINE_BYTES else []
            if rest:
                yield b"".join(pending) if size <= MAX_LINE_BYTES else None
                *whole, last = rest
                yield from whole
                pending, size = [last], len(last)
    except ReadError as error:
        failure = error
    line = b"".join(pending)
    # Of a line that was cut off only what may still be a whole object is of use.
    if size and (failure is None or line.rstrip().endswith(b"}")):
        yield line if size <= MAX_LINE_BYTES else None
    if failure is not None:
        raise failure


# ---------------------------------------------------------------- gzip


def _gunzip(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip, one member or several behind each other."""
    member = zlib.decompressobj(_GZIP_FORMAT)
    for block in blocks:
        while block:
            if member.eof:
                block = block.lstrip(b"\0")  # padding to whole sectors
                member = zlib.decompressobj(_GZIP_FORMAT) if block else member
                continue
            before = member.copy()
            try:
                yield member.decompress(block, _UNPACKED)
            except zlib.error as error:
                yield from _salvage(before, block)
                what = str(error).rpartition(": ")[2]
                raise ReadError(f"the gzip data is damaged: {what}") from error
            block = member.unused_data if member.eof else member.unconsumed_tail
    yield member.flush()
    if not member.eof:
        raise ReadError("the gzip data is cut off before its end")


def _salvage(member: "zlib._Decompress", block: bytes) -> Iterator[bytes]:
    # What a failing call unpacked before it failed is lost; in single bytes nothing is.
    try:
        for at in range(len(block)):
            yield member.decompress(block[at : at + 1])
    except zlib.error:
        return
