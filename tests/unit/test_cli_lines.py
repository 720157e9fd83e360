"""The lines of a file as the source of a lane: the same batches in each run."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zstream import wire
from zstream.cli.hashed import hashed
from zstream.cli.lines import BATCH_LINE_BYTES, BATCH_LINES, HELD_BYTES, LineSource, producer_of
from zstream.cli.reading import ReadError, opened
from zstream.ledger import Ledger
from zstream.limits import MAX_EVENT_BYTES, MAX_FRAME_BYTES

PRODUCER = bytes(range(16))


def take_all(source):
    found = []
    while (batch := source.take()) is not None:
        elements, trouble = wire.split_array(batch.body, batch.size)
        assert trouble is None
        found.append(list(zip(batch.tag, elements, strict=True)))
    return found


def fill(source, lines, takes=()):
    """Add lines, each of them its size and its element; the batches, taken at whatever times."""
    found = []
    for number, (size, element) in enumerate(lines, 1):
        source.add(number, size, element)
        if number in takes:
            found += take_all(source)
    source.close()
    return found + take_all(source)


def test_the_producer_of_a_file_never_changes():
    """Another one, or another cut, would store every file again: that takes another `CUT`."""
    digest = hashlib.blake2b(b'{"n":1}\n', digest_size=32).digest()
    options = {"meta": False, "date": "at", "unit": "auto", "tz": None}
    assert producer_of(digest, options).hex() == "c52b8e03284de10aa91a8d67569776de"
    assert (BATCH_LINES, BATCH_LINE_BYTES) == (1_000, 256 << 10)


def test_each_option_makes_another_producer():
    digest = bytes(32)
    options = {"meta": False, "date": "at", "unit": "auto", "tz": None}
    others = [{}, *({**options, name: "x"} for name in options), {**options, "tz": "UTC"}]
    assert len({producer_of(digest, each) for each in (options, *others)}) == 7
    assert producer_of(bytes(31) + b"\1", options) != producer_of(digest, options)


LINES = st.lists(
    st.tuples(st.sampled_from([0, 9, 5_000, BATCH_LINE_BYTES]), st.sampled_from([None, b"\x80"])),
    max_size=60,
)


@given(LINES, st.sets(st.integers(1, 60)))
def test_batches_depend_on_nothing_but_the_lines(lines, takes):
    lines = [each for line in lines for each in [line] * 50]
    found = fill(LineSource(PRODUCER), lines, takes)

    assert found == fill(LineSource(PRODUCER), lines)
    good = [(n, element) for n, (_, element) in enumerate(lines, 1) if element is not None]
    assert [each for batch in found for each in batch] == good
    # A bad line counts as a good one does: whether it is bad another version may see otherwise.
    others = fill(LineSource(PRODUCER), [(size, b"\x80") for size, _ in lines])
    assert [[each for each in batch if lines[each[0] - 1][1]] for batch in others] == found


def test_a_batch_ends_before_the_line_that_is_too_much():
    whole = fill(LineSource(PRODUCER), [(5, b"\x80")] * (BATCH_LINES + 1))
    assert [len(batch) for batch in whole] == [BATCH_LINES, 1]
    wide = fill(LineSource(PRODUCER), [(BATCH_LINE_BYTES - 1, b"\x80")] * 5)
    assert [len(batch) for batch in wide] == [2, 2, 1]


def test_the_largest_batch_fits_into_a_frame():
    # `1e1,` is the shortest that packs to more than it takes: nine bytes of four.
    packed = BATCH_LINE_BYTES * 9 // 4 + BATCH_LINES * 11 + MAX_EVENT_BYTES
    assert packed < MAX_FRAME_BYTES


def test_a_pipe_goes_out_as_it_comes():
    source = LineSource(None)
    assert (source.resumes, len(source.producer)) == (False, 16)
    assert source.add(1, 8, b"\x80")
    assert not source.add(2, 8, b"\x80")  # the link is awake, and takes both
    assert take_all(source) == [[(1, b"\x80"), (2, b"\x80")]]
    assert source.add(3, 8, b"\x80")
    source.abandon()
    assert take_all(source) == [[(3, b"\x80")]]


def test_a_file_that_ends_too_early_leaves_its_last_batch():
    source = LineSource(PRODUCER)
    for number in range(1, BATCH_LINES + 3):
        source.add(number, 8, b"\x80")
    source.abandon()
    assert [len(batch) for batch in take_all(source)] == [BATCH_LINES]
    assert source.added == BATCH_LINES
    assert not source.is_over
    source.settled(1)
    assert source.is_over


def test_what_waits_is_bounded():
    source, line = LineSource(PRODUCER), wire.pack({"x": bytes(1 << 19)})
    number = 0
    while source.has_room:
        number += 1
        source.add(number, len(line), line)
    assert 28 <= number <= 33
    taken = len(take_all(source))
    assert not source.has_room
    source.settled(taken // 2)
    assert source.has_room
    assert HELD_BYTES == 16 << 20


def passed(ledger, *sizes):
    for size in sizes:
        source = LineSource(PRODUCER)
        for number in range(1, size + 1):
            source.add(number, 8, b"\x80")
        source.close()
        assert not ledger.add(source.take())


def test_what_was_stored_before_is_told_without_what_was_refused_then():
    ledger = Ledger()
    ledger.begin(PRODUCER, 1, 0)
    # 103 were refused, of which the daemon remembers two.
    ledger.settle(3, 103, [(1, 4, "bad_event", "why"), (3, 0, "bad_event", "why")])
    passed(ledger, 200, 10, 1)

    source = LineSource(PRODUCER)
    source.tell(ledger, ledger.take_reports())

    assert (ledger.stored, ledger.found, ledger.refused) == (108, 108, 103)
    assert source.account.found == 108
    reports = source.take_reports()
    assert [(each.count, len(each.refusals)) for each in reports] == [(101, 0), (1, 1), (1, 1)]
    assert reports[1].tags[0][4] == 5


def test_a_file_is_read_as_it_was_hashed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"n":1}\n')
    with opened(str(file)) as source:
        with file.open("ab") as more:
            more.write(b'{"n":2}\n')
        assert list(source.lines()) == [b'{"n":1}']
        source.check()
        assert source.digest == hashlib.blake2b(b'{"n":1}\n', digest_size=32).digest()


@pytest.mark.parametrize("change", [b'{"n":9}\n{"n":2}\n', b'{"n":1}\n'])
def test_a_file_that_changed_while_it_was_read_is_told(tmp_path, change):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"n":1}\n{"n":2}\n')
    with opened(str(file)) as source:
        file.write_bytes(change)
        list(source.lines())
        with pytest.raises(ReadError, match="it was changed while it was read"):
            source.check()


def test_what_is_no_file_is_not_hashed():
    with open("/dev/null", "rb", buffering=0) as stream:
        assert hashed(stream) is None


def test_a_lane_that_ends_has_not_settled_what_waits():
    source = LineSource(PRODUCER)
    source.add(1, 8, b"\x80")
    source.close()
    assert not source.restart()
    assert (source.has_failed, source.is_over) == (True, True)
    assert not source.has_room
    assert not source.is_settled
    assert source.unsettled == 1
