import gzip
import io
import os
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstream.cli import reading


def read(data, name="x.jsonl"):
    """The numbered lines of some bytes, and the text of the error behind them."""
    source = reading.Source(io.BytesIO(data), name)
    found = []
    try:
        for line in source.lines():
            found.append((source.line, line))
    except reading.ReadError as error:
        return found, str(error)
    return found, None


def numbered(*lines):
    return list(enumerate(lines, 1))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\n\r\nb\r\n", [b"a\r", b"\r", b"b\r"]),
        (b"\n\na\n", [b"", b"", b"a"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [b"a", b"\xef\xbb\xbfb"]),
        ("a\u2028b\x0bc\n".encode(), ["a\u2028b\x0bc".encode()]),
    ],
)
def test_lines_keep_their_numbers(data, lines):
    assert read(data) == (numbered(*lines), None)
    assert read(gzip.compress(data)) == (numbered(*lines), None)


class Dripping(io.RawIOBase):
    """Bytes that come in pieces of given sizes, as from a pipe."""

    def __init__(self, data, sizes):
        self._data, self._sizes, self._at = data, sizes, 0

    def readable(self):
        return True

    def read(self, size=-1):
        take = max(1, self._sizes[self._at % len(self._sizes)])
        self._at += 1
        piece, self._data = self._data[:take], self._data[take:]
        return piece


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.booleans(),
    st.integers(1, 3),
)
def test_the_size_of_the_pieces_does_not_matter(lines, sizes, packed, members):
    lines = [b"{", *lines]  # nothing that looks like another form of file
    data = b"".join(line + b"\n" for line in lines)
    if packed:
        step = len(data) // members + 1
        data = b"".join(gzip.compress(data[i : i + step]) for i in range(0, len(data), step))

    source = reading.Source(Dripping(data, sizes), "pipe")

    assert list(source.lines()) == lines
    assert source.position == len(data)


def test_a_line_is_handed_out_before_the_next_one_is_there():
    inlet, outlet = os.pipe()
    with os.fdopen(inlet, "rb", buffering=0) as stream, os.fdopen(outlet, "wb", buffering=0) as to:
        lines = reading.Source(stream, "pipe").lines()
        to.write(b'{"a":1}\n{"b"')
        assert next(lines) == b'{"a":1}'
        to.write(b":2}\n")
        assert next(lines) == b'{"b":2}'


def test_a_line_that_is_too_long_is_passed_over():
    long = b"x" * (reading.MAX_LINE_BYTES + 1)
    fits = b"y" * reading.MAX_LINE_BYTES
    data = b"a\n" + long + b"\nb\n" + fits + b"\n" + long

    assert read(data) == (numbered(b"a", None, b"b", fits, None), None)
    assert read(gzip.compress(data, 1)) == (numbered(b"a", None, b"b", fits, None), None)


RANDOM = random.Random(1)
LINES = [b'{"n":%d,"pad":"%s"}' % (n, RANDOM.randbytes(30).hex().encode()) for n in range(3000)]
PACKED = gzip.compress(b"\n".join(LINES) + b"\n")


@pytest.mark.parametrize("keep", [len(PACKED) - 1, len(PACKED) - 8, len(PACKED) // 2, 500, 11, 3])
def test_a_truncated_gzip_file_gives_all_that_is_there(keep):
    there = zlib.decompressobj(31).decompress(PACKED[:keep])

    found, error = read(PACKED[:keep], "cut.gz")

    whole = [line for line in there.split(b"\n") if line.endswith(b"}")]
    assert [line for _, line in found] == whole
    assert error == "the gzip data is cut off before its end"


def test_a_damaged_gzip_file_gives_all_in_front_of_the_damage():
    at = len(PACKED) // 2
    damaged = PACKED[:at] + bytes(50) + PACKED[at + 50 :]

    found, error = read(damaged, "bad.gz")

    # What follows the damage may be unpacked wrongly until it is noticed.
    assert [line for _, line in found[:1400]] == LINES[:1400]
    assert error.startswith("the gzip data is damaged: ")


def test_a_wrong_checksum_is_told_after_every_line():
    wrong = PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:]

    found, error = read(wrong, "sum.gz")

    assert [line for _, line in found] == LINES
    assert error == "the gzip data is damaged: incorrect data check"


def test_garbage_behind_gzip_data_is_told_and_padding_is_not():
    data = gzip.compress(b"a\nb\n")
    assert read(data + bytes(512)) == (numbered(b"a", b"b"), None)

    found, error = read(data + b"garbage", "g.gz")
    assert found == numbered(b"a", b"b")
    assert error == "the gzip data is damaged: incorrect header check"


def test_a_small_gzip_file_that_unpacks_to_a_huge_line_is_bounded():
    bomb = gzip.compress(b"a\n" + bytes(64 << 20) + b"\nb\n")

    assert read(bomb) == (numbered(b"a", None, b"b"), None)


@pytest.mark.parametrize(
    ("magic", "says"),
    [
        (b"\x28\xb5\x2f\xfd....", "zstdcat"),
        (b"\xfd7zXZ\x00", "xzcat"),
        (b"BZh9", "bzcat"),
        (b"PK\x03\x04", "unzip"),
        ("{}\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_other_forms_are_named(magic, says):
    found, error = read(magic, "other")

    assert found == []
    assert says in error


def test_the_size_is_known_of_files_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"a\nb\n")
    with path.open("rb") as stream:
        source = reading.Source(stream, "a")
        assert source.size == 4
        assert list(source.lines()) == [b"a", b"b"]
        assert source.position == 4
    assert reading.Source(io.BytesIO(b"abc"), "memory").size is None


def test_an_error_of_the_disk_is_told():
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(reading.ReadError, match="Input/output error"):
        list(reading.Source(Broken(), "disk").lines())
