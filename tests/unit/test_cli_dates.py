from datetime import UTC, datetime, timedelta, timezone

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstream import times
from zstream.cli import dates
from zstream.cli.jsontext import BadLine
from zstream.limits import MAX_INTEGER

BERLIN = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "tz", "expected"),
    [
        ("0", None, datetime(1970, 1, 1, tzinfo=UTC)),
        ("1420070400", None, datetime(2015, 1, 1, tzinfo=UTC)),
        ("1420070400.123456", None, datetime(2015, 1, 1, 0, 0, 0, 123456, UTC)),
        (" 2015-01-01T00:00:00Z ", None, datetime(2015, 1, 1, tzinfo=UTC)),
        ("2015-01-01T01:00:00+01:00", None, datetime(2015, 1, 1, tzinfo=UTC)),
        ("2015-01-01", UTC, datetime(2015, 1, 1, tzinfo=UTC)),
        ("2015-01-01 01:00", BERLIN, datetime(2015, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_as_options(text, tz, expected):
    assert dates.parse_time(text, tz, "--since") == expected


def test_an_age_as_an_option():
    before = times.now()
    found = dates.parse_time("1h", None, "--since")
    assert before <= times.micros(found) + 3_600_000_000 <= times.now()
    assert dates.parse_time(None, None, "--since") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2015-01-01", "'2015-01-01' has no time zone; write one, as in 2015-01-01T00:00:00Z for"),
        ("2015-01-01", "for UTC, or give --tz UTC"),
        ("2015", "2015 would be seconds since 1970; a day is written 2015-01-31"),
        ("20150131", "a day is written"),
        ("1420070400000", "--since: 1420070400000 seconds is beyond the year 2255; it looks like"),
        ("-5", "out of range"),
        ("yesterday", "neither ISO 8601"),
        ("1e400", "neither ISO 8601"),
        ("", "neither ISO 8601"),
        ("9" * 5000, "neither ISO 8601"),
    ],
)
def test_what_is_no_time_is_told(text, says):
    with pytest.raises(click.UsageError) as caught:
        dates.parse_time(text, None, "--since")

    assert says in caught.value.message
    assert caught.value.message.startswith("--since: ")
    assert len(caught.value.message) < 200


def test_zones():
    assert dates.parse_zone(None, None, "utc") is UTC
    assert dates.parse_zone(None, None, None) is None
    for bad in ("Nowhere", "../etc/passwd", ""):
        with pytest.raises(click.BadParameter, match="is no time zone"):
            dates.parse_zone(None, None, bad)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, MAX_INTEGER))
def test_microseconds_survive_as_a_datetime(micros):
    assert times.micros(dates.from_micros(micros)) == micros


@pytest.mark.parametrize(
    ("unit", "value", "micros"),
    [
        ("auto", "2015-01-01T00:00:00Z", 1_420_070_400_000_000),
        ("auto", "2018-03-24T17:15:20.865716Z", 1_521_911_720_865_716),
        ("auto", 1420070400, 1_420_070_400_000_000),
        ("auto", 1420070400.25, 1_420_070_400_250_000),
        ("auto", 0, 0),
        ("iso", "2015-01-01T01:00:00+01:00", 1_420_070_400_000_000),
        ("s", "1420070400.5", 1_420_070_400_500_000),
        ("ms", 1423450290580, 1_423_450_290_580_000),
        ("ms", 1423450290580.5, 1_423_450_290_580_500),
        ("ms", "1423450290580", 1_423_450_290_580_000),
        ("us", 1423450290580001, 1_423_450_290_580_001),
    ],
)
def test_dates_inside_events(unit, value, micros):
    date = dates.field_date("a.when", unit, None)

    assert date({"a": {"when": value}}) == micros
    assert date({"a.when": value, "a": {"when": 5}}) == micros


def test_the_zone_of_a_date_that_names_none():
    assert dates.field_date("t", "auto", BERLIN)({"t": "1970-01-01 01:00:00"}) == 0


@pytest.mark.parametrize(
    ("unit", "value", "reason", "says"),
    [
        ("auto", None, "no date", "'t' is missing or null"),
        ("auto", "5m", "a bad date", "not ISO 8601"),
        ("auto", "1420070400", "a bad date", "--date-unit"),
        ("auto", 1423450290580, "a bad date", "with --date-unit ms it is a date"),
        ("auto", 1423450290580001, "a bad date", "with --date-unit us it is a date"),
        ("auto", "2015-01-01", "a bad date", "give --tz"),
        ("auto", True, "a bad date", "a boolean is no date"),
        ("auto", [], "a bad date", "a list is no date"),
        ("auto", {}, "a bad date", "an object is no date"),
        ("iso", 5, "a bad date", "a number is no date in iso"),
        ("s", "2015-01-01T00:00:00Z", "a bad date", "a text is no date in s"),
        ("ms", -1, "a bad date", "out of range"),
        ("us", 2**53, "a bad date", "out of range"),
        ("us", 10**4000, "a bad date", "out of range"),
        ("s", 1e300, "a bad date", "out of range"),
        ("auto", 1e300, "a bad date", "t: "),
        ("auto", "9999-12-31T00:00:00Z", "a bad date", "out of range"),
    ],
)
def test_what_is_no_date_is_told(unit, value, reason, says):
    with pytest.raises(BadLine) as caught:
        dates.field_date("t", unit, None)({"t": value})

    assert caught.value.reason == reason
    assert says in caught.value.detail
    assert len(caught.value.detail) < 200


def test_a_field_that_is_not_there():
    with pytest.raises(BadLine, match=r"no date: 'a\.b' is missing"):
        dates.field_date("a.b", "auto", None)({"a": [1]})
