"""A disk that remembers: what was written, what was synced, and what a power cut may leave.

A write is certain once its file was synced after it. Of what is not, the disk may have kept all,
nothing, or any part, sector by sector. Names (created, deleted, renamed) become certain in their
order: when the folder is synced, which SQLite does with the first sync of a new log or journal.
"""

import contextlib
import itertools
import os
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import apsw

from . import driver

SECTOR: Final = 512
_number = itertools.count()


class Op(NamedTuple):
    """What happened to a file, or to a name.

    Attributes:
        kind: write, truncate, sync; create, delete, rename, sync names; moment.
        file: Which file; names are of files.
        what: Of a write its offset and bytes, of truncate the size, of names the name or names;
            of a moment whatever was noted.
    """

    kind: str
    file: int
    what: Any


class Disk:
    """Records what SQLite does in one folder while it is installed.

    Args:
        folder: What is in it already is certain.
        lower: The ``synchronous`` to set on the row file instead of what the store sets.
    """

    def __init__(self, folder: Path, lower: str | None = None) -> None:
        self.folder, self._lower = folder, lower
        self.log: list[Op] = []
        self.begin: dict[str, bytes] = {}
        self._files: dict[str, int] = {}
        for path in sorted(folder.iterdir()):
            if not path.name.endswith("-shm"):
                self.begin[path.name] = path.read_bytes()
                self._files[path.name] = len(self._files)
        self._new = itertools.count(len(self._files))
        self.vfs = f"disk{next(_number)}"

    def note(self, what: Any) -> None:
        """Note a moment: everything before it was done before it."""
        self.log.append(Op("moment", -1, what))

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Have `sqlite3.connect` and the calls that change names go through this disk."""
        vfs = _VFS(self)
        calls = {name: self._watched(name) for name in ("unlink", "remove", "replace", "rename")}
        try:
            with (
                mock.patch.object(sqlite3, "connect", self._connect),
                mock.patch.multiple(os, fsync=self._fsync, **calls),
            ):
                yield
        finally:
            vfs.unregister()

    def _connect(self, database: str, **more: Any) -> driver.Connection:
        lowers = self._lower is not None and "-index" not in database
        return driver.connect(database, self.vfs, self._rewrite if lowers else str, **more)

    def _rewrite(self, sql: str) -> str:
        return re.sub(r"(PRAGMA synchronous *= *)\w+", rf"\g<1>{self._lower}", sql)

    def _watched(self, name: str) -> Callable[..., None]:
        call = getattr(os, name)

        def watched(path: Any, *more: Any, **named: Any) -> None:
            call(path, *more, **named)
            if Path(path).parent == self.folder:
                self.renamed(Path(path).name, Path(more[0]).name if more else None)

        return watched

    def _fsync(self, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path == self.folder:
            self.log.append(Op("sync names", -1, None))
        elif path.parent == self.folder:
            self.log.append(Op("sync", self._files[path.name], None))

    def opened(self, name: str) -> tuple[int, bool]:
        """The file of a name, and whether it is new."""
        new = name not in self._files
        if new:
            self._files[name] = next(self._new)
            self.log.append(Op("create", self._files[name], name))
        return self._files[name], new

    def renamed(self, name: str, to: str | None) -> None:
        """A file has another name, or none any more."""
        file = self._files.pop(name)
        if to is None:
            self.log.append(Op("delete", file, name))
        else:
            self._files[to] = file
            self.log.append(Op("rename", file, (name, to)))


class _VFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.vfs, "unix")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> "apsw.VFSFile":
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or Path(path).parent != self._disk.folder:  # temporary
            return apsw.VFSFile("unix", name, flags)
        return _File(self._disk, Path(path).name, name, flags)

    def xDelete(self, path: str, sync: bool) -> None:
        super().xDelete(path, sync)
        if Path(path).parent == self._disk.folder:
            self._disk.renamed(Path(path).name, None)
            if sync:
                self._disk.log.append(Op("sync names", -1, None))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, short: str, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._log = disk.log
        self._file, self._names_wait = disk.opened(short)
        # As in SQLite's unix VFS: a new log or journal is synced with its folder.
        journals = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        self._names_wait &= bool(flags[0] & (journals | apsw.SQLITE_OPEN_SUPER_JOURNAL))

    def xWrite(self, data: Any, offset: int) -> None:
        super().xWrite(data, offset)
        self._log.append(Op("write", self._file, (offset, bytes(data))))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._log.append(Op("truncate", self._file, size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._log.append(Op("sync", self._file, None))
        if self._names_wait:
            self._log.append(Op("sync names", -1, None))
            self._names_wait = False


# ---------------------------------------------------------------- what is left after a cut

#: Which of the operations that are not certain were done: each with what is left of it.
Luck = Callable[[list[Op]], list[Op]]


def all_kept(pending: list[Op]) -> list[Op]:
    """As after the death of the process alone."""
    return pending


def none_kept(pending: list[Op]) -> list[Op]:
    """Only what was synced is there."""
    return []


def some_kept(rng: random.Random) -> Luck:
    """Some writes were done, some not, some in part."""

    def luck(pending: list[Op]) -> list[Op]:
        if pending and pending[0].kind in ("create", "delete", "rename"):
            return pending[: rng.randint(0, len(pending))]
        share = rng.random()
        return [part for op in pending if rng.random() < share for part in _torn(op, rng)]

    return luck


def _torn(op: Op, rng: random.Random) -> list[Op]:
    if op.kind != "write" or rng.random() < 0.7:
        return [op]
    offset, data = op.what
    cuts = [0, *range(SECTOR - offset % SECTOR, len(data), SECTOR), len(data)]
    return [
        Op("write", op.file, (offset + a, data[a:b]))
        for a, b in itertools.pairwise(cuts)
        if rng.random() < 0.5
    ]


def after_cut(disk: Disk, end: int, luck: Luck) -> dict[str, bytes]:
    """The files that may be found when the power went after so many operations."""
    names = {name: file for file, name in enumerate(disk.begin)}
    content = {file: bytearray(data) for file, data in enumerate(disk.begin.values())}
    pending: dict[int, list[Op]] = {}
    waiting: list[Op] = []
    for op in disk.log[:end]:
        if op.kind in ("write", "truncate"):
            pending.setdefault(op.file, []).append(op)
        elif op.kind == "sync":
            _write(content.setdefault(op.file, bytearray()), pending.pop(op.file, []))
        elif op.kind == "sync names":
            _name(names, waiting)
            waiting = []
        elif op.kind != "moment":
            waiting.append(op)
    for file, ops in pending.items():
        _write(content.setdefault(file, bytearray()), luck(ops))
    _name(names, luck(waiting))
    return {name: bytes(content.get(file, b"")) for name, file in names.items()}


def _write(content: bytearray, ops: list[Op]) -> None:
    for op in ops:
        if op.kind == "truncate":
            del content[op.what :]
            content.extend(bytes(op.what - len(content)))
        else:
            offset, data = op.what
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data


def _name(names: dict[str, int], ops: list[Op]) -> None:
    for op in ops:
        if op.kind == "create":
            names[op.what] = op.file
        elif op.kind == "delete":
            names.pop(op.what, None)
        else:
            names[op.what[1]] = names.pop(op.what[0])
