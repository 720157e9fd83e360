"""The spool without a link: what it writes, what it hands over, what it does at the end."""

import os

import pytest

from zstream import wire
from zstream.limits import BATCH_EVENTS
from zstream.outbox import Outbox
from zstream.spool.folder import Folder
from zstream.spool.source import READY_BYTES, FileSource
from zstream.spool.thread import Spool

URL = "tcp://127.0.0.1:5570"


class Link:
    """What a spool wakes, and what it adopted."""

    def __init__(self):
        self.wakes = 0
        self.sources = []

    def wake(self):
        self.wakes += 1

    def send(self, source):
        self.sources.append(source)


@pytest.fixture
def outbox():
    return Outbox(1 << 30, "drop", True)


@pytest.fixture
def link():
    return Link()


@pytest.fixture
def make(tmp_path, outbox, link):
    def make(*, sync_s=0.05, limit=1 << 30):
        spool = Spool(str(tmp_path), URL, sync_s, limit, outbox)
        spool.meet(link)
        return spool

    return make


def put(outbox, count, size=1):
    for n in range(count):
        outbox.put(wire.pack({"n": n, "text": "x" * size}))


def kept(tmp_path):
    """Events in the folder, as the next process finds them."""
    file = Folder(str(tmp_path), URL).adopt()
    if file is None:
        return []
    rows = file.read(0, 1 << 40)
    file.close()
    return [wire.unpack(each)["n"] for row in rows for each in wire.split_array(row.body, 9999)[0]]


def take_all(spool):
    """Take as the link does, with the spool's thread in between."""
    taken = []
    while True:
        batch = spool.source.take()
        if batch is None:
            spool.help()
            batch = spool.source.take()
            if batch is None:
                return taken
        taken.append(batch)


def test_nothing_put_makes_no_file(make, tmp_path):
    spool = make()
    spool.help()
    spool.stop()
    assert os.listdir(tmp_path) == []


def test_the_end_writes_what_is_in_memory_beyond_the_limit_too(make, outbox, tmp_path):
    spool = make(limit=10)
    put(outbox, 2_500)
    outbox.close()
    assert spool.unwritten == 2_500
    spool.stop()
    assert spool.unwritten == 0
    assert kept(tmp_path) == list(range(2_500))


def test_the_end_leaves_nothing_where_all_is_settled(make, outbox, tmp_path):
    spool = make()
    put(outbox, 2_500)
    spool.help()
    batches = take_all(spool)
    assert [batch.size for batch in batches] == [BATCH_EVENTS, BATCH_EVENTS, 500]
    spool.source.settled(len(batches))
    spool.stop()
    assert os.listdir(tmp_path) == []


def test_it_is_written_before_the_link_may_have_it(make, outbox, link, tmp_path):
    spool = make()
    put(outbox, 10)
    assert spool.source.take() is None
    spool.help()
    assert link.wakes
    assert spool.source.file.events == 10
    assert spool.source.file.contact is None
    assert spool.source.take() is None, "not before the file says that the daemon was reached"
    spool.help()
    assert spool.source.file.contact is not None
    assert spool.source.take().size == 10
    assert outbox.stats()["queued_bytes"] == 0
    spool.stop()
    assert kept(tmp_path) == list(range(10)), "sent is not stored"


def test_memory_holds_a_part_of_it_and_the_file_the_rest(make, outbox):
    spool = make()
    put(outbox, 100, size=300_000)
    while spool.unwritten:
        spool._writer._nap_until = 0.0
        spool.help()
    file = spool.source.file
    assert sum(len(row.body) for row in spool.source._ready) < READY_BYTES + 2 * 1_000_000
    assert file.bytes > 6 * READY_BYTES
    bodies = b"".join(batch.body for batch in take_all(spool))
    assert bodies == b"".join(row.body for row in file.read(0, 1 << 40))
    spool.stop()


def test_one_orphan_after_the_other_is_sent(make, link, tmp_path):
    for number in range(3):
        orphan = Folder(str(tmp_path), URL).create(os.urandom(16))
        orphan.append([(1, b"\x91\x80")] * (number + 1))
        orphan.close()
    spool = make()
    for sent in range(1, 4):
        spool.help()
        assert len(link.sources) == sent
        source = link.sources[-1]
        assert (source.resumes, source.is_over, source.epoch) == (True, False, 2)
        count = spool.stats()["adopted"]
        while source.take() is None:
            spool.help()
        source.settled(source.first + count - 1)
        assert source.is_over
        spool.help()
    assert os.listdir(tmp_path) == []
    assert spool.stats()["adopted"] == 0
    spool.stop()


def test_an_orphan_whose_daemon_has_more_than_the_file(tmp_path):
    """Power went, and took the unsynced end of the file."""
    file = Folder(str(tmp_path), URL).create(os.urandom(16))
    file.append([(1, b"\x91\x80")])
    source = FileSource(file, lambda: None)
    source.settled(7)
    assert source.is_over
    source.sweep()
    assert file.events == 0
    file.remove()


def test_a_restart_counts_what_was_taken_and_not_settled_from_1(make, outbox, tmp_path):
    spool = make()
    put(outbox, 3_000)
    spool.help()
    take_all(spool)
    source = spool.source
    source.settled(1)
    before = source.producer
    assert source.restart()
    assert source.producer != before
    assert source.file.base == 1
    source.settled(2)  # the batches 2 and 3 of before
    spool.stop()
    assert os.listdir(tmp_path) == []


def test_a_restart_before_there_is_a_file(make, outbox):
    spool = make()
    before = spool.source.producer
    assert spool.source.restart()
    put(outbox, 1)
    spool.help()
    assert spool.source.file.producer == spool.source.producer != before
    spool.stop()
