"""The stores behind the daemon, found by the scheme of their URL."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from zstream.backends.base import Backend
from zstream.errors import ConfigError

_BUILT_IN: Final = {
    "mariadb": "zstream.backends.mysql:MySQLBackend",
    "memory": "zstream.backends.memory:MemoryBackend",
    "mysql": "zstream.backends.mysql:MySQLBackend",
    "postgres": "zstream.backends.postgres:PostgresBackend",
    "postgresql": "zstream.backends.postgres:PostgresBackend",
    "redis": "zstream.backends.redis:RedisBackend",
    "rediss": "zstream.backends.redis:RedisBackend",
    "sqlite": "zstream.backends.sqlite:SQLiteBackend",
    "unix": "zstream.backends.redis:RedisBackend",
}
#: Where packages outside name the stores that they bring: ``scheme = module:Class``.
_GROUP: Final = "zstream.backends"
#: The libraries that only one store needs, and the extra that brings each.
_EXTRAS: Final = {"psycopg": "postgres", "pymysql": "mysql", "redis": "redis"}


def open_backend(url: str) -> Backend:
    """Make the backend that a store URL names. Nothing is opened yet.

    Args:
        url: ``memory:``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``,
            ``postgresql://…``, ``mysql://…``, ``mariadb://…``, ``redis://…``, ``rediss://…``,
            ``unix://…``, or a scheme of the ``zstream.backends`` entry point group.

    Raises:
        ConfigError: No such scheme, or the URL is not one that this backend takes, or the
            library that it needs is not installed, or what an entry point names is no store.
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
    outside = _outside(scheme) if colon else []
    if target is not None:
        if outside:
            raise ConfigError(
                f"the scheme {scheme!r} is zstream's own, and {_names(outside)} claims it too"
            )
        module, _, name = target.partition(":")
        return cast(type[Backend], getattr(import_module(module), name))
    if not outside:
        known = sorted({*_BUILT_IN, *(e.name for e in entry_points(group=_GROUP))})
        what = f"the scheme {scheme!r}" if colon else "a store without a scheme"
        raise ConfigError(f"unknown store: {what}; known schemes are: {', '.join(known)}")
    if len(outside) > 1:
        raise ConfigError(f"several packages claim the scheme {scheme!r}: {_names(outside)}")
    return _load(outside[0])


def _outside(scheme: str) -> list[EntryPoint]:
    """Who else offers a scheme. What is installed twice in the same words counts once."""
    found = {e.value: e for e in entry_points(group=_GROUP, name=scheme)}
    return [entry for value, entry in sorted(found.items()) if value != _BUILT_IN.get(scheme)]


def _names(entries: Sequence[EntryPoint]) -> str:
    """Which packages these entry points are from, and what each of them names."""
    owners = ((entry, "unknown" if entry.dist is None else entry.dist.name) for entry in entries)
    return " and ".join(f"the package {owner} ({entry.value})" for entry, owner in owners)


def _load(entry: EntryPoint) -> type[Backend]:
    where = f"the store {entry.name!r} of {_names([entry])}"
    try:
        cls = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where} cannot be loaded: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise ConfigError(f"{where} is no subclass of zstream.backends.base.Backend")
    if missing := sorted(cls.__abstractmethods__):
        raise ConfigError(f"{where} lacks methods of a store: {', '.join(missing)}")
    return cls
