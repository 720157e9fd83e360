"""The parts of the PostgreSQL store that need no server: its URL, its buffers, its errors."""

import socket
import struct
import subprocess
import sys
import time

import psycopg
import pytest
from psycopg import errors as pg

from zstream import errors
from zstream.backends import open_backend
from zstream.backends.postgres import PostgresBackend
from zstream.backends.postgres_copy import packed
from zstream.backends.postgres_errors import translated
from zstream.backends.postgres_keeper import Widths
from zstream.backends.postgres_link import address_of
from zstream.backends.postgres_probe import Place, Probe

# ---------------------------------------------------------------- the URL


def test_what_the_url_says() -> None:
    address = address_of("postgresql://me:s3cret@db:5433/app?schema=My%20store&sslmode=require")
    assert address.schema == "My store"
    known = psycopg.conninfo.conninfo_to_dict(address.conninfo)
    assert known["password"] == "s3cret"
    assert (known["host"], known["port"], known["sslmode"]) == ("db", "5433", "require")
    assert address.name == "postgresql://me@db:5433/app?schema=My%20store"
    assert address_of("postgres:///app").schema == "zstream"
    assert address_of("postgres:///app").name == "postgresql:///app"
    assert address_of("postgres:///?host=/run/pg").name == "postgresql:///?host=/run/pg"


@pytest.mark.parametrize(
    "url",
    ["postgresql:", "postgresql:me", "postgresql:///app?schema=", "postgresql:///app?schema=pg_x",
     "postgresql:///app?schema=" + "x" * 64, "postgresql:///app?nonsense=1",],
)  # fmt: skip
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="postgresql://user@host/database"):
        open_backend(url)


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:s3cret%zz@db/app", "postgresql://me:s3cret@db/app?nonsense=1",
     "postgresql://me@db/app?password=s3cret&nonsense=1"],
)  # fmt: skip
def test_no_error_tells_a_password(url: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        open_backend(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        backend = PostgresBackend(f"postgresql://me:s3cret@127.0.0.1:{port}/app")
        with pytest.raises(errors.BackendUnavailable) as caught:
            backend.open(None)
    assert f"postgresql://me@127.0.0.1:{port}/app" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_library_is_told_of_when_it_is_missing() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from zstream.backends import open_backend\n"
        "from zstream.errors import ConfigError\n"
        "try: open_backend('postgresql:///app')\n"
        "except ConfigError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'zstream[postgres]'" in ran.stdout, ran.stderr


# ---------------------------------------------------------------- rows for COPY


def fields(buffer: bytes) -> list[list[bytes | None]]:
    """The rows of a buffer, read as the documentation of COPY says."""
    assert buffer[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    rows, at = [], 19
    while (count := struct.unpack_from("!h", buffer, at)[0]) != -1:
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            size = struct.unpack_from("!i", buffer, at)[0]
            at += 4
            row.append(None if size < 0 else buffer[at : at + size])
            at += max(size, 0)
        rows.append(row)
    assert at + 2 == len(buffer)
    return rows


def test_rows_are_packed_whole() -> None:
    long, body = "é" * 127, bytes(5_000)
    columns = [["a", "", long], [None, ("u", 'v"'), "\\N\t\n"], [None, None, None]]
    found = fields(packed(7, [1, 1 << 52, 0], columns, [b"", b"\0\xff", body]))
    assert [struct.unpack("!q", row[0] or b"")[0] for row in found] == [7, 8, 9]
    assert [struct.unpack("!q", row[1] or b"")[0] for row in found] == [1, 1 << 52, 0]
    assert [row[2] for row in found] == [b"a", b"", long.encode()]
    assert [row[3] for row in found] == [None, None, b"\\N\t\n"]
    assert [row[4] for row in found] == [None, None, None]
    assert [row[5] for row in found] == [None, b'\x01{"1":["u","v\\""]}', None]
    assert [row[6] for row in found] == [b"", b"\0\xff", body]
    assert fields(packed(1, [], [[]], [])) == []


# ---------------------------------------------------------------- sizes and errors


def test_partitions_are_as_wide_as_their_rows_are_small() -> None:
    widths = Widths(1_000, 100_000, 10_000, 50)
    assert widths.next() == 50
    widths.note(50, 50 * 10, 50 * 5)
    assert widths.next() == 1_000
    widths.note(4_000, 4_000 * 1_000, 4_000 * 5)
    assert widths.next() < 120
    widths.note(100_000, 100_000, 100_000 * 100)
    assert widths.next() < 120
    widths.note(100_000, 0, 0)
    widths.note(1_000_000, 0, 0)
    widths.note(1_000_000, 0, 0)
    assert widths.next() == 1_000
    widths.start_from(3)
    widths.note(2, 1 << 40, 0)
    assert widths.next() >= 1


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (psycopg.OperationalError("gone"), errors.BackendUnavailable),
        (psycopg.InterfaceError("closed"), errors.BackendUnavailable),
        (pg.DiskFull("full"), errors.BackendUnavailable),
        (pg.LockNotAvailable("waited"), errors.BackendUnavailable),
        (pg.AdminShutdown("bye"), errors.BackendUnavailable),
        (pg.InsufficientPrivilege("no"), errors.BackendUnavailable),
        (pg.ReadOnlySqlTransaction("standby"), errors.BackendUnavailable),
        (pg.InternalError_("odd"), errors.BackendUnavailable),
        (pg.DataCorrupted("bad page"), errors.BackendCorrupt),
        (pg.IndexCorrupted("bad page"), errors.BackendCorrupt),
        (pg.UndefinedTable("no events"), errors.BackendCorrupt),
        (pg.UndefinedColumn("no k0"), errors.BackendCorrupt),
        (pg.UniqueViolation("twice"), errors.BackendConflict),
    ],
)
def test_errors_become_zstreams(raised: psycopg.Error, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="postgresql:///x") as caught, translated("postgresql:///x"):
        raise raised
    assert caught.value.__cause__ is raised


def test_a_value_that_cannot_be_is_the_callers_defect() -> None:
    with pytest.raises(psycopg.DataError), translated("x"):
        raise psycopg.DataError("NUL")


# ---------------------------------------------------------------- the probe


def test_a_probe_asks_one_host_after_the_other() -> None:
    """One that swallows all it gets must not keep those behind it from being asked."""
    with socket.socket() as silent, socket.socket() as closed:
        for each in (silent, closed):
            each.bind(("127.0.0.1", 0))
        silent.listen()
        ports = f"{silent.getsockname()[1]},{closed.getsockname()[1]}"
        url = f"postgresql://me@127.0.0.1,localhost/app?port={ports}"
        probe = Probe(address_of(url))
        began = time.monotonic()
        for said in ("no answer within 1 s", "refused", "no answer within 1 s"):
            with pytest.raises(psycopg.OperationalError, match=said):
                probe.ask()
        assert 2.0 <= time.monotonic() - began < 4.0
        probe.prefer(Place("localhost", "127.0.0.1", ports.partition(",")[2]))
        for said in ("refused", "no answer within 1 s"):
            with pytest.raises(psycopg.OperationalError, match=said):
                probe.ask()
        probe.close()
