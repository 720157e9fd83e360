"""A real daemon for tests: ``with zstream.testing.server() as s: Client(s.url)``.

With pytest, the fixture ``zstream_server`` gives the same without an import.
"""

from zstream.testing.server import Server, server

__all__ = ["Server", "server"]
