"""A file system that becomes read-only while files on it are open, for one process.

A disk that fails is mounted read-only by the kernel, in the midst of everything. Nobody can ask for
that, not even root: a mount on which files are open for writing stays as it is. So the calls of one
process that write are looked at before they are made, and refused as the kernel would refuse them.

    python readonly.py SOCKET COMMAND…        executes the command; the socket gets who decides
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Final

#: Numbers of calls: open, those that write to a file that is open, and those that change names;
#: seccomp(2) itself; and what the kernel calls the machine.
_MACHINES: Final = {
    "x86_64": (257, (18, 77, 285, 296), (82, 83, 87, 258, 263, 264, 316), 317, 0xC000003E),
    "aarch64": (56, (68, 46, 47, 70), (34, 35, 38, 276), 277, 0xC00000B7),
}
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CALL: Final = struct.Struct("=QIIiIQ6Q")
_ANSWER: Final = struct.Struct("=QqiI")
_GO_ON: Final = 1
#: Instructions of a filter, its answers, and the places in what it looks at.
_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_NUMBER, _MACHINE, _FLAGS = 0, 4, 32


def is_possible() -> bool:
    """Whether this machine is one of those that are known here."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


class ReadOnly:
    """Decides what a process may write in a folder; begins as writable.

    Attributes:
        is_on: Whether the folder is read-only.
        refused: How many calls were refused.
    """

    def __init__(self, folder: Path) -> None:
        self.is_on = False
        self.refused = 0
        self._folder = os.fsencode(folder)
        self._listening = socket.socket(socket.AF_UNIX)
        self._path = folder / "asks"
        self._listening.bind(str(self._path))
        self._listening.listen()
        #: What a command is to be executed under.
        self.under = (sys.executable, Path(__file__), self._path)
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; the process must have ended."""
        os.write(self._stopping, b"!")
        self._thread.join()
        self._listening.close()
        os.close(self._stop)
        os.close(self._stopping)

    def _run(self) -> None:
        if not self._is_readable(self._listening.fileno()):
            return
        connection, _ = self._listening.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        asks = descriptors[0]
        while self._is_readable(asks):
            call = bytearray(_CALL.size)
            try:
                fcntl.ioctl(asks, _RECEIVE, call)
                id, pid, _, number, _, _, *args = _CALL.unpack(call)
                refuses = self.is_on and self._concerns(pid, number, args)
                self.refused += refuses
                answer = (id, 0, -errno.EROFS, 0) if refuses else (id, 0, 0, _GO_ON)
                fcntl.ioctl(asks, _SEND, bytearray(_ANSWER.pack(*answer)))
            except OSError as error:
                if error.errno != errno.ENOENT:  # who asked has been killed
                    raise
        os.close(asks)

    def _is_readable(self, descriptor: int) -> bool:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        ready = dict(poller.poll())
        return self._stop not in ready and bool(ready[descriptor] & select.POLLIN)

    def _concerns(self, pid: int, number: int, args: list[int]) -> bool:
        opens, written, _, _, _ = _MACHINES[platform.machine()]
        if number in written:
            name = os.fsencode(os.readlink(f"/proc/{pid}/fd/{args[0]}"))
        elif number == opens:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(args[1])
                name = memory.read(4096).partition(b"\0")[0]
        else:
            return True
        return name.startswith(self._folder)


def _filter() -> bytes:
    opens, written, named, _, machine = _MACHINES[platform.machine()]
    lines = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_LOAD, 0, 0, _NUMBER)]
    for number in (*written, *named):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ASK)]
    lines += [(_EQUAL, 0, 2, opens), (_LOAD, 0, 0, _FLAGS), (_BITS, 1, 0, _WRITES)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def main() -> None:
    path, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_filter())
    program = struct.pack("HP", (len(code) - 1) // 8, ctypes.addressof(code))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        # Who gets no privileges may filter his own calls.
        if libc.prctl(38, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        asks = libc.syscall(_MACHINES[platform.machine()][3], 1, 8, program)
        if asks < 0:
            raise OSError(ctypes.get_errno(), "seccomp")
        socket.send_fds(connection, [b"!"], [asks])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
