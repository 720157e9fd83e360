"""Settings: one place, four sources, clear errors; sample file and docs follow the code."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream.errors import ConfigError
from zstreamd.kinds import Keep
from zstreamd.settings import (
    Settings,
    all_settings,
    default_text,
    flag,
    load,
    misspelt,
    variable,
)

#: A value other than the default for each setting, as text and as it ends up.
OTHER = {
    "store": ("memory:", "memory:"),
    "keys": ("a, b.c", ("a", "b.c")),
    "keep": ("30d, 1_000 events", Keep(30 * 86_400_000_000, 1_000, "30d, 1_000 events")),
    "producer_keep": ("forever", Keep(None, None, "forever")),
    "listen": ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
    "insert": ("tcp://localhost:7", "tcp://127.0.0.1:7"),
    "publish": ("ipc:///run/z-tail", "ipc:///run/z-tail"),
    "insecure": ("yes", True),
    "rejects": ("bad.jsonl", "bad.jsonl"),
    "query_threads": ("64", 64),
    "commit_events": ("1_000", 1000),
    "queue_bytes": ("1 MiB", 1 << 20),
    "publish_bytes": ("2g", 2 << 30),
    "max_filters": ("7", 7),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("json", "json"),
}


def write(folder: Path, text: str) -> Path:
    file = folder / "zstreamd.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- sources


def test_every_setting_is_tried_here() -> None:
    assert list(OTHER) == [each.name for each in all_settings()]


@pytest.mark.parametrize("name", OTHER)
def test_precedence_is_flag_environment_file_default(name: str, tmp_path: Path) -> None:
    text, value = OTHER[name]
    default = getattr(Settings(), name)
    assert value != default
    file = write(tmp_path, f"{name} = {toml(name, value)}\n")
    back = default_flag(name)

    assert getattr(load({}, {}), name) == default
    assert getattr(load({}, {}, file), name) == value
    assert getattr(load({}, {variable(name): text}), name) == value
    assert getattr(load({name: text}, {}), name) == value
    if back is not None:
        assert getattr(load({}, {variable(name): back}, file), name) == default
        assert getattr(load({name: text}, {variable(name): back}), name) == value
        assert getattr(load({name: back}, {variable(name): text}), name) == default


def toml(name: str, value: object) -> str:
    kind = next(each for each in all_settings() if each.name == name).metadata["kind"]
    return kind.show(value)


def default_flag(name: str) -> str | None:
    each = next(each for each in all_settings() if each.name == name)
    return None if each.default is None else default_text(each)


def test_an_empty_variable_or_an_absent_flag_says_nothing() -> None:
    assert load({"store": None}, {"ZSTREAMD_STORE": "", "OTHER": "x"}).store == Settings().store


def test_keys_in_a_file_are_text_or_a_list(tmp_path: Path) -> None:
    assert load({}, {}, write(tmp_path, 'keys = ["a", "b.c"]')).keys == ("a", "b.c")
    assert load({}, {}, write(tmp_path, 'keys = "a,b.c"')).keys == ("a", "b.c")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load({}, {}, write(tmp_path, '\ufeffstore = "memory:"')).store == "memory:"


@pytest.mark.parametrize(
    ("text", "age_us", "events"),
    [
        ("90s", 90_000_000, None),
        (" 12h ", 12 * 3_600_000_000, None),
        ("1 event", None, 1),
        ("5000events", None, 5_000),
        ("1_000_000 events,2w", 14 * 86_400_000_000, 1_000_000),
        ("forever", None, None),
    ],
)
def test_what_is_kept_is_an_age_a_number_or_both(
    text: str, age_us: int | None, events: int | None
) -> None:
    kept = load({"keep": text}, {}).keep
    assert kept is not None
    assert (kept.age_us, kept.events) == (age_us, events)
    assert load({"keep": str(kept)}, {}).keep == kept


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("store", "zstream.db", "write sqlite:///zstream.db"),
        ("store", "sqlite:///a\nb", "such as a line break"),
        ("rejects", "a\nb", "not printable"),
        ("keys", "a,,b", "cannot be a key"),
        ("keys", "a,a", "declared twice"),
        ("listen", "127.0.0.1:5570", "write tcp://host:port or ipc://path"),
        ("listen", "tcp://127.0.0.1:65535", "leaves no port for insert"),
        ("listen", "inproc://x", "no endpoint"),
        ("listen", "ipc:///" + "x" * 110, "at most 107 bytes"),
        ("listen", "ipc:///" + "x" * 100, "at most 107 bytes"),
        ("insert", "tcp://127.0.0.1:5570", "must differ"),
        ("insecure", "maybe", "neither true nor false"),
        ("query_threads", "0", "from 1 to 64"),
        ("query_threads", "65", "from 1 to 64"),
        ("query_threads", "4.0", "not a whole number"),
        ("query_threads", "-1", "not a whole number"),
        ("query_threads", "٤", "not a whole number"),
        ("queue_bytes", "64MB", "KiB, MiB, GiB"),
        ("queue_bytes", "1", "from 1MiB to 1TiB"),
        ("queue_bytes", "999999999999999T", "from 1MiB to 1TiB"),
        ("keep", "1000000", "write 30d"),
        ("keep", "30 days", "or forever"),
        ("keep", "0 events", "out of range"),
        ("keep", "0d", "out of range"),
        ("keep", "1d, 2d", "one thing twice"),
        ("keep", "1d, forever", "do not go together"),
        ("keep", "9999999999999999 events", "out of range"),
        ("producer_keep", "14d", "no age of 15d or more"),
        ("producer_keep", "30d, 5 events", "no age of 15d or more"),
        ("producer_keep", "30 days", "or forever"),
        ("log_level", "loud", "debug, info, warning, error"),
        ("log_format", "xml", "text, json"),
    ],
)
def test_a_bad_value_is_told_with_its_source(name: str, text: str, said: str) -> None:
    for sources in ({}, {variable(name): text}), ({name: text}, {}):
        message = refusal(*sources)
        assert said in message
        if "must differ" not in said and "leaves" not in said and "x" * 100 not in text:
            assert message.startswith((variable(name), flag(name)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stoer = "memory:"', "'stoer' is no setting; did you mean store?"),
        ("query-threads = 4", "did you mean query_threads?"),
        ("colour = 1", "there are: store, keys,"),
        ('[zstreamd]\nstore = "memory:"', "'zstreamd' is no setting"),
        ('query_threads = "4"', "query_threads takes a whole number, not text"),
        ("query_threads = true", "query_threads takes a whole number, not true or false"),
        ("store = 1", "store takes text, not a whole number"),
        ('insecure = "true"', "insecure takes true or false, not text"),
        ("insecure = 1", "insecure takes true or false, not a whole number"),
        ("queue_bytes = 1.5e9", "queue_bytes takes a whole number or text, not a float"),
        ("keys = [1]", "keys: a key is text, not 1"),
        ("keys = []", "needs 1 to"),
        ("listen = 2015-01-01", "listen takes text, not a date"),
        ("query_threads = 0", "query_threads: 0 is not a whole number from 1 to 64"),
        ("store = ", "is not TOML"),
        ("store = 'a'\nstore = 'b'", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)
def test_a_bad_file_is_told_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    message = refusal({}, {}, file)
    assert said in message
    assert str(file) in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refusal({}, {}, tmp_path / "absent.toml")
    assert "Is a directory" in refusal({}, {}, tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'store = "caf\xe9"')
    assert "is not TOML" in refusal({}, {}, latin)


def test_a_bad_value_in_the_file_is_told_even_if_a_flag_overrides_it(tmp_path: Path) -> None:
    assert "query_threads" in refusal(
        {"query_threads": "4"}, {}, write(tmp_path, "query_threads = 0")
    )


def test_variables_that_look_like_settings_are_told() -> None:
    told = misspelt({
        "ZSTREAMD_STOER": "memory:",
        "ZSTREAMD_STORE": "memory:",
        "ZSTREAMD_CONFIG": "x",
        "ZSTREAMD_PORT": "tcp://10.0.0.1:5570",
        "ZSTREAMD_SERVICE_HOST": "10.0.0.1",
        "STORE": "x",
    })  # fmt: skip
    assert told == ["ZSTREAMD_STOER is no setting and does nothing; did you mean ZSTREAMD_STORE?"]


# ---------------------------------------------------------------- who can reach it


@pytest.mark.parametrize("listen", ["tcp://127.9.9.9:1", "tcp://localhost:1", "tcp://[::1]:1"])
def test_loopback_needs_no_leave(listen: str) -> None:
    assert Settings(listen=listen).endpoints.query.endswith(":1")


@pytest.mark.parametrize(
    "listen",
    ["tcp://0.0.0.0:1", "tcp://*:1", "tcp://*:*", "tcp://[::]:1", "tcp://10.0.0.1:1", "tcp://db:1",
     "tcp://eth0:1"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["listen", "insert", "publish"])
def test_a_public_bind_needs_leave(name: str, listen: str) -> None:
    message = refusal({name: listen}, {})
    assert "may be reached from other machines" in message
    assert "--insecure" in message
    assert getattr(load({name: listen, "insecure": True}, {}), name) == listen


# ---------------------------------------------------------------- what is derived


@pytest.mark.parametrize(
    ("store", "rejects"),
    [
        ("memory:", None),
        ("sqlite:///a/z.db", "a/z.db-rejects.jsonl"),
        ("sqlite:////srv/z.db", "/srv/z.db-rejects.jsonl"),
        ("sqlite:////srv/z.db?x=1", "/srv/z.db-rejects.jsonl"),
    ],
)
def test_the_reject_file_lies_beside_the_store(store: str, rejects: str | None) -> None:
    assert Settings(store=store).reject_path == rejects
    assert Settings(store=store, rejects="r").reject_path == "r"


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("memory:", "memory:"),
        ("sqlite:////srv/a:b@c.db", "sqlite:////srv/a:b@c.db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
        ("postgresql://u:pw@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql+psycopg://u:p@s/s:w@h/db", "postgresql+psycopg://u:***@h/db"),
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        ("mysql://h/d?a=1&ssl_Passphrase=pw", "mysql://h/d?a=1&ssl_Passphrase=***"),
    ],
)
def test_a_password_is_not_shown(store: str, shown: str) -> None:
    settings = Settings(store=store)
    assert settings.store == store
    assert settings.store_name == shown
    assert store not in repr(settings) or store == shown


def test_a_password_is_not_shown_in_an_error() -> None:
    message = refusal({}, {"ZSTREAMD_STORE": "postgresql://me:hunter22@host/db\n"})
    assert message.startswith("ZSTREAMD_STORE: ")
    assert "hunter22" not in message


@given(
    user=st.text("abc-_", max_size=3),
    password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=12),
)
def test_no_password_is_shown_whatever_is_in_it(user: str, password: str) -> None:
    shown = Settings(store=f"postgresql://{user}:{password}@host/db").store_name
    assert shown == f"postgresql://{user}:***@host/db"


@given(st.integers(1 << 20, 1 << 40) | st.integers(1, 1 << 20).map(lambda number: number << 20))
def test_a_size_reads_back_as_it_is_shown(value: int) -> None:
    shown = toml("queue_bytes", value).strip('"')
    assert load({"queue_bytes": shown}, {}).queue_bytes == value
    assert load({"queue_bytes": str(value)}, {}).queue_bytes == value


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().store = "memory:"  # type: ignore[misc]


# ---------------------------------------------------------------- sample file and docs


def test_the_sample_file_has_every_setting_at_its_default(repo_root: Path) -> None:
    text = (repo_root / "config" / "zstreamd.toml").read_text(encoding="utf-8")
    assert load({}, {}, repo_root / "config" / "zstreamd.toml") == Settings()
    # What has no default of its own is there too, as a comment that can be uncommented.
    uncommented = "\n".join(
        line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")
    )
    assert list(tomllib.loads(uncommented)) == [each.name for each in all_settings()]
    flat = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for each in all_settings():
        assert each.metadata["help"] in flat, each.name
        if each.default is None:
            assert f"\n#{each.name} = " in text
        else:
            assert f"\n{each.name} = {toml(each.name, each.default)}\n" in text


def test_the_docs_have_every_setting(repo_root: Path) -> None:
    text = (repo_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `--")]
    expected = [
        f"| `{flag(each.name)}` | `{variable(each.name)}` | {default_cell(each)} "
        f"| {each.metadata['help']} |"
        for each in all_settings()
    ]
    assert rows == expected


def default_cell(each: dataclasses.Field) -> str:
    text = default_text(each)
    return text if each.default is None else f"`{text}`"
