"""Whether the store is there: one voice, and who is woken by it."""

import threading
from contextlib import suppress

import pytest

from zstream.backends.base import Batch, Query
from zstream.backends.memory import MemoryBackend
from zstream.errors import BackendConflict, BackendError, BackendUnavailable
from zstreamd import patient, watch
from zstreamd.outage import Outage
from zstreamd.patient import PatientStore
from zstreamd.watch import Patience, Watch

AWAY = BackendUnavailable("no route to it")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


def test_it_is_told_once_whoever_finds_it(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    assert (outage.down, outage.away) == (None, None)
    outage.note("append", AWAY)
    assert (outage.down, outage.away) == (AWAY, None)
    outage.note("probe", BackendUnavailable("nor answers it"))
    outage.note("append", AWAY)
    assert str(outage.away) == "nor answers it"
    outage.answers()
    assert (outage.down, outage.away) == (AWAY, None)
    assert said(caplog) == ["store_away"]
    outage.over()
    outage.over()
    assert outage.down is None
    assert said(caplog) == ["store_away", "store_back"]
    outage.note("probe", AWAY)
    outage.over()  # what was written proves that it is there
    assert said(caplog) == ["store_away", "store_back"] * 2


def test_who_waits_is_woken_by_a_sign_of_life() -> None:
    outage = Outage()
    outage.note("probe", AWAY)
    woken = threading.Event()

    def wait() -> None:
        outage.wait(60)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    outage.answers()
    assert woken.wait(30)
    thread.join()


class Store(MemoryBackend):
    """Fails as it is told."""

    def __init__(self) -> None:
        super().__init__("memory:")
        self.failures: list[BackendError] = []
        self.stores_all_the_same = False
        self.appends = self.interrupts = 0
        self.probe_error: BackendError | None = None

    def append(self, batch: Batch) -> None:
        self.appends += 1
        if self.failures:
            if self.stores_all_the_same:
                super().append(batch)
            raise self.failures.pop(0)
        super().append(batch)

    def probe(self) -> None:
        if self.probe_error is not None:
            raise self.probe_error

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def store() -> Store:
    store = Store()
    store.open(["kind"])
    return store


def batch(first: int = 1) -> Batch:
    return Batch(first, [1, 2], [b"a", b"b"], [["x", None]], 1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient, "_RETRY_S", (0.001, 0.002))


@pytest.mark.usefixtures("quick")
def test_an_append_is_tried_until_it_works(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    store.failures = [AWAY] * 4
    PatientStore(store, outage, Patience()).append(batch())
    assert (store.appends, store.last_id(), outage.down) == (5, 2, None)
    assert said(caplog) == ["store_away", "store_back"]


@pytest.mark.usefixtures("quick")
def test_one_failure_while_the_watch_sees_nobody_is_of_the_outage(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is told to be back when something was written, and not at the first answer."""
    outage = Outage()
    outage.note("probe", AWAY)
    store.failures = [AWAY, AWAY]
    answered = store.append

    def append(batch: Batch) -> None:
        if store.appends == 1:
            outage.answers()
            assert said(caplog) == ["store_away"]
        answered(batch)

    store.append = append  # type: ignore[method-assign]
    PatientStore(store, outage, Patience()).append(batch())
    assert said(caplog) == ["store_away", "store_back"]


@pytest.mark.usefixtures("quick")
def test_one_failure_of_an_old_connection_is_no_outage(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.failures = [AWAY]
    PatientStore(store, Outage(), Patience()).append(batch())
    assert store.last_id() == 2
    assert not caplog.records


@pytest.mark.usefixtures("quick")
def test_what_was_stored_although_it_failed_is_not_stored_again(store: Store) -> None:
    store.failures, store.stores_all_the_same = [AWAY], True
    PatientStore(store, Outage(), Patience()).append(batch())
    assert (store.appends, store.last_id()) == (1, 2)
    assert store.count(Query()) == 2


@pytest.mark.usefixtures("quick")
def test_after_the_stop_there_is_one_more_try(store: Store) -> None:
    outage = Outage()
    patient_store = PatientStore(store, outage, Patience())
    store.failures = [AWAY] * 9
    patient_store.stop()
    with pytest.raises(BackendUnavailable):
        patient_store.append(batch())
    assert store.appends == 1
    store.failures = [BackendConflict("another daemon")]
    with pytest.raises(BackendConflict):
        patient_store.append(batch())


@pytest.mark.usefixtures("quick")
def test_a_store_is_opened_anew_until_it_can_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(batch())
    left = [AWAY, AWAY]
    really = MemoryBackend.open

    def open(self: MemoryBackend, keys: object) -> object:
        if left:
            raise left.pop()
        return really(self, keys)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryBackend, "open", open)
    head = PatientStore(store, Outage(), Patience()).open_anew(("kind",), AWAY)
    assert (head.keys, head.id, left) == (("kind",), 0, [])


# ---------------------------------------------------------------- the watch


def watching(store: Store, outage: Outage) -> tuple[Watch, Patience, list[BackendError]]:
    given_up: list[BackendError] = []
    patience = Patience()
    return Watch(store, outage, patience, given_up.append, lambda: False), patience, given_up


def test_who_waits_is_freed_while_the_store_does_not_answer(store: Store) -> None:
    outage = Outage()
    watch, _, given_up = watching(store, outage)
    watch.look()
    assert (outage.away, store.interrupts, given_up) == (None, 0, [])
    store.probe_error = AWAY
    watch.look()
    watch.look()
    assert (outage.away, store.interrupts, given_up) == (AWAY, 2, [AWAY, AWAY])
    store.probe_error = None
    watch.look()  # what was begun meanwhile may hang for ever
    assert (outage.away, store.interrupts) == (None, 3)
    watch.look()
    assert store.interrupts == 3


def test_a_question_that_was_lost_in_an_outage_is_no_news_after_it(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put before the store came back, and would be waited for after something is written."""
    outage = Outage()
    watch, _, given_up = watching(store, outage)
    store.probe_error = AWAY
    watch.look()
    assert (store.interrupts, given_up) == (1, [AWAY])
    lost = [AWAY]

    def probe() -> None:
        if lost:
            outage.over()
            raise lost.pop()

    monkeypatch.setattr(store, "probe", probe)
    watch.look()
    assert (outage.down, given_up, lost) == (None, [AWAY], [])
    assert said(caplog) == ["store_away", "store_back"]
    assert store.interrupts == 1


def test_who_began_while_it_was_away_is_freed_though_the_writer_was_first(store: Store) -> None:
    """And before anybody is let in who might be cut off for it."""
    outage = Outage()
    outage.note("probe", AWAY)
    seen: list[BackendError | None] = []
    store.interrupt = lambda: seen.append(outage.away)  # type: ignore[method-assign]
    patient_store = PatientStore(store, outage, Patience())
    patient_store.append(batch())
    patient_store.append(batch(3))
    assert (seen, outage.away) == ([AWAY], None)


def test_the_end_of_a_kept_connection_is_no_outage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [100.0], list[float]()
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])

    def probe(took_s: float, failures: int) -> None:
        now[0] += took_s
        asked.append(now[0])
        if len(asked) <= failures:
            raise AWAY

    for took_s, failures, probes, away in (
        (0.1, 1, 2, None),
        (0.1, 2, 2, AWAY),
        (0.9, 1, 1, AWAY),  # who waits has waited long enough
    ):
        outage = Outage()
        asked.clear()
        monkeypatch.setattr(store, "probe", lambda a=took_s, b=failures: probe(a, b))
        watching(store, outage)[0].look()
        assert (len(asked), outage.away) == (probes, away)


def test_what_hangs_although_the_store_answers_is_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    watcher, patience, _ = watching(store, Outage())
    for patience_s in (3, 6, 12, 24, 48, 60, 60):  # a store that is slow gets on in the end
        with suppress(BackendUnavailable), patience.call():
            now[0] += patience_s - 0.1
            watcher.look()
            before = store.interrupts
            now[0] += 0.2
            watcher.look()
            assert store.interrupts == before + 1
            raise AWAY
    with patience.call():
        pass
    with patience.call():
        now[0] += 3.1
        watcher.look()
        assert store.interrupts == before + 2
    now[0] += 100
    watcher.look()  # nobody calls
    assert store.interrupts == before + 2


def test_a_query_that_hangs_is_ended(store: Store) -> None:
    overdue = [True]
    Watch(store, Outage(), Patience(), lambda error: None, lambda: overdue[0]).look()
    assert store.interrupts == 1


def test_a_store_without_a_server_is_not_watched() -> None:
    plain = MemoryBackend("memory:")
    watcher = Watch(plain, Outage(), Patience(), lambda error: None, lambda: False)
    watcher.start()
    assert not watcher.is_alive()


def test_the_thread_looks_until_it_is_stopped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.001)
    outage = Outage()
    watcher, _, _ = watching(store, outage)
    store.probe_error = AWAY
    given = threading.Event()
    monkeypatch.setattr(store, "interrupt", given.set)
    watcher.start()
    assert given.wait(30)
    watcher.end()
    assert not watcher.is_alive()
    assert outage.away is AWAY
