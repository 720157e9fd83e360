"""Lines of the log: one an entry, in two forms, without secrets, whatever stderr does."""

import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from zstreamd.logs import logging_to_stderr, write_line

log = logging.getLogger("zstreamd.test")


@contextmanager
def unreported() -> Iterator[None]:
    """Keep pytest from reporting the lines: pytest-xdist cannot send half a surrogate."""
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers = [each for each in before if not type(each).__module__.startswith("_pytest")]
    try:
        yield
    finally:
        root.handlers = before


def test_text(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", "text", {}):
        log.info("ready: %s", "küste", extra={"event": "ready"})
        log.debug("unseen")
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info ready: küste", line)


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("debug", "json", {}):
        log.debug("küste\n%d", 7, extra={"event": "ready", "keys": ["a"], "odd": {1}})
    (line,) = capfd.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "debug", "event": "ready", "message": "küste\n7", "logger": "zstreamd.test",
        "keys": ["a"], "odd": "{1}",
    }  # fmt: skip


def test_one_entry_is_one_line_whatever_is_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    evil = "a\nb\r\x1b[31m\x00\u2028\x85\udc80"
    with unreported(), logging_to_stderr("info", "text", {}):
        log.info("%s", evil)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(r"info a\nb\r\x1b[31m\x00\u2028\x85\udc80")
    with unreported(), logging_to_stderr("info", "json", {}):
        log.info("%s", evil)
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["message"] == evil


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("password", ["hunter22", "hunter22\"'\\", "hunter22é"])
def test_secrets_are_hidden_in_tracebacks_too(
    capfd: pytest.CaptureFixture[str], style: str, password: str
) -> None:
    url = f"postgresql://me:{password}@host/db"
    with logging_to_stderr("info", style, {url: "postgresql://me:***@host/db"}):
        log.info("open %s, that is %r", url, url, extra={"store": url})
        try:
            raise RuntimeError(url)
        except RuntimeError:
            log.critical("a defect", exc_info=True)
    said = capfd.readouterr().err
    assert "hunter22" not in said
    assert said.count("me:***@host") >= 3
    assert "Traceback" in said


def test_other_libraries_only_warn(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("debug", "text", {}):
        logging.getLogger("sqlalchemy.engine").info("SELECT")
        logging.getLogger("sqlalchemy.pool").warning("lost")
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    said = capfd.readouterr().err
    assert "SELECT" not in said
    assert " warning lost" in said
    assert "DeprecationWarning: old" in said


def test_it_is_put_back_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level, logging.getLogger("zstreamd").level
    with logging_to_stderr("error", "text", {}):
        log.warning("unseen")
    assert (list(root.handlers), root.level, logging.getLogger("zstreamd").level) == before
    assert capfd.readouterr().err == ""


@contextmanager
def stderr_is(number: int) -> Iterator[None]:
    kept = os.dup(2)
    os.dup2(number, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_a_long_line_goes_out_whole() -> None:
    reader, writer = os.pipe()
    with stderr_is(writer):
        write_line("x" * 3000)
    os.close(writer)
    assert os.read(reader, 9999) == b"x" * 3000 + b"\n"
    os.close(reader)


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with stderr_is(writer):
        write_line("nobody reads this")
        with logging_to_stderr("info", "text", {}):
            log.info("nor this")
    os.close(writer)
