"""The client for asyncio: the names of `zstream.Client`, awaited.

::

    from zstream.aio import AsyncClient

    async with AsyncClient() as c:
        await c.insert({"kind": "friend", "user": 23, "friend": 291})
        await c.flush()
        await c.items(kind="friend", user=[23, 291])
"""

from zstream.aio.client import AsyncClient
from zstream.aio.tail import AsyncTail

__all__ = ["AsyncClient", "AsyncTail"]
