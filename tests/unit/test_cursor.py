import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream.cursor import Cursor, Token, parse_cursor, parse_token
from zstream.errors import BadRequest
from zstream.limits import MAX_INTEGER, MAX_NODE

numbers = st.integers(0, MAX_INTEGER)


@given(numbers, st.dictionaries(st.integers(0, MAX_NODE), numbers, min_size=1))
def test_a_cursor_comes_back(run: int, ids: dict[int, int]) -> None:
    assert parse_cursor(str(Cursor(run, ids))) == Cursor(run, ids)


@given(numbers, numbers, numbers, numbers)
def test_a_token_comes_back(run: int, ts: int, id: int, head: int) -> None:
    assert parse_token(str(Token(run, ts, id, head))) == Token(run, ts, id, head)


def test_the_order_of_nodes_does_not_show() -> None:
    assert str(Cursor(10, {1: 5, 0: 255})) == "c1.a.0-ff.1-5"
    assert str(Cursor(10, {1: 5, 0: 255})) == str(Cursor(10, {0: 255, 1: 5}))


BAD_CURSORS = [
    None, 5, b"c1.a.0-1", "", "c1", "c1.a", "c1.a.", "c1.a.0", "c1.a.0-", "c2.a.0-1", "c1.A.0-1",
    "c1.a.0-1 ", "c1.a.0-1\n", "c1.a.0-1.0-2", "c1.a.80-1", "c1.20000000000000.0-1",
    "c1.a.0-20000000000000", "c1.a.0-fffffffffffffff", "p1.a.1.2.3", "c1.-1.0-1", "c1.a.0-١",
    "c1.a" + ".0-1" * 129,
]  # fmt: skip
BAD_TOKENS = [
    None, 5, b"p1.a.1.2.3", "", "p1", "p1.a.1.2", "p1.a.1.2.3.4", "p1.a.1.2.", "p2.a.1.2.3",
    "p1.A.1.2.3", "p1.a.1.2.3 ", "p1.a.1.2.20000000000000", "p1.a.20000000000000.2.3",
    "p1.20000000000000.1.2.3", "c1.a.0-1", "p1.a.-1.2.3", "p1.a.1.2.\n3",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_CURSORS)
def test_what_is_no_cursor(text: object) -> None:
    with pytest.raises(BadRequest, match="not a cursor") as caught:
        parse_cursor(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", BAD_TOKENS)
def test_what_is_no_token(text: object) -> None:
    with pytest.raises(BadRequest, match="not a page token"):
        parse_token(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_cursor, parse_token):
        try:
            found = parse(text)
        except BadRequest:
            continue
        assert parse(str(found)) == found
