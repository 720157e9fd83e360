"""What the command line refuses before it looks for a daemon, and what the docs say of it."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from zstream import cli, errors
from zstream.cli import app, exits

TOKEN = "p1.1.1.1.1"


def run(*words, **environment):
    # Nobody listens there, so a command line that is accepted ends with 3.
    url = {"ZSTREAM_URL": "tcp://127.0.0.1:1"}
    return CliRunner().invoke(
        app.cli, ["--timeout", "0.05", *words], env=url | environment, prog_name="zstream"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nocommand"], "No such command 'nocommand'"),
        (["count", "--nooption"], "No such option"),
        (["--timeout", "0", "ping"], "x>0"),
        (["ping", "--timeout", "soon"], "'soon' is not a valid float"),
        (["--url", "nonsense", "ping"], "write tcp://host:port or ipc://path"),
        (["items", "friend"], "'friend' is no filter: write key=value, as in kind=friend"),
        (["count", "friend"], "write key=value"),
        (["tail", "friend"], "write key=value"),
        (["export", "friend"], "write key=value"),
        (["items", "--since", "yesterday"], "--since: 'yesterday' is neither ISO 8601"),
        (["items", "--until", "2015"], "--until: 2015 would be seconds since 1970"),
        (["count", "--since", "2015-01-01"], "for UTC, or give --tz UTC"),
        (["count", "--tz", "Nowhere"], "'Nowhere' is no time zone"),
        (["items", "--before", "x"], "'x' is no token as --next writes one"),
        (["items", "--start", "10000"], "0<=x<=9999"),
        (["items", "-n", "0"], "x>=1"),
        (["items", "--format", "xml"], "'xml' is not one of"),
        (["tail", "--after", "x"], "'x' is neither an id nor a cursor"),
        (["tail", "--after", "1", "--since", "1h"], "give --after or --since, not both"),
        (["insert", "friend"], "write key=value, as in kind=friend or user:=23"),
        (["insert", "a=1", "--date", "tomorrow"], "--date: 'tomorrow' is neither"),
        (["import", "nofile"], "'nofile' does not exist"),
        (["import", "."], "is a directory"),
        (["import", "-", "--date-unit", "ms"], "--date-unit goes with --date FIELD"),
        (["import", "-", "--date", "t", "--tz", "Nowhere"], "is no time zone"),
        (["export", "--after", "-1"], "x<="),
        (["export", "-o", "."], "is a directory"),
    ],
)
def test_a_command_line_that_cannot_work(words, says):
    done = run(*words)

    assert done.exit_code == exits.USAGE, done.output
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ["ping"],
        ["items", "kind=friend", "--before", TOKEN, "--since", "1h", "-n", "5"],
        ["count", "kind=x", "--since", "2015-01-31", "--tz", "Europe/Berlin"],
        ["tail", "--after", "7"],
        ["tail", "--after", "c1.5.0-7"],
        ["insert", "a=1"],
        ["insert"],
        ["import", "-"],
        ["export"],
        ["shell"],
    ],
)
def test_nobody_there_is_exit_code_3_and_one_line(words):
    done = run(*words)

    assert done.exit_code == exits.UNREACHABLE
    assert done.stderr == (
        "zstream: no zstream daemon answers at tcp://127.0.0.1:1; is it running (zstreamd), and is"
        " that its query endpoint?\n"
    )
    assert done.stdout == ""


def test_options_win_over_the_environment():
    for words in (["--url", "tcp://127.0.0.1:2", "ping"], ["ping", "--url", "tcp://127.0.0.1:2"]):
        assert "no zstream daemon answers at tcp://127.0.0.1:2" in run(*words).stderr


def test_every_error_has_an_exit_code_and_the_right_one():
    def codes(kind):
        made = kind.__new__(kind)
        yield kind.__name__, exits.code_of(made)
        for below in kind.__subclasses__():
            yield from codes(below)

    assert {name: code for name, code in codes(errors.Error) if code != exits.FAILURE} == {
        "Unavailable": 3, "TimedOut": 3, "EventError": 4, "TooLarge": 4, "Refused": 4,
        "BadFilter": 2, "BadRequest": 2, "BadTime": 2, "ConfigError": 2, "EndpointTaken": 2,
    }  # fmt: skip


# ---------------------------------------------------------------- the docs

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def section(name):
    match = re.search(rf"^### {name}\n(.*?)(?=^##)", DOCS, re.M | re.S)
    assert match, f"docs/cli.md has no section on {name}"
    return match[1]


def options(command):
    return {
        option
        for each in command.params
        if isinstance(each, click.Option)
        for option in each.opts
        if option not in ("--url", "--timeout")
    }


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_and_option_is_documented(command):
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section(command.name)))

    assert options(command) - documented == set()


def test_the_options_of_all_commands_are_documented():
    common = DOCS.partition("## Commands")[0]
    for option in ("--url", "--timeout", "--version", "--help", "ZSTREAM_URL"):
        assert option in common


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_no_option_is_documented_that_is_not_there(command):
    text = section(command.name)
    rows = re.findall(r"^\| `(.+?)` \|", text, re.M)
    claimed = {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}

    assert claimed - options(command) == set()


def test_every_exit_code_is_documented():
    table = DOCS.partition("## Exit codes")[2].partition("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}

    assert documented == {
        exits.OK, exits.FAILURE, exits.USAGE, exits.UNREACHABLE, exits.REFUSED,
        exits.INTERRUPTED,
    }  # fmt: skip


def test_every_command_has_a_help_of_whole_lines():
    text = CliRunner().invoke(app.cli, ["--help"]).stdout
    assert "..." not in text.partition("Commands:")[2]
    for command in cli.COMMANDS:
        assert f"  {command.name} " in text
