from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream import times
from zstream.errors import BadTime
from zstream.limits import MAX_INTEGER

NEW_YEAR = 1_420_070_400_000_000  # 2015-01-01 00:00 UTC
EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0), (1, 1_000_000), (1.5, 1_500_000), (Decimal("1.000001"), 1_000_001),
        (1420070400, NEW_YEAR), (1420070400.000001, NEW_YEAR + 1),
        (1420070400.123456, NEW_YEAR + 123_456),
        ("2015-01-01T00:00:00Z", NEW_YEAR), (" 2015-01-01T00:00:00+00:00 ", NEW_YEAR),
        ("2015-01-01T02:00:00.000001+02:00", NEW_YEAR + 1), ("20150101T000000Z", NEW_YEAR),
        ("2015-01-01 00:00:00Z", NEW_YEAR), ("1970-01-01T00:00:00Z", 0),
        (datetime(2015, 1, 1, tzinfo=UTC), NEW_YEAR),
        (datetime(2015, 1, 1, 2, tzinfo=EAST), NEW_YEAR),
        (datetime(2015, 1, 1, microsecond=7, tzinfo=UTC), NEW_YEAR + 7),
        (MAX_INTEGER // 1_000_000, MAX_INTEGER // 1_000_000 * 1_000_000),
    ],
)  # fmt: skip
def test_times(value: Any, expected: int) -> None:
    assert times.micros(value) == expected


@given(st.integers(0, MAX_INTEGER))
def test_every_microsecond_comes_back(micros: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    assert times.micros(moment) == micros
    assert times.micros(moment.isoformat()) == micros
    assert times.micros(Decimal(micros) / 1_000_000) == micros


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("0s", 0), ("5us", 5), ("5ms", 5_000), ("90s", 90_000_000), ("1.5m", 90_000_000),
        (" 1 h ", 3_600_000_000), ("2d", 172_800_000_000), ("1w", 604_800_000_000),
    ],
)  # fmt: skip
def test_ages_are_before_now(text: str, age: int) -> None:
    before = times.now()
    found = times.micros(text)
    assert before - age <= found <= times.now() - age


def test_a_zone_for_what_names_none() -> None:
    new_york = ZoneInfo("America/New_York")
    naive = datetime(2015, 1, 1)
    assert times.micros(naive, tz=UTC) == NEW_YEAR
    assert times.micros("2015-01-01", tz=UTC) == NEW_YEAR
    assert times.micros(naive, tz=new_york) == NEW_YEAR + 5 * 3_600_000_000
    assert times.micros(naive.replace(tzinfo=UTC), tz=new_york) == NEW_YEAR


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "since: NoneType is no time"),
        (True, "bool is no time"),
        (b"1", "bytes is no time"),
        ([], "list is no time"),
        (date(2015, 1, 1), "a date without a time"),
        (datetime(2015, 1, 1), "has no time zone"),
        (datetime(2015, 1, 1), "as in 2015-01-01T00:00:00Z for UTC, or give the client tz="),
        ("2015-01-01", "since: '2015-01-01' has no time zone; .* 2015-01-01T00:00:00Z for UTC"),
        ("", "neither ISO 8601"),
        ("yesterday", "neither ISO 8601"),
        ("1y", r"nor an age \(1h; units us, ms, s, m, h, d, w\)"),
        ("-1h", "neither ISO 8601"),
        ("١h", "neither ISO 8601"),
        ("1420070400", "neither ISO 8601"),
        (-1, "out of range"),
        (-0.000001, "out of range"),
        (datetime(1969, 12, 31, tzinfo=UTC), "out of range"),
        (datetime(2300, 1, 1, tzinfo=UTC), "out of range"),
        ("9999w", "out of range"),
        (float("nan"), "is no time"),
        (float("inf"), "is no time"),
        (Decimal("NaN"), "since: NaN is no time"),
        (Decimal(1420070400000), "since: 1420070400000 seconds is beyond"),
        (1420070400000, "milliseconds: divide by 1e3"),
        (1420070400000000, "microseconds: divide by 1e6"),
        (10**400, "divide by"),
    ],
)
def test_what_is_no_time(value: Any, why: str) -> None:
    with pytest.raises(BadTime, match=why) as caught:
        times.micros(value, name="since")
    assert str(caught.value).startswith("since: ")
    assert len(str(caught.value)) < 600
