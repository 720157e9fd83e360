"""Lane files and their folder: whatever a process died at, the next finds what was written."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstream import errors, times
from zstream.limits import MAX_SILENCE_US
from zstream.spool.folder import DAMAGED, EXPIRED, Folder
from zstream.spool.lanefile import LaneFile

URL = "tcp://127.0.0.1:5570"
PRODUCER = bytes(range(16))


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path), URL)


@pytest.fixture
def file(folder):
    file = folder.create(PRODUCER)
    yield file
    file.close()


def names(path):
    return sorted(each.name for each in path.iterdir())


def run(code, *args, ends=0):
    """Run a script that begins as the tests do."""
    begin = """
import os, signal, sys
from zstream.spool.folder import Folder
from zstream.spool.lanefile import LaneFile
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    script = begin + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, args)], check=False, timeout=30
    )
    assert done.returncode == ends


def leave(folder, batches, *, settled=0):
    """A lane file as a process leaves it that ends."""
    file = folder.create(os.urandom(16))
    file.append(batches)
    file.forget(settled)
    file.close()
    return file


# ---------------------------------------------------------------- batches


def test_batches_are_kept_in_order_until_they_are_forgotten(file):
    assert [row.seq for row in file.append([(2, b"ab"), (1, b"c")])] == [1, 2]
    assert [row.seq for row in file.append([(3, b"def")])] == [3]
    assert (file.first, file.last, file.events, file.bytes) == (1, 3, 6, 6)
    assert file.read(0, 100) == [(1, 2, b"ab"), (2, 1, b"c"), (3, 3, b"def")]
    assert file.read(1, 1) == [(2, 1, b"c")], "as much as is asked for, and at least one"
    before = file.oldest
    file.forget(2)
    assert (file.first, file.last, file.events, file.bytes) == (3, 3, 3, 3)
    assert file.oldest >= before
    file.forget(99)
    assert (file.first, file.last, file.events, file.bytes, file.oldest) == (4, 3, 0, 0, None)
    assert file.append([(1, b"g")])[0].seq == 4, "no number is given twice"


def test_a_file_that_was_large_becomes_small(file):
    file.append([(1, bytes(1 << 20))] * 20)
    file.checkpoint()
    assert os.stat(file.path).st_size > 20 << 20
    file.forget(20)
    assert os.stat(file.path).st_size < 1 << 20
    assert file.append([(1, b"x")])[0].seq == 21


def test_a_person_can_read_it(folder, tmp_path):
    file = leave(folder, [(2, b"\x92\x80\x80")])
    with closing(sqlite3.connect(file.path)) as db:
        assert db.execute("SELECT seq, events, body FROM batches").fetchall() == [
            (1, 2, b"\x92\x80\x80")
        ]
        assert db.execute("SELECT url, epoch, base FROM meta").fetchall() == [(URL, 1, 0)]
    assert os.stat(file.path).st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- locks


def test_a_file_is_one_process_s(file, folder):
    file.append([(1, b"a")])
    with pytest.raises(errors.StoreLocked):
        LaneFile.open(file.path)
    run(f"""
from zstream.errors import StoreLocked
try:
    LaneFile.open(sys.argv[1])
except StoreLocked:
    pass
else:
    raise AssertionError
assert Folder({os.path.dirname(file.path)!r}, {URL!r}).adopt() is None
    """, file.path)  # fmt: skip
    assert folder.adopt() is None
    assert file.append([(1, b"b")])[0].seq == 2


def test_a_killed_process_leaves_what_it_committed(folder, tmp_path):
    run(f"""
file = Folder(sys.argv[1], {URL!r}).create(bytes(16))
file.append([(1, b"a"), (2, b"b")])
file.append([(3, b"c")])
file.forget(1)
die()
    """, tmp_path, ends=-signal.SIGKILL)  # fmt: skip
    file = folder.adopt()
    assert (file.producer, file.epoch, file.base, file.first) == (bytes(16), 2, 0, 2)
    assert file.read(0, 100) == [(2, 2, b"b"), (3, 3, b"c")]
    file.close()
    again = folder.adopt()
    assert (again.epoch, again.first) == (3, 2), "who adopts it next outranks this one"
    again.remove()
    assert names(tmp_path) == []


def test_processes_that_race_for_orphans_get_each_once(folder, tmp_path):
    for number in range(4):
        leave(folder, [(1, b"%d" % number)])
    code = """
        folder = Folder(sys.argv[1], sys.argv[2])
        while (file := folder.adopt()) is not None:
            print(file.read(0, 9)[0].body.decode(), flush=True)
            file.remove()
    """
    begin = "import sys\nfrom zstream.spool.folder import Folder\n"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", begin + textwrap.dedent(code), tmp_path, URL],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    found = [line for racer in racers for line in racer.communicate(timeout=30)[0].split()]
    # One that met another's look at a file passed it over; it is there for the next look.
    while (file := folder.adopt()) is not None:
        found.append(file.read(0, 9)[0].body.decode())
        file.remove()
    assert sorted(found) == list("0123")
    assert names(tmp_path) == []


# ---------------------------------------------------------------- forks


@pytest.mark.parametrize("end", ["pass", "sys.exit()", "os._exit(0)", "raise SystemExit(0)"])
def test_a_forked_child_leaves_the_parent_s_file_alone(tmp_path, end):
    run(f"""
path, folder = sys.argv[1], Folder(sys.argv[1], {URL!r})
file = folder.create(bytes(16))
file.append([(1, b"a")])
pid = os.fork()
if not pid:
    own = folder.create(bytes(16))
    assert folder.adopt() is None, "the parent lives"
    own.append([(1, b"child")])
    own.close()
    {end}
else:
    assert os.waitpid(pid, 0)[1] == 0
    assert os.path.exists(file.path + "-wal")
    file.append([(1, b"b")])
    found = folder.adopt()
    assert found.read(0, 99) == [(1, 1, b"child")], "the child's own"
    found.remove()
    die()
    """, tmp_path, ends=-signal.SIGKILL)  # fmt: skip
    orphan = Folder(str(tmp_path), URL).adopt()
    assert [row.body for row in orphan.read(0, 99)] == [b"a", b"b"]
    orphan.close()


def test_forks_while_another_thread_writes(tmp_path):
    """No child finds SQLite's own locks locked, and no parent loses its log."""
    run(f"""
import threading, warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
folder = Folder(sys.argv[1], {URL!r})
file, over, count = folder.create(bytes(16)), threading.Event(), 0
def write():
    global count
    while not over.is_set():
        file.append([(1, bytes(3000))])
        count += 1
        over.wait(0.0005)
thread = threading.Thread(target=write)
thread.start()
for _ in range(8):
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        own = folder.create(bytes(16))
        own.append([(1, b"x")])
        own.remove()
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
over.set()
thread.join()
assert file.last == count > 8
die()
    """, tmp_path, ends=-signal.SIGKILL)  # fmt: skip
    orphan = Folder(str(tmp_path), URL).adopt()
    assert orphan.events == orphan.last > 8
    orphan.remove()


# ---------------------------------------------------------------- a new producer


def test_a_restart_counts_anew_from_what_is_not_settled(file, folder):
    file.append([(1, b"a"), (1, b"b"), (1, b"c")])
    file.restart(2)
    assert file.producer != PRODUCER
    assert (file.epoch, file.base) == (1, 2)
    file.append([(1, b"d")])
    producer = file.producer
    file.close()
    orphan = folder.adopt()
    assert (orphan.producer, orphan.epoch, orphan.base) == (producer, 2, 2)
    orphan.forget(2)
    assert orphan.first - orphan.base == 1
    orphan.close()


def test_a_restart_that_was_not_noted_has_the_same_name(folder, tmp_path):
    """The disk was full, and then the process died; or the power went before the sync."""
    path = leave(folder, [(1, b"a"), (1, b"b")]).path
    copy = str(tmp_path / "copy")
    shutil.copy(path, copy)
    found = []
    for each in (path, copy):
        file = LaneFile.open(each)
        file.raise_epoch()
        file.restart(0)
        found.append(file.producer)
        file.restart(1)
        found.append(file.producer)
        file.close()
    assert found[:2] == found[2:]
    assert len(set(found)) == 2


def test_a_restart_on_a_full_disk_is_noted_with_the_next_commit(file, folder):
    file.append([(1, b"a")])
    file._db.execute("PRAGMA query_only = 1")
    with pytest.raises(errors.BackendUnavailable):
        file.restart(0)
    producer = file.producer
    with pytest.raises(errors.BackendUnavailable):
        file.append([(1, b"b")])
    assert (file.last, file.events) == (1, 1), "and nothing is written without it"
    file._db.execute("PRAGMA query_only = 0")
    file.append([(1, b"b")])
    file.close()
    orphan = folder.adopt()
    assert orphan.producer == producer != PRODUCER
    assert orphan.events == 2
    orphan.close()


# ---------------------------------------------------------------- what is not sent


def test_empty_ones_are_removed(folder, tmp_path):
    leave(folder, [(1, b"a")], settled=1)
    (tmp_path / "lane-00.db").touch()  # its maker died before the first word
    (tmp_path / "lane-01.db-wal").touch()  # its remover died in the middle
    assert folder.adopt() is None
    assert names(tmp_path) == []


def test_strangers_are_left_alone(folder, tmp_path, caplog):
    other = leave(Folder(str(tmp_path), "tcp://127.0.0.1:9999"), [(1, b"a")])
    newer = leave(folder, [(1, b"a")])
    with closing(sqlite3.connect(newer.path)) as db:
        db.execute("PRAGMA user_version = 2")
    (tmp_path / "notes.txt").write_text("mine")
    before = names(tmp_path)
    assert folder.adopt() is None
    assert folder.adopt() is None
    assert names(tmp_path) == before
    assert sorted(each.message.count("left alone") for each in caplog.records) == [1, 1]
    assert "tcp://127.0.0.1:9999" in caplog.text
    assert "newer zstream" in caplog.text
    assert Folder(str(tmp_path), "tcp://127.0.0.1:9999").adopt().path == other.path


def test_one_that_the_daemon_may_have_forgotten_is_set_aside(folder, tmp_path, caplog):
    file = folder.create(PRODUCER)
    file.append([(3, b"a")])
    file.note_contact()
    file.contact -= MAX_SILENCE_US + 1_000_000
    file.append([(1, b"b")])
    file._note()
    file.close()
    assert folder.adopt() is None
    name = os.path.basename(file.path)
    assert names(tmp_path) == [name + EXPIRED]
    assert "4 events" in caplog.text
    assert "rename" in caplog.text
    assert folder.adopt() is None, "and is not looked at again"
    os.rename(file.path + EXPIRED, file.path)
    again = folder.adopt()
    assert (again.events, again.contact, again.producer) == (4, None, PRODUCER)
    again.close()


def test_one_that_was_reached_lately_or_never_is_sent(folder):
    for contact in (None, times.now() - MAX_SILENCE_US + 60_000_000, times.now() + 10**15):
        file = folder.create(PRODUCER)
        file.append([(1, b"a")])
        file.contact = contact
        file._note()
        file.close()
        orphan = folder.adopt()
        assert orphan.contact == contact
        orphan.remove()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"garbage" * 1000), id="garbage"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:4097]), id="cut"),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:2000] + bytes(10_000)), id="torn"
        ),
    ],
)
def test_a_damaged_one_is_set_aside(folder, tmp_path, caplog, damage):
    file = leave(folder, [(1, bytes(50_000))])
    damage(tmp_path / os.path.basename(file.path))
    good = leave(folder, [(1, b"good")])
    found = folder.adopt()
    assert found.path == good.path
    found.remove()
    assert folder.adopt() is None
    assert names(tmp_path) == [os.path.basename(file.path) + DAMAGED]
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "change",
    ["DELETE FROM meta", "UPDATE meta SET producer = x'00'", "UPDATE meta SET base = 7",
     "UPDATE meta SET base = -1", "UPDATE meta SET epoch = 'one'", "DROP TABLE meta",
     "DROP TABLE batches"],
)  # fmt: skip
def test_one_that_a_person_spoilt_is_set_aside(folder, tmp_path, change):
    file = leave(folder, [(1, b"a")])
    with closing(sqlite3.connect(file.path)) as db, db:
        db.execute(change)
    assert folder.adopt() is None
    assert names(tmp_path) == [os.path.basename(file.path) + DAMAGED]


def test_the_log_of_a_damaged_one_goes_with_it(folder, tmp_path):
    """Its setter-aside died between the two names."""
    (tmp_path / f"lane-00.db{DAMAGED}").write_bytes(b"x")
    (tmp_path / "lane-00.db-wal").write_bytes(b"y")
    folder.adopt()
    assert names(tmp_path) == [f"lane-00.db{DAMAGED}", f"lane-00.db{DAMAGED}-wal"]


def test_the_size_of_a_folder_counts_lanes_only(folder, tmp_path):
    (tmp_path / f"lane-00.db{EXPIRED}").write_bytes(bytes(1 << 20))
    file = folder.create(PRODUCER)
    assert folder.size(but=file.path) == 0
    other = folder.create(PRODUCER)
    other.append([(1, bytes(100_000))])
    assert 100_000 < folder.size(but=file.path) < 300_000
    file.close()
    other.close()


# ---------------------------------------------------------------- the power goes


step = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4), st.sampled_from([1, 5_000])),
    st.tuples(st.just("forget"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("restart"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("sync"), st.just(0), st.just(0)),
    st.tuples(st.just("checkpoint"), st.just(0), st.just(0)),
)


@settings(max_examples=12)
@given(steps=st.lists(step, max_size=12), rest=st.floats(0, 1))
def test_after_a_power_cut_the_file_is_as_at_a_commit_since_the_sync(tmp_path_factory, steps, rest):
    """What the disk surely has is a copy from the last sync; of what was written to the log since
    then it may have any first part."""
    path = tmp_path_factory.mktemp("spool")
    folder = Folder(str(path), URL)
    file = folder.create(PRODUCER)
    log = f"{file.path}-wal"
    safe = content(file.path), content(log)
    states = [state(file)]
    for name, number, size in steps:
        if name == "append":
            file.append([(1, b"%d" % number + bytes(size))] * number)
        elif name == "forget":
            file.forget(min(file.first + number - 1, file.last))
        elif name == "restart":
            settled = min(file.first + number - 1, file.last)
            file.forget(settled)
            file.restart(settled)
        elif name == "checkpoint":
            file.checkpoint()
        if name in ("sync", "restart", "checkpoint"):
            file.sync()
            safe = content(file.path), content(log)
            states = []
        states.append(state(file))
    written = content(log)
    file.close()
    if written[: len(safe[1])] == safe[1]:  # else SQLite began the log anew, which it syncs
        kept = len(safe[1]) + int((len(written) - len(safe[1])) * rest)
        for each in path.iterdir():
            each.unlink()
        (path / os.path.basename(file.path)).write_bytes(safe[0])
        (path / os.path.basename(log)).write_bytes(written[:kept])
    orphan = folder.adopt()
    if orphan is None:
        assert any(not rows for _, _, rows in states)
    else:
        assert state(orphan) in states
        orphan.close()
    shutil.rmtree(path)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def state(file):
    return file.producer, file.base, file.read(0, 1 << 30)
