import copy
import json
import pickle
from datetime import UTC, datetime

import pytest

from zstream.event import Event, Page


def test_an_event_is_its_map() -> None:
    event = Event({"kind": "friend", "id": 5}, 23, 1_420_070_400_000_001)
    assert event == {"kind": "friend", "id": 5}
    assert isinstance(event, dict)
    assert repr(event) == "{'kind': 'friend', 'id': 5}"
    assert json.loads(json.dumps(event)) == event
    assert (event.id, event.ts, event["id"]) == (23, 1_420_070_400_000_001, 5)
    assert event.date == datetime(2015, 1, 1, microsecond=1, tzinfo=UTC)


def test_it_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Event({}, 1, 2).other = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_travels(protocol: int) -> None:
    event = Event({"a": [1]}, 23, 5)
    page = Page([event], next="p1.a.1.2.3", head=99)
    for again in (pickle.loads(pickle.dumps(page, protocol)), copy.deepcopy(page), copy.copy(page)):
        assert type(again) is Page
        assert (again, again.next, again.head) == (page, "p1.a.1.2.3", 99)
        assert type(again[0]) is Event
        assert (again[0].id, again[0].ts) == (23, 5)


def test_a_page_is_a_list() -> None:
    page = Page([Event({"a": 1}, 2, 3)])
    assert page == [{"a": 1}]
    assert (page.next, page.head) == (None, 0)
    assert repr(page) == "[{'a': 1}]"
    assert Page() == []
