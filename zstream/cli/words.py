"""Filters and events as words on the command line."""

import errno
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from zstream.cli import jsontext


def parse_filter(words: Iterable[str]) -> dict[str, Any]:
    """Make a filter from words like ``kind=friend``, ``user=@ids.txt`` or ``user:=[1, 2]``.

    Several words of one key give several values.

    Raises:
        click.UsageError: A word is not one of these; the message says how to write it.
    """
    found: dict[str, list[Any]] = {}
    stdin_used = ""
    for word in words:
        key, is_json, text = _split(word, "filter", "kind=friend")
        values = found.setdefault(key, [])
        if is_json:
            value = _json(word, text)
            values.extend(value if isinstance(value, list) else [value])
        elif text.startswith("@@"):
            values.append(text[1:])
        elif text.startswith("@"):
            if text == "@-" and stdin_used:
                raise click.UsageError(f"{word}: stdin is read for {stdin_used} already")
            stdin_used = word if text == "@-" else stdin_used
            values.extend(_values_of_file(word, text[1:]))
        else:
            values.append(text)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def parse_event(words: Sequence[str]) -> dict[str, Any]:
    """Make an event from words: ``key=text`` and ``key:=JSON``, or from one JSON object.

    Raises:
        click.UsageError: A word is neither; a key stands twice.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        event = _json("", words[0])
        if isinstance(event, dict):
            return event
        raise click.UsageError("the event is not a JSON object")
    result: dict[str, Any] = {}
    for word in words:
        key, is_json, text = _split(word, "part of an event", "kind=friend or user:=23")
        if key in result:
            raise click.UsageError(f"{word}: {key!r} stands twice; a list is {key}:='[1, 2]'")
        result[key] = _json(word, text) if is_json else text
    return result


def _split(word: str, what: str, example: str) -> tuple[str, bool, str]:
    if word.lstrip().startswith("{"):
        raise click.UsageError(f"{_short(word)}: write {example}, not JSON")
    key, equals, text = word.partition("=")
    if not equals:
        raise click.UsageError(f"{_short(word)} is no {what}: write key=value, as in {example}")
    is_json = key.endswith(":")
    key = key[:-1] if is_json else key
    if not key:
        raise click.UsageError(f"{_short(word)} has no key: write key=value, as in {example}")
    _check_text(word)
    return key, is_json, text


def _json(word: str, text: str) -> Any:
    try:
        return jsontext.decode(text)
    except jsontext.BadLine as error:
        if not word:
            raise click.UsageError(f"the event: {error}") from None
        raise click.UsageError(
            f"{_short(word)}: {error}; for a text write = instead of :="
        ) from None


def _check_text(word: str) -> None:
    try:  # the shell's bytes that are not UTF-8 arrive as lone surrogates
        word.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError(f"{_short(word)} is not UTF-8") from None


def _values_of_file(word: str, name: str) -> list[str]:
    try:
        if name == "-" and sys.stdin is None:
            raise OSError(errno.EBADF, "stdin is closed")
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(
            f"{word}: {name or 'no name'}: {error.strerror}; for the text itself write @@"
        ) from None
    values = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            value = line.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise click.UsageError(f"{word}: line {number} is not UTF-8") from None
        if value:
            values.append(value)
    return values


def _short(word: str) -> str:
    text = repr(word)
    return text if len(text) <= 80 else text[:76] + "...'"
