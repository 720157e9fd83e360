"""A network that fails: TCP between clients and a daemon, which can be cut and frozen."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

#: The sockets of a daemon in its folder.
SOCKETS: Final = {"query": "s", "insert": "s-insert", "publish": "s-publish"}
_CHUNK: Final = 1 << 16


class Proxy:
    """Three listeners that pass bytes on to the sockets of the daemon in a folder.

    Its methods may be called from any thread; they return when it is done.

    Attributes:
        url: The three endpoints, for a client.
        cuts: How many connections were cut.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._ways: dict[str, set[asyncio.StreamWriter]] = {name: set() for name in SOCKETS}
        self._flows: dict[str, asyncio.Event] = {}
        self._refuses: set[str] = set()
        self._servers: list[asyncio.Server] = []
        self.cuts = 0
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.url = [self._run(self._listen(name)) for name in SOCKETS]

    def _run(self, work: "Coroutine[Any, Any, Any]") -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _do(self, what: Callable[[], None]) -> None:
        async def work() -> None:
            what()

        self._run(work())

    # ------------------------------------------------------------ what can be done to it

    def cut(self, *names: str) -> None:
        """Reset the connections of these sockets, of all without a name."""

        def work() -> None:
            for name in names or SOCKETS:
                for writer in self._ways[name]:
                    writer.transport.abort()
                    self.cuts += 1

        self._do(work)

    def refuse(self, *names: str) -> None:
        """Cut these, and cut every new connection at once, until `mend`."""
        self._do(lambda: self._refuses.update(names or SOCKETS))
        self.cut(*names)

    def freeze(self, *names: str) -> None:
        """Pass nothing on over these, and cut nothing, until `mend`."""
        self._do(lambda: [self._flows[name].clear() for name in names or SOCKETS] and None)

    def mend(self) -> None:
        """Let all flow again."""

        def work() -> None:
            self._refuses.clear()
            for flow in self._flows.values():
                flow.set()

        self._do(work)

    def close(self) -> None:
        """Cut all for good."""
        self.mend()

        async def end() -> None:
            for server in self._servers:
                server.close()
            for ways in self._ways.values():
                for writer in ways:
                    writer.transport.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait(others, timeout=5) if others else None

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------ in its thread

    async def _listen(self, name: str) -> str:
        self._flows[name] = asyncio.Event()
        self._flows[name].set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connect(name, reader, writer)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK)
        self._servers.append(server)
        return f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _connect(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if name in self._refuses:
                raise ConnectionError
            ends = await asyncio.open_unix_connection(self._folder / SOCKETS[name], limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        ways = self._ways[name]
        ways |= {writer, ends[1]}
        try:
            flow = self._flows[name]
            await asyncio.gather(_pass(reader, ends[1], flow), _pass(ends[0], writer, flow))
        finally:
            ways -= {writer, ends[1]}


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event
) -> None:
    try:
        while await flow.wait() and (data := await reader.read(_CHUNK)):
            await flow.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        # Either end gone: so is the other, as far as it has not read.
        writer.close()
