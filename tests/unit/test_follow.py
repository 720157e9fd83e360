"""Live filters: what each topic is told, in what order, and that its chain has no hole."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream import topics, wire
from zstream.backends.base import Batch, Producer, Registration
from zstream.keys import normalize
from zstream.limits import PUBLICATION_BYTES
from zstream.wire import ACK, BEAT, BYE, DATA, ERR, HELLO, Header
from zstreamd.follow import BEAT_S, FIRST_BEAT_S, HELLO_S, Followers
from zstreamd.matching import Topic

KEYS = ("kind", "user")
TS = 1_700_000_000_000_000


def followers(
    head: int = 0,
    max_filters: int = 100,
    registered: dict[bytes, Registration] | None = None,
    **known: Producer,
) -> Followers:
    rows = {row.id: row for row in known.values()}
    return Followers(KEYS, 0, 7, head, rows, registered or {}, max_filters)


def registration(filter: dict[str, Any]) -> Registration:
    text = topics.canonical(normalize(filter, KEYS), KEYS)
    return Registration(topics.name_of(text), text, TS)


def batch(first: int, *rows: tuple[Any, Any], size: int = 1) -> Batch:
    bodies = [msgpack.packb({"n": first + place, "x": "x" * size}) for place in range(len(rows))]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], []]
    return Batch(first, [TS] * len(rows), bodies, columns, TS)


def read(messages: list[list[bytes]]) -> list[tuple[bytes, Header, Any]]:
    return [(name, wire.decode_header(head), wire.unpack(body)) for name, head, body in messages]


def ids(body: list[list[Any]]) -> list[int]:
    return [id for id, _, _ in body]


def test_a_subscription_is_answered_with_the_head() -> None:
    [(name, header, body)] = read(followers(head=5).subscribe(b"{}", 0.0, TS))
    assert name == b"{}"
    assert header == Header(HELLO, 0, 7, 5, 5, TS)
    assert body == {}


def test_hellos_of_a_topic_are_coalesced_and_never_lost() -> None:
    live = followers()
    assert len(live.subscribe(b"{}", 0.0, TS)) == 1
    assert live.subscribe(b"{}", 0.001, TS) == []
    assert live.subscribe(b"{}", 0.002, TS) == []
    assert live.wait_s(0.002) == pytest.approx(HELLO_S - 0.002)
    [(_, header, _)] = read(live.tick(HELLO_S, TS))
    assert header.type == HELLO
    assert len(live.subscribe(b"{}", 1.0, TS)) == 1


def test_data_does_not_put_off_a_hello() -> None:
    live = followers()
    live.subscribe(b"{}", 0.0, TS)
    live.subscribe(b"{}", 0.001, TS)
    live.commit(batch(1, ("a", "1")), 0.01, TS)
    assert [header.type for _, header, _ in read(live.tick(HELLO_S, TS))] == [HELLO]


def test_a_filter_gets_what_matches_and_the_chain_goes_on() -> None:
    live = followers()
    live.subscribe(b'{"kind":"a"}', 0.0, TS)
    live.subscribe(b'{"kind":["a","b"],"user":2}', 0.0, TS)
    live.subscribe(b'{"kind":[]}', 0.0, TS)
    got = read(live.commit(batch(1, ("a", "1"), ("b", "2"), (None, "2"), ("a", None)), 1.0, TS))
    assert {name: ids(body) for name, _, body in got} == {
        b'{"kind":"a"}': [1, 4],
        b'{"kind":["a","b"],"user":2}': [2],
    }
    assert {(header.prev, header.id) for _, header, _ in got} == {(0, 4)}
    assert live.commit(batch(5, ("c", "1")), 1.1, TS) == []
    [(_, header, body)] = read(live.commit(batch(6, ("a", "1")), 1.2, TS))
    assert (header.prev, header.id, ids(body)) == (4, 6, [6])


def test_a_row_with_several_values_comes_once() -> None:
    live = followers()
    live.subscribe(b'{"user":["1","2"]}', 0.0, TS)
    [(_, _, body)] = read(live.commit(batch(1, ("a", ("1", "2", "3")), ("a", ("3",))), 0.0, TS))
    assert ids(body) == [1]


def test_large_commits_are_cut_and_each_part_says_how_far_it_is_complete() -> None:
    live = followers()
    live.subscribe(b"{}", 0.0, TS)
    got = read(live.commit(batch(1, *[("a", "1")] * 5, size=PUBLICATION_BYTES // 2), 0.0, TS))
    assert [ids(body) for _, _, body in got] == [[1], [2], [3], [4], [5]]
    assert [(header.prev, header.id) for _, header, _ in got] == [(n, n + 1) for n in range(5)]


def test_one_event_larger_than_a_publication_is_sent_whole() -> None:
    live = followers()
    live.subscribe(b"{}", 0.0, TS)
    got = read(live.commit(batch(1, ("a", "1"), size=3 * PUBLICATION_BYTES), 0.0, TS))
    assert len(got) == 1


def test_beats_come_soon_after_data_and_then_seldom() -> None:
    live = followers()
    live.subscribe(b"{}", 0.0, TS)
    live.commit(batch(1, ("a", "1")), 10.0, TS)
    live.tick(10.0, TS)
    assert live.tick(10.0 + FIRST_BEAT_S * 0.9, TS) == []
    [(_, header, _)] = read(live.tick(10.0 + FIRST_BEAT_S, TS))
    assert (header.type, header.prev, header.id) == (BEAT, 1, 1)
    # The next one comes when the topic's turn is, and from then on the time between two is known.
    began = 10.0 + FIRST_BEAT_S
    second = began + (live.wait_s(began) or 0.0)
    assert began < second <= began + BEAT_S
    assert len(live.tick(second, TS)) == 1
    assert live.tick(second + BEAT_S * 0.9, TS) == []
    assert len(live.tick(second + BEAT_S, TS)) == 1


def test_many_topics_beat_one_after_another() -> None:
    live = followers(max_filters=2_000)
    for n in range(2_000):
        live.subscribe(b'{"user":%d}' % n, 0.0, TS)
    now = FIRST_BEAT_S
    bursts = []
    while (wait := live.wait_s(now)) is not None and now < 20.0:
        now += wait
        bursts.append((now, len(live.tick(now, TS))))
    assert max(size for _, size in bursts) == 500
    later = [size for at, size in bursts if at > FIRST_BEAT_S + BEAT_S]
    assert max(later) < 60, "about twenty are due together"
    wakes = sum(10.0 <= at < 15.0 and size > 0 for at, size in bursts)
    assert wakes <= 101, "they do not wake the writer one by one"
    assert sum(size for at, size in bursts if 10.0 <= at < 15.0) in range(1_990, 2_011)


def test_a_beat_tells_a_silent_topic_of_the_head() -> None:
    live = followers()
    live.subscribe(b'{"kind":"a"}', 0.0, TS)
    live.commit(batch(1, ("b", "1")), 0.1, TS)
    [(_, header, _)] = read(live.tick(FIRST_BEAT_S, TS))
    assert (header.prev, header.id) == (0, 1)


@pytest.mark.parametrize(
    "topic",
    [
        b"", b"x", b"{", b'{"kind":"a"}x', b' {"kind":"a"}', b"[]", b"null", b'{"kind":null}',
        b'{"kind":NaN}', b'{"nokey":1}', b'{"kind":{"a":1}}', b'{"kind":"a","kind":"b"}',
        b'{"kind":"\xff"}', b"#" + b"0" * 32, b"#12", b"@12", b"@" + b"G" * 32,
        b'{"kind":"' + b"x" * 5000 + b'"}', b'{"kind":"' + b"x" * 300 + b'"}',
        b'{"kind":' + b"[" * 2000 + b"]" * 2000 + b"}",
    ],
)  # fmt: skip
def test_garbage_is_answered_with_err_on_its_own_bytes(topic: bytes) -> None:
    live = followers()
    [(name, header, body)] = read(live.subscribe(topic, 0.0, TS))
    assert name == topic
    assert header.type == ERR
    assert body["code"] in ("bad_filter", "too_large")
    assert body["message"]
    assert live.filters == 0
    live.unsubscribe(topic)


def test_no_more_filters_than_allowed() -> None:
    live = followers(max_filters=2)
    for kind in "abc":
        answer = read(live.subscribe(b'{"kind":"%s"}' % kind.encode(), 0.0, TS))
    assert answer[0][1].type == ERR
    assert answer[0][2]["code"] == "busy"
    live.unsubscribe(b'{"kind":"a"}')
    assert read(live.subscribe(b'{"kind":"c"}', 0.0, TS))[0][1].type == HELLO


def test_a_filter_without_followers_is_forgotten() -> None:
    live = followers()
    live.subscribe(b'{"kind":["a","b"]}', 0.0, TS)
    live.subscribe(b"{}", 0.0, TS)
    live.unsubscribe(b'{"kind":["a","b"]}')
    live.unsubscribe(b"{}")
    assert live.filters == 0
    assert live.commit(batch(1, ("a", "1")), 0.0, TS) == []
    assert live.tick(100.0, TS) == []
    assert live.wait_s(100.0) is None


def test_a_registered_filter_is_followed_by_its_name() -> None:
    row = registration({"kind": ["b", "a"], "user": 2})
    live = followers(registered={row.name: row})
    topic = topics.of_registered(row.name)
    [(name, header, _)] = read(live.subscribe(topic, 0.0, TS))
    assert (name, header.type) == (topic, HELLO)
    assert live.registered() == [row.name]
    [(name, _, body)] = read(live.commit(batch(1, ("a", "2"), ("a", "1"), ("b", "2")), 1.0, TS))
    assert (name, ids(body)) == (topic, [1, 3])
    live.unsubscribe(topic)
    assert live.registered() == []


def test_registering_greets_who_has_subscribed_before() -> None:
    row = registration({"kind": "a"})
    known: dict[bytes, Registration] = {}
    live = Followers(KEYS, 0, 7, 0, {}, known, 100)
    topic = topics.of_registered(row.name)
    assert live.activate(topic, 0.0, TS) == []
    for _ in range(2):
        [(name, header, body)] = read(live.subscribe(topic, 0.0, TS))
        assert (name, header.type, body["code"]) == (topic, ERR, "bad_filter")
        assert "register" in body["message"]
    known[row.name] = row
    [(name, header, _)] = read(live.activate(topic, 1.0, TS))
    assert (name, header.type) == (topic, HELLO)
    assert live.activate(topic, 1.0, TS) == [], "it is greeted once"
    other = registration({"kind": "b"})
    known[other.name] = other
    assert live.activate(topics.of_registered(other.name), 1.0, TS) == [], "nobody follows it"


def test_who_left_before_a_filter_was_registered_is_not_greeted() -> None:
    row = registration({"kind": "a"})
    known: dict[bytes, Registration] = {}
    live = Followers(KEYS, 0, 7, 0, {}, known, 100)
    topic = topics.of_registered(row.name)
    live.subscribe(topic, 0.0, TS)
    live.unsubscribe(topic)
    known[row.name] = row
    assert live.activate(topic, 1.0, TS) == []


def test_a_registered_filter_of_other_keys_says_so() -> None:
    row = Registration(b"n" * 16, '{"repo":["a"]}', TS)
    live = followers(registered={row.name: row})
    [(_, header, body)] = read(live.subscribe(topics.of_registered(row.name), 0.0, TS))
    assert (header.type, body["code"]) == (ERR, "bad_filter")
    assert "'repo' is not an indexed key" in body["message"]


def test_producers_hear_where_they_stand() -> None:
    row = Producer(b"p" * 16, 3, 9, 2, b"\x90", TS)
    live = followers(row=row)
    topic = topics.of_producer(row.id)
    assert live.hears(row.id) is None
    [(name, header, body)] = read(live.subscribe(topic, 0.0, TS))
    assert (name, header.type, header.id) == (topic, ACK, 9)
    assert body == {"epoch": 3, "last": 9, "refused": 2, "durability": "synced"}
    assert live.hears(row.id) == topic
    live.unsubscribe(topic)
    assert live.hears(row.id) is None


def test_bye_is_said_to_every_topic() -> None:
    live = followers()
    live.subscribe(b"{}", 0.0, TS)
    live.subscribe(b'{"kind":1}', 0.0, TS)
    assert {header.type for _, header, _ in read(live.bye(TS))} == {BYE}
    assert len(live.bye(TS)) == 2


texts = st.sampled_from("abc")
row_values = st.none() | texts | st.lists(texts, min_size=2, max_size=3, unique=True).map(tuple)
steps = st.one_of(
    st.tuples(
        st.just("commit"), st.lists(st.tuples(row_values, row_values), min_size=1, max_size=5)
    ),
    st.tuples(st.just("subscribe"), st.integers(0, 5)),
    st.tuples(st.just("unsubscribe"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.floats(0.0, 6.0)),
)  # fmt: skip
FILTERS: list[dict[str, Any]] = [
    {}, {"kind": "a"}, {"kind": ["a", "b"]}, {"user": "c", "kind": ["a", "b", "c"]},
    {"kind": "a", "user": ["a", "b"]}, {"user": []},
]  # fmt: skip


def belongs(filter: dict[str, Any], row: tuple[Any, Any]) -> bool:
    for key, wanted in filter.items():
        value = row[KEYS.index(key)]
        have = set(value) if isinstance(value, tuple) else {value}
        if not have & set(wanted):
            return False
    return True


@given(st.lists(steps, max_size=30))
def test_every_follower_sees_its_slice_exactly_once_and_without_a_hole(
    history: list[tuple[str, Any]],
) -> None:
    live, now = followers(), 0.0
    stored: list[tuple[Any, Any]] = []
    cursors: dict[bytes, int] = {}
    for what, argument in history:
        messages: list[list[bytes]] = []
        if what == "commit":
            messages = live.commit(batch(len(stored) + 1, *argument), now, TS)
            stored += argument
        elif what == "subscribe":
            messages = live.subscribe(topics.encode(FILTERS[argument]), now, TS)
        elif what == "unsubscribe":
            name = topics.encode(FILTERS[argument])
            live.unsubscribe(name)
            cursors.pop(name, None)
        else:
            now += argument
            messages = live.tick(now, TS)
        for name, header, body in read(messages):
            filter = next(f for f in FILTERS if topics.encode(f) == name)
            if name in cursors:
                assert header.prev == cursors[name]
            else:
                assert header.type == HELLO
                cursors[name] = header.prev
            between = range(cursors[name] + 1, header.id + 1)
            wanted = [id for id in between if belongs(filter, stored[id - 1])]
            assert (ids(body) if header.type == DATA else []) == wanted
            cursors[name] = header.id


def test_filters_with_a_common_value_do_not_wait_in_one_place() -> None:
    """The cost of an event does not grow with the filters that share but one value with it."""
    live = followers()
    for number in range(100):
        live.subscribe(b'{"kind":"friend","user":%d}' % number, 0.0, TS)
    waiting = [there for index in live._index._waiting for there in index.values()]
    assert (len(waiting), {type(there) for there in waiting}) == (100, {Topic})
    rows = [("friend", "7"), ("friend", "1000"), ("enemy", "8")]
    assert [name for name, _, _ in read(live.commit(batch(1, *rows), 1.0, TS))] == [
        b'{"kind":"friend","user":7}'
    ]
    for number in range(100):
        live.unsubscribe(b'{"kind":"friend","user":%d}' % number)
    assert not any(live._index._waiting)
