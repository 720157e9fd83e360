import csv
import io
import json

import pytest

from zstream.cli import output, progress
from zstream.event import Event

EVENTS = [
    Event({"kind": "friend", "user": 23, "friend": 291}, 2, 1_420_070_400_000_000),
    Event({"kind": "repo", "user": 291, "o": {"a": [1, None]}, "b": b"\xff"}, 1, 1),
]


def test_a_line_is_the_event_or_its_envelope():
    assert output.line(EVENTS[0], meta=False) == '{"kind":"friend","user":23,"friend":291}\n'
    assert json.loads(output.line(EVENTS[0], meta=True)) == {
        "id": 2, "ts": 1_420_070_400_000_000, "event": dict(EVENTS[0]),
    }  # fmt: skip


def test_csv_has_a_column_for_each_field_of_any_event():
    rows = list(csv.reader(io.StringIO(output.csv_text(EVENTS, meta=True))))

    assert rows == [
        ["@id", "@ts", "kind", "user", "friend", "o", "b"],
        ["2", "1420070400000000", "friend", "23", "291", "", ""],
        ["1", "1", "repo", "291", "", '{"a":[1,null]}', '{"$bytes":"/w=="}'],
    ]
    assert output.csv_text([], meta=False) == ""


@pytest.mark.parametrize("text", ['a"b', "a,b", "a\nb", "a\r\nb", "a\rb", "ü", "=1+1"])
def test_csv_keeps_text_as_it_is(text):
    rows = list(csv.reader(io.StringIO(output.csv_text([Event({"t": text}, 1, 1)], meta=False),
                                       newline="")))  # fmt: skip

    assert rows == [["t"], [text]]


def test_a_table_shows_id_date_keys_and_the_rest():
    assert output.table(EVENTS, ["kind", "user", "repo"], width=None).splitlines() == [
        "id  date                         kind    user  event",
        '2   2015-01-01T00:00:00Z         friend  23    {"friend":291}',
        '1   1970-01-01T00:00:00.000001Z  repo    291   {"o":{"a":[1,null]},"b":{"$bytes":"/w=="}}',
    ]
    assert output.table([], ["kind"], width=80) == ""


def test_a_table_takes_dotted_keys():
    event = Event({"type": "PushEvent", "actor": {"login": "ann"}}, 7, 0)

    assert output.table([event], ["type", "actor.login"], width=None).splitlines() == [
        "id  date                  type       actor.login  event",
        '7   1970-01-01T00:00:00Z  PushEvent  ann          {"actor":{"login":"ann"}}',
    ]


def test_a_table_keeps_to_the_width_of_the_terminal():
    events = [
        Event({"kind": "k" * 200, "text": "日本語" * 50, "accents": "e\u0301" * 90}, id, 0)
        for id in (1, 22, 333)
    ]
    for width in (20, 40, 79, 80, 81, 200):
        lines = output.table(events, ["kind"], width=width).splitlines()
        assert len(lines) == 4
        assert all(output.columns_of(line) <= width for line in lines)
    assert "kkk…" in output.table(events, ["kind"], width=80)


def test_no_text_of_an_event_can_steer_the_terminal():
    evil = "\x1b[2J\x07\r\n\x9b\x7f\u202e\u2066\0"
    text = output.table([Event({"kind": evil, evil: [evil]}, 1, 0)], ["kind"], width=None)

    assert text.count("\n") == 2
    assert not set(evil[4:]) & set(text.replace("\n", ""))
    assert "\x1b" not in text
    assert "\\u001b[2J" in text


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 6, "日本語"), ("日本語", 5, "日本…"),
     ("日本語", 4, "日…"), ("", 0, "")],
)  # fmt: skip
def test_cut(text, width, expected):
    assert output.cut(text, width) == expected
    assert output.columns_of(output.cut(text, width)) <= width


def test_names_and_values():
    assert output.mapping({"store": "memory:", "keys": ["a"], "x": None}) == (
        'store  memory:\nkeys   ["a"]\nx      \n'
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1234, 0, None, 2.0), "1,234 events  617/s"),
        ((1500, 50, 100, 10.0), " 50% [############------------]  1,500 events  150/s  0:10 left"),
        ((0, 0, 100, 0.0), "  0% [------------------------]  0 events  0/s"),
        ((9, 200, 100, 1.0), "100% [########################]  9 events  9/s  0:00 left"),
    ],
)
def test_the_progress_line(arguments, expected):
    assert progress.draw(*arguments) == expected


def test_progress_is_silent_without_a_terminal(capsys):
    with progress.Progress() as bar:
        for count in range(1000):
            bar.update(count, count, 1000)

    assert capsys.readouterr().err == ""
