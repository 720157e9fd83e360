"""The stores behind the daemon, found by the scheme of their URL."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Final, cast

from zstream.backends.base import Backend
from zstream.errors import ConfigError

_BUILT_IN: Final = {
    "memory": "zstream.backends.memory:MemoryBackend",
    "sqlite": "zstream.backends.sqlite:SQLiteBackend",
}


def open_backend(url: str) -> Backend:
    """Make the backend that a store URL names. Nothing is opened yet.

    Args:
        url: ``memory:``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``, or a scheme
            of the ``zstream.backends`` entry point group.

    Raises:
        ConfigError: No such scheme, or the URL is not one that this backend takes.
    """
    scheme, colon, _ = url.partition(":")
    target = _BUILT_IN.get(scheme) if colon else None
    if target is not None:
        module, _, name = target.partition(":")
        cls = getattr(import_module(module), name)
    else:
        found = entry_points(group="zstream.backends", name=scheme)
        if not colon or not found:
            known = sorted({*_BUILT_IN, *(e.name for e in entry_points(group="zstream.backends"))})
            what = f"the scheme {scheme!r}" if colon else "a store without a scheme"
            raise ConfigError(f"unknown store: {what}; known schemes are: {', '.join(known)}")
        cls = next(iter(found)).load()
    return cast(Backend, cls(url))
