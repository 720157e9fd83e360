import logging
import threading

import pytest

from zstream.errors import BufferFull, Closed, FlushError, Refused
from zstream.outbox import Outbox, Progress
from zstream.source import ELEMENT_OVERHEAD

SOON = 30.0
SIZE = 100
ELEMENT = bytes(SIZE - ELEMENT_OVERHEAD)


def make(limit=1 << 20, on_full="drop", raises_refused=True):
    return Outbox(limit, on_full, raises_refused)


def tell(outbox, **fields):
    settled = fields.setdefault("settled", sum(fields.get(k, 0) for k in ("stored", "lost")))
    fields.setdefault("sent", settled)
    released = (settled - outbox.progress.settled) * SIZE
    outbox.tell(Progress(**fields), [], released)


def in_thread(call, *args):
    """Run in a thread; returns a function that waits and gives the result or raises."""
    result = []

    def run():
        try:
            result.append((call(*args), None))
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            result.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def finish():
        thread.join(SOON)
        assert not thread.is_alive()
        value, error = result[0]
        if error is not None:
            raise error
        return value

    return finish


def test_what_is_put_is_taken_once_and_in_order():
    outbox = make()
    for element in (b"a", b"b"):
        outbox.put(element)
    assert outbox.take() == [b"a", b"b"]
    assert outbox.take() == []
    assert outbox.accepted == 2


def test_it_wakes_only_a_sleeper_and_only_once():
    outbox, rings = make(), []
    outbox.wake = lambda: rings.append(1)
    outbox.put(ELEMENT)
    outbox.put(ELEMENT)
    assert len(rings) == 1, "the first use starts the thread"
    assert not outbox.sleep(), "there is something to take"
    outbox.take()
    assert outbox.sleep()
    outbox.put(ELEMENT)
    outbox.put(ELEMENT)
    assert len(rings) == 2


def test_beyond_the_limit_it_drops_counts_and_warns_once(caplog):
    outbox = make(limit=2 * SIZE)
    with caplog.at_level(logging.WARNING, "zstream"):
        for _ in range(4):
            outbox.put(ELEMENT)
    assert (outbox.accepted, outbox.dropped, len(caplog.records)) == (2, 2, 1)
    assert outbox.stats()["queued_bytes"] == 2 * SIZE


def test_room_comes_with_what_is_settled():
    outbox = make(limit=2 * SIZE, on_full="raise")
    outbox.put(ELEMENT)
    outbox.put(ELEMENT)
    outbox.take()
    with pytest.raises(BufferFull):
        outbox.put(ELEMENT)
    tell(outbox, stored=1)
    outbox.put(ELEMENT)
    assert outbox.stats()["queued_bytes"] == 2 * SIZE


def test_one_event_is_taken_however_large():
    outbox = make(limit=1, on_full="raise")
    outbox.put(ELEMENT)
    with pytest.raises(BufferFull):
        outbox.put(ELEMENT)


@pytest.mark.parametrize("how", ["block", "put_all"])
def test_a_blocked_put_waits_for_room(how):
    outbox = make(limit=SIZE, on_full="block")
    outbox.put(ELEMENT)
    outbox.take()
    call = (outbox.put, b"x") if how == "block" else (outbox.put_all, [b"x"])
    finish = in_thread(*call)
    tell(outbox, stored=1)
    finish()
    assert outbox.take() == [b"x"]


def test_a_blocked_put_ends_with_the_client():
    outbox = make(limit=SIZE, on_full="block")
    outbox.put(ELEMENT)
    finish = in_thread(outbox.put, ELEMENT)
    outbox.close()
    with pytest.raises(Closed):
        finish()
    with pytest.raises(Closed):
        outbox.put(b"x")


def test_the_links_own_thread_does_not_wait_for_itself():
    outbox = make(limit=SIZE, on_full="block")
    outbox.threads.add(threading.get_ident())
    outbox.put(ELEMENT)
    with pytest.raises(BufferFull):
        outbox.put(ELEMENT)


def test_flush_of_nothing_returns():
    make().flush(0)


def test_flush_waits_for_what_was_put_before_it_and_no_more():
    outbox = make()
    outbox.put(ELEMENT)
    finish = in_thread(outbox.flush, SOON)
    outbox.put(ELEMENT)
    tell(outbox, stored=2)
    finish()
    outbox.put(ELEMENT)
    with pytest.raises(FlushError) as caught:
        outbox.flush(0)
    assert caught.value.pending == 1


def test_flush_tells_of_losses_once():
    outbox = make()
    for _ in range(3):
        outbox.put(ELEMENT)
    outbox.take()
    tell(outbox, stored=1, lost=2)
    with pytest.raises(FlushError, match="2 were lost") as caught:
        outbox.flush(0)
    assert caught.value.pending == 2
    outbox.flush(0)


def test_every_flush_that_waited_hears_of_the_loss():
    outbox = make()
    outbox.put(ELEMENT)
    outbox.take()
    waiting = [in_thread(outbox.flush, SOON) for _ in range(2)]
    while len(outbox._changed._waiters) < 2:  # both wait now
        threading.Event().wait(0.001)
    tell(outbox, lost=1)
    for finish in waiting:
        with pytest.raises(FlushError, match="1 was lost"):
            finish()


def test_flush_tells_of_drops():
    outbox = make(limit=SIZE)
    outbox.put(ELEMENT)
    outbox.put(ELEMENT)
    outbox.take()
    tell(outbox, stored=1)
    with pytest.raises(FlushError, match="1 was dropped") as caught:
        outbox.flush(0)
    assert caught.value.pending == 1
    outbox.flush(0)


def test_flush_tells_of_refusals_once_and_of_losses_first():
    outbox = make()
    for _ in range(3):
        outbox.put(ELEMENT)
    outbox.take()
    refusal = (1, 0, "bad_event", "it is bad")
    outbox.tell(Progress(settled=3, sent=3, stored=1, refused=1, lost=1), [refusal])
    with pytest.raises(FlushError):
        outbox.flush(0)
    with pytest.raises(Refused, match="it is bad") as caught:
        outbox.flush(0)
    assert (caught.value.count, caught.value.refusals) == (1, (refusal,))
    outbox.flush(0)


def test_flush_leaves_refusals_to_on_refused():
    outbox = make(raises_refused=False)
    outbox.put(ELEMENT)
    outbox.take()
    outbox.tell(Progress(settled=1, sent=1, refused=1), [])
    outbox.flush(0)


def test_drain_gives_up_soon_when_nobody_is_there():
    outbox = make()
    outbox.put(ELEMENT)
    assert outbox.drain(0.0, SOON, 0.0) == 1
    with pytest.raises(Closed):
        outbox.put(ELEMENT)


def test_drain_waits_for_somebody_who_is_there():
    outbox = make()
    outbox.put(ELEMENT)
    outbox.take()
    outbox.tell_connected(True)
    finish = in_thread(outbox.drain, threading.TIMEOUT_MAX / 2, SOON, 0.0)
    tell(outbox, stored=1)
    assert finish() == 0


def test_drain_counts_losses_that_nobody_was_told_of():
    outbox = make()
    outbox.put(ELEMENT)
    outbox.take()
    tell(outbox, lost=1)
    assert outbox.drain(0.0, 0.0, 0.0) == 1


def test_an_insert_in_the_middle_of_an_insert_is_taken():
    """A signal handler or a finalizer may run while the lock is held."""
    outbox, inner = make(), [b"inner"]
    outbox.wake = lambda: outbox.put(inner.pop()) if inner else None
    finish = in_thread(outbox.put, b"outer")
    finish()
    assert outbox.take() == [b"outer", b"inner"]


def test_the_log_of_a_drop_may_insert():
    outbox = make(limit=SIZE)

    class Inserts(logging.Handler):
        def emit(self, record):
            outbox.put(ELEMENT)

    logger, handler = logging.getLogger("zstream"), Inserts()
    logger.addHandler(handler)
    try:
        finish = in_thread(lambda: [outbox.put(ELEMENT) for _ in range(2)])
        finish()
    finally:
        logger.removeHandler(handler)
    assert outbox.dropped == 2
