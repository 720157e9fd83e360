"""The network between clients and a daemon, which can be cut and frozen."""

from pathlib import Path
from typing import Final

from ..servers.network import Network

#: The sockets of a daemon in its folder.
SOCKETS: Final = {"query": "s", "insert": "s-insert", "publish": "s-publish"}


class Proxy(Network):
    """Three listeners that pass bytes on to the sockets of the daemon in a folder.

    Attributes:
        url: The three endpoints, for a client.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__({name: folder / path for name, path in SOCKETS.items()})
        self.url = [f"tcp://127.0.0.1:{self.ports[name]}" for name in SOCKETS]
