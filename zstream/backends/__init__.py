"""The stores behind the daemon, found by the scheme of their URL."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Final, cast

from zstream.backends.base import Backend
from zstream.errors import ConfigError

_BUILT_IN: Final = {
    "mariadb": "zstream.backends.mysql:MySQLBackend",
    "memory": "zstream.backends.memory:MemoryBackend",
    "mysql": "zstream.backends.mysql:MySQLBackend",
    "postgres": "zstream.backends.postgres:PostgresBackend",
    "postgresql": "zstream.backends.postgres:PostgresBackend",
    "sqlite": "zstream.backends.sqlite:SQLiteBackend",
}
#: The libraries that only one store needs, and the extra that brings each.
_EXTRAS: Final = {"psycopg": "postgres", "pymysql": "mysql"}


def open_backend(url: str) -> Backend:
    """Make the backend that a store URL names. Nothing is opened yet.

    Args:
        url: ``memory:``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``,
            ``postgresql://…``, ``mysql://…``, ``mariadb://…``, or a scheme of the
            ``zstream.backends`` entry point group.

    Raises:
        ConfigError: No such scheme, or the URL is not one that this backend takes, or the
            library that it needs is not installed.
    """
    try:
        return _find(url)(url)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name]
        raise ConfigError(
            f"the store needs {error.name}, which is not installed: pip install 'zstream[{extra}]'"
        ) from error


def _find(url: str) -> type[Backend]:
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
    return cast(type[Backend], cls)
