"""A network that fails: sockets whose bytes are passed on to others, or are not."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

#: Where bytes go: the path of a local socket, or a host and a port.
Target = Path | tuple[str, int]
_CHUNK: Final = 1 << 16


class _Way:
    """One listener, and how it is.

    Attributes:
        target: Where to.
        refuses: New connections are reset.
        frozen: Nothing passes, for connections to come; those that are there know it themselves.
        drops: Bytes vanish.
        delay_s: So long each piece takes.
        trap: Words of a client that are waited for, and whether they are held or passed on.
        sprung: How often such came by.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.refuses = self.frozen = self.drops = False
        self.delay_s = 0.0
        self.trap: tuple[bytes, bool] | None = None
        self.sprung = 0
        self.lines: set[_Line] = set()


class _Line:
    """One connection through a way."""

    def __init__(self, way: _Way, *ends: asyncio.StreamWriter) -> None:
        self.way, self.ends = way, ends
        self.flow = asyncio.Event()
        if not way.frozen:
            self.flow.set()
        self.has_lost = self.is_trapped = False

    def abort(self) -> None:
        for end in self.ends:
            end.transport.abort()

    async def carry(self, data: bytes, to: asyncio.StreamWriter, *, up: bool) -> None:
        way = self.way
        if way.delay_s:
            await asyncio.sleep(way.delay_s)
        if self.is_trapped and not up:
            self.abort()
            raise ConnectionError
        if way.trap is not None and up and way.trap[0] in data:
            if way.trap[1]:
                self.flow.clear()
            else:
                self.is_trapped = True
            way.trap = None
            way.sprung += 1
        await self.flow.wait()
        if way.drops:
            self.has_lost = True
            return
        to.write(data)
        await to.drain()


class Network:
    """Listeners on loopback, one for each target.

    Its methods may be called from any thread; they return when it is done. Without names they
    are about all of the targets.

    Attributes:
        ports: Where each is listened for.
        cuts: How many connections were cut.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._loop = asyncio.new_event_loop()
        self._ways = {name: _Way(target) for name, target in targets.items()}
        self._servers: list[asyncio.Server] = []
        self.cuts = 0
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.ports: dict[str, int] = {
            name: self._run(self._listen(way)) for name, way in self._ways.items()
        }

    def _run(self, work: "Coroutine[Any, Any, Any]") -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _do(self, what: Callable[[_Way], object], names: tuple[str, ...] = ()) -> None:
        async def work() -> None:
            for name in names or self._ways:
                what(self._ways[name])

        self._run(work())

    # ------------------------------------------------------------ what can be done to it

    def cut(self, *names: str) -> None:
        """Reset the connections."""
        self._do(self._cut, names)

    def _cut(self, way: _Way) -> None:
        for line in way.lines:
            line.abort()
            self.cuts += 2

    def refuse(self, *names: str) -> None:
        """Cut them, and cut every new connection at once, until `mend`."""

        def work(way: _Way) -> None:
            way.refuses = True
            self._cut(way)

        self._do(work, names)

    def freeze(self, *names: str) -> None:
        """Pass nothing on, and cut nothing, until `mend`."""

        def work(way: _Way) -> None:
            way.frozen = True
            for line in way.lines:
                line.flow.clear()

        self._do(work, names)

    def drop(self, *names: str) -> None:
        """Take all bytes and pass none on, until `mend`."""
        self._do(lambda way: setattr(way, "drops", True), names)

    def delay(self, seconds: float, *names: str) -> None:
        """Pass each piece on so much later, until `mend`."""
        self._do(lambda way: setattr(way, "delay_s", seconds), names)

    def trap(self, words: bytes, *names: str) -> None:
        """Cut the next connection over which these words go, when their answer comes.

        The other end has got them, and has done what they say.
        """
        self._do(lambda way: setattr(way, "trap", (words, False)), names)

    def hold(self, words: bytes, *names: str) -> None:
        """Freeze the next connection over which these words go, before they are passed on."""
        self._do(lambda way: setattr(way, "trap", (words, True)), names)

    def sprung(self, name: str) -> int:
        """How often words that were waited for came by."""
        return self._ways[name].sprung

    def mend(self, *names: str, old: bool = True) -> None:
        """Let all flow again.

        Args:
            names: Whose.
            old: Whether connections that stand frozen flow, too; those made from now on do.
        """

        def work(way: _Way) -> None:
            way.refuses = way.frozen = way.drops = False
            way.delay_s, way.trap = 0.0, None
            for line in way.lines:
                if line.has_lost:
                    line.abort()  # what comes would be out of order
                elif old:
                    line.flow.set()

        self._do(work, names)

    def close(self) -> None:
        """Cut all for good."""
        self.mend()

        async def end() -> None:
            for server in self._servers:
                server.close()
            for way in self._ways.values():
                for line in way.lines:
                    line.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait(others, timeout=5) if others else None

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------ in its thread

    async def _listen(self, way: _Way) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _connect(way, reader, writer)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])


async def _connect(way: _Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        if way.refuses:
            raise ConnectionError
        if isinstance(way.target, Path):
            ends = await asyncio.open_unix_connection(way.target, limit=_CHUNK)
        else:
            ends = await asyncio.open_connection(*way.target, limit=_CHUNK)
    except OSError:
        writer.transport.abort()
        return
    for end in (writer, ends[1]):
        if (made := end.get_extra_info("socket")).family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = _Line(way, writer, ends[1])
    way.lines.add(line)
    try:
        await asyncio.gather(
            _pass(line, reader, ends[1], up=True), _pass(line, ends[0], writer, up=False)
        )
    finally:
        way.lines.discard(line)


async def _pass(
    line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
) -> None:
    try:
        while await line.flow.wait() and (data := await reader.read(_CHUNK)):
            await line.carry(data, writer, up=up)
    except OSError:
        pass
    finally:
        # Either end gone: so is the other, as far as it has not read.
        writer.close()
