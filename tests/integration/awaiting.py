"""How an asynchronous test runs: in asyncio's debug mode, and nothing may be left behind."""

import asyncio
import functools
import textwrap
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from .support import PATIENCE_S, run_silent


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine function as a test. No task may outlive it, no failure go unheard."""

    @functools.wraps(test)
    def run(*args: object, **arguments: object) -> None:
        unheard: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, told: unheard.append(told))
            await test(*args, **arguments)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, "tasks were left behind"

        asyncio.run(main(), debug=True)
        assert not unheard

    return run


async def eventually(happened: Callable[[], object], what: str) -> None:
    """Let others work until something happened."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while not happened():
        if loop.time() > until:
            pytest.fail(f"{what}: not within {PATIENCE_S:g} s")
        await asyncio.sleep(0.001)


async def cancelled(call: Awaitable[Any], when: Callable[[], object]) -> None:
    """Begin a call and cancel it when something happened."""
    task = asyncio.ensure_future(call)
    await eventually(when, "the call got so far")
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Turns:
    """Another task of the loop, and how often it had its turn."""

    async def __aenter__(self) -> "Turns":
        self.count = 0
        self._task = asyncio.ensure_future(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _work(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


def run_awaiting(url: str, kind: str, code: str) -> None:
    """Run a script in asyncio's debug mode; it must end well and say nothing.

    But that a callback was slow, on a machine that has much to do, is no failure.
    """
    quiet = "logging.getLogger('asyncio').setLevel(logging.ERROR)"
    head = f"import asyncio, logging\nfrom zstream.aio import AsyncClient\n{quiet}\n"
    run_silent(url, kind, head + textwrap.dedent(code))
