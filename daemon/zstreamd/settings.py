"""The daemon's settings.

Each is written once, as a field of :class:`Settings`: default, help and how it is written. Flags,
environment names, the keys of the TOML file, the test of the sample file and that of the table
in ``docs/configuration.md`` follow from the field. A flag wins over the environment, that over
the file, and the file over the default.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from zstream.endpoints import DEFAULT_QUERY, Endpoints, derive, is_local
from zstream.errors import ConfigError
from zstreamd.kinds import (
    ENDPOINT,
    KEEP,
    LONG,
    NAMES,
    PATH,
    SWITCH,
    URL,
    Keep,
    Kind,
    choice,
    size,
    whole,
)

#: What the name of every environment variable begins with.
PREFIX: Final = "ZSTREAMD_"

# Greedy on purpose: a password with an unescaped "/" or "@" is hidden whole.
_USERINFO = re.compile(r"^([A-Za-z][\w+.-]*://[^:/@]*:).*@", re.ASCII)
_SECRET = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)


def _setting(default: Any, kind: Kind, help: str, *, unset: str = "", repr: bool = True) -> Any:
    """Make a field; ``unset`` says what a default of None comes to."""
    metadata = {"kind": kind, "help": help, "unset": unset}
    return field(default=default, repr=repr, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon is told. Every value is checked and in its final form.

    Raises:
        ConfigError: A value cannot be used, the endpoints clash, or one of them can be reached
            from other machines without ``insecure``.
    """

    store: str = _setting(
        "sqlite:///zstream.db", URL, repr=False,
        help="Where events live: memory:, sqlite:///relative/path, sqlite:////absolute/path, "
        "postgresql://user@host/database, mysql://user@host/database or redis://host:6379/0.",
    )  # fmt: skip
    keys: tuple[str, ...] | None = _setting(
        None, NAMES, unset="the store's own; kind,user,repo for a new store",
        help="The indexed fields, with dots for nested ones, separated by commas.",
    )  # fmt: skip
    keep: Keep | None = _setting(  # noqa: RUF009  # a field, as the others
        None, KEEP, unset="forever",
        help="How much is kept: an age since arrival, as 30d or 12h, a number of events, as "
        "1_000_000 events, or both with a comma. What is older is forgotten for good.",
    )  # fmt: skip
    producer_keep: Keep = _setting(  # noqa: RUF009  # a field, as the others
        Keep(30 * 24 * 3600 * 1_000_000, text="30d"), LONG,
        help="For how long a producer of numbered batches is remembered that is not heard of: 15d "
        "or more, or forever. Whoever comes back later begins anew, and what was confirmed to "
        "nobody is stored twice.",
    )  # fmt: skip
    listen: str = _setting(
        DEFAULT_QUERY, ENDPOINT,
        help="Where queries are answered: tcp://host:port or ipc://path. Insert and publish "
        "follow at port + 1 and + 2, or at path-insert and path-publish; port * takes three "
        "free ports.",
    )  # fmt: skip
    insert: str | None = _setting(
        None, ENDPOINT, unset="follows listen", help="Where events are taken in."
    )
    publish: str | None = _setting(
        None, ENDPOINT, unset="follows listen", help="Where committed events are published."
    )
    insecure: bool = _setting(
        False, SWITCH,
        help="Allow endpoints that other machines can reach. Nobody is asked who they are: only "
        "for a network that you trust.",
    )  # fmt: skip
    rejects: str | None = _setting(
        None, PATH, unset="the path of a SQLite store with -rejects.jsonl; else no file",
        help="The file that keeps what was refused of raw frames, which have no sender to tell, "
        "with the reason; one JSON object a line.",
    )  # fmt: skip
    query_threads: int = _setting(
        4, whole(1, 64), help="Threads that answer queries, each with a connection to the store."
    )
    commit_events: int = _setting(
        5_000,
        whole(1, 1_000_000),
        help="The most messages, of one event or many, that one transaction takes.",
    )
    queue_bytes: int = _setting(
        4 << 20, size(1 << 20, 1 << 40),
        help="Inserts that wait to be stored; beyond it the daemon stops reading, and senders "
        "queue up.",
    )  # fmt: skip
    publish_bytes: int = _setting(
        64 << 20, size(1 << 20, 1 << 40),
        help="Publications that wait to be sent; beyond it they are dropped and counted.",
    )  # fmt: skip
    max_filters: int = _setting(
        10_000, whole(1, 1_000_000), help="Different filters that can be followed at one time."
    )
    log_level: str = _setting(
        "info",
        choice("debug", "info", "warning", "error"),
        help="The least that is logged: debug, info, warning or error.",
    )
    log_format: str = _setting(
        "text",
        choice("text", "json"),
        help="How a line of the log, on stderr, is written: text or json.",
    )

    def __post_init__(self) -> None:
        for each in all_settings():
            value = getattr(self, each.name)
            if value is not None:
                object.__setattr__(self, each.name, _parse(each, value, each.name))
        for endpoint in self.endpoints:
            if not self.insecure and not is_local(endpoint):
                raise ConfigError(
                    f"{endpoint} may be reached from other machines, and zstreamd does not ask "
                    "who calls; listen on tcp://127.0.0.1:PORT, tcp://[::1]:PORT or ipc://PATH, "
                    "or add --insecure if you trust the network"
                )

    @property
    def endpoints(self) -> Endpoints:
        """The three endpoints to bind; a port may still be ``*``."""
        return derive(self.listen, self.insert, self.publish, bind=True)

    @property
    def store_name(self) -> str:
        """The store's URL as it may be shown: without passwords."""
        return _SECRET.sub(r"\1***", _USERINFO.sub(r"\1***@", self.store))

    @property
    def reject_path(self) -> str | None:
        """The reject file, or None where refused events are only counted and logged."""
        if self.rejects is None and self.store.startswith("sqlite:///"):
            path = self.store.removeprefix("sqlite:///").partition("?")[0]
            return f"{path}-rejects.jsonl"
        return self.rejects


def all_settings() -> tuple[Field[Any], ...]:
    """The settings in their order; the metadata has ``kind``, ``help`` and ``unset``."""
    return fields(Settings)


def flag(name: str) -> str:
    """The command's option for a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable for a setting."""
    return PREFIX + name.upper()


def default_text(each: Field[Any]) -> str:
    """Say a setting's default to a person."""
    if each.default is None:
        return str(each.metadata["unset"])
    return str(each.metadata["kind"].show(each.default)).strip('"')


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None
) -> Settings:
    """Put the settings together.

    Args:
        flags: Values by setting; None is a flag that was not given.
        environ: The environment; an empty variable is one that is not set.
        file: A TOML file.

    Raises:
        ConfigError: A source cannot be read or has a value that cannot be used; the message
            names both.
    """
    values: dict[str, Any] = {} if file is None else _read(file)
    for each in all_settings():
        if text := environ.get(variable(each.name)):
            values[each.name] = _parse(each, text, variable(each.name))
        given = flags.get(each.name)
        if given is not None:
            values[each.name] = _parse(each, given, flag(each.name))
    return Settings(**values)


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Say which variables are no setting but look as if they were meant for one.

    Others are left alone: an orchestrator may well put its own ``ZSTREAMD_…`` there.
    """
    known = {variable(each.name) for each in all_settings()} | {PREFIX + "CONFIG"}
    return [
        f"{name} is no setting and does nothing; did you mean {near[0]}?"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
        if (near := difflib.get_close_matches(name, known, n=1, cutoff=0.85))
    ]


def _parse(each: Field[Any], value: object, origin: str) -> object:
    try:
        return each.metadata["kind"].parse(value)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _read(file: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the config file {file} is not TOML: {error}") from None
    known = {each.name: each for each in all_settings()}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise ConfigError(f"{file}: {name!r} is no setting; {hint}")
        try:
            known[name].metadata["kind"].check_toml(value)
        except ConfigError as error:
            raise ConfigError(f"{file}: {name} {error}") from None
    return {name: _parse(known[name], table[name], f"{file}: {name}") for name in table}
