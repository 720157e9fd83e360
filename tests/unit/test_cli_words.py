import io
import types

import click
import pytest

from zstream.cli import words


@pytest.mark.parametrize(
    ("given", "filter"),
    [
        ([], {}),
        (["kind=friend"], {"kind": "friend"}),
        (["type=PushEvent", "actor.login=foo"], {"type": "PushEvent", "actor.login": "foo"}),
        (["user=23", "user=291"], {"user": ["23", "291"]}),
        (["user:=23"], {"user": 23}),
        (["user:=[23, 291]", "user=5"], {"user": [23, 291, "5"]}),
        (["user:=[]"], {"user": []}),
        (["page=a=b"], {"page": "a=b"}),
        (["page="], {"page": ""}),
        (["user=@@torvalds"], {"user": "@torvalds"}),
        (["start=1", "end=2"], {"start": "1", "end": "2"}),
        (["page=Ünï 日本"], {"page": "Ünï 日本"}),
    ],
)
def test_filters_as_words(given, filter):
    assert words.parse_filter(given) == filter


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("friend", "'friend' is no filter: write key=value, as in kind=friend"),
        ("=friend", "has no key"),
        (":=1", "has no key"),
        ("user:=abc", "for a text write = instead of :="),
        ('{"kind":"friend"}', "not JSON"),
        ('{"kind":"a=b"}', "not JSON"),
        ("user=@/no/such/file", "No such file or directory; for the text itself write @@"),
        ("user=@", "for the text itself write @@"),
        ("user=\udcff", "is not UTF-8"),
        ("x" * 1000, "..."),
    ],
)
def test_what_is_no_filter_is_told_how_to_write_one(word, says):
    with pytest.raises(click.UsageError) as caught:
        words.parse_filter([word])

    assert says in caught.value.message
    assert len(caught.value.message) < 250


def test_values_from_a_file(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf23\r\n\n291\n two words \n@x\n5")

    assert words.parse_filter([f"user=@{path}", "user=7"]) == {
        "user": ["23", "291", " two words ", "@x", "5", "7"]
    }


def test_an_empty_file_matches_nothing_rather_than_everything(tmp_path):
    path = tmp_path / "none.txt"
    path.write_bytes(b"\n")

    assert words.parse_filter([f"user=@{path}"]) == {"user": []}


def test_a_file_of_values_that_is_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"a\n\xff\n")

    with pytest.raises(click.UsageError, match="line 2 is not UTF-8"):
        words.parse_filter([f"user=@{path}"])


def test_values_from_stdin_once(monkeypatch):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"1\n2\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert words.parse_filter(["user=@-"]) == {"user": ["1", "2"]}

    with pytest.raises(click.UsageError, match="stdin is read for user=@- already"):
        words.parse_filter(["user=@-", "kind=@-"])


@pytest.mark.parametrize(
    ("given", "event"),
    [
        (["kind=friend", "user:=23"], {"kind": "friend", "user": 23}),
        (["user=23"], {"user": "23"}),
        (["user=@bob"], {"user": "@bob"}),
        (["a.b=c"], {"a.b": "c"}),
        (["tags:=[1, 2]", "none:=null", 'o:={"a": 1.0}'], {"tags": [1, 2], "none": None,
                                                            "o": {"a": 1.0}}),
        (['raw:={"$bytes": "/w=="}'], {"raw": b"\xff"}),
        (['{"kind": "friend", "x": "a=b"}'], {"kind": "friend", "x": "a=b"}),
    ],
)  # fmt: skip
def test_events_as_words(given, event):
    assert words.parse_event(given) == event


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["friend"], "no part of an event"),
        (["a=1", "a:=2"], "'a' stands twice"),
        (["a:=foo"], "for a text write ="),
        (["a:=NaN"], "NaN"),
        (['{"a": }'], "the event: "),
        (['{"a": 1}', "b=2"], "not JSON"),
        (["a=\udcff"], "not UTF-8"),
    ],
)
def test_what_is_no_event_is_told(given, says):
    with pytest.raises(click.UsageError) as caught:
        words.parse_event(given)

    assert says in caught.value.message
