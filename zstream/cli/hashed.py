"""Files whose bytes are known by their hash before they are read, and while they are."""

import hashlib
import os
import stat
from typing import BinaryIO, Final

_BLOCK: Final = 1 << 20


class HashedFile:
    """A file as it was when it was hashed: what is appended later is not read.

    Attributes:
        digest: Of its bytes.
    """

    def __init__(self, stream: BinaryIO, digest: bytes, size: int) -> None:
        self.digest = digest
        self._stream = stream
        self._left = size
        self._hash = _hash()

    def read(self, size: int) -> bytes:
        """So many bytes or fewer; none at the end. Raises OSError."""
        block = self._stream.read(min(size, self._left))
        self._left -= len(block)
        self._hash.update(block)
        return block

    def is_same(self) -> bool:
        """Read what is left; whether all of it was what had been hashed. Raises OSError."""
        while self.read(_BLOCK):
            pass
        return self._hash.digest() == self.digest

    def fileno(self) -> int:
        """The descriptor."""
        return self._stream.fileno()


def hashed(stream: BinaryIO) -> HashedFile | None:
    """Hash a file that was just opened, unbuffered; None for a pipe, which is read but once.

    Raises:
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return None
    found, size = _hash(), 0
    while block := stream.read(_BLOCK):
        found.update(block)
        size += len(block)
    stream.seek(0)
    return HashedFile(stream, found.digest(), size)


def _hash() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=32)
