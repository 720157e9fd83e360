"""Real events, imported by the command: what the client is answered equals a scan of the file.

The seed of the questions is printed; ZSTREAM_TEST_SEED=… asks the same ones again.
"""

import ast
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest

from zstream import Client, Page
from zstream.testing import Server, server

from ..servers.redis import Redis
from . import plain
from .plain import EPOCH, Plain, Row, jsonl, lines_of, micros
from .support import PATIENCE_S, ask_well, zstream_ok

QUESTIONS: Final = 500
#: Of a hundred questions so many must have an answer that is not empty or 0.
ANSWERED: Final = 80

GITHUB_KEYS: Final = ("type", "actor.login", "repo.name")
WIKIPEDIA_KEYS: Final = ("channel", "user", "page")
#: Literal dots, numbers, lists of texts, lists of floats, booleans, fields that are missing.
ZEEK_KEYS: Final = ("_path", "id.orig_h", "id.resp_p", "query", "answers", "TTLs", "AA")

#: Of 84,513, for the time that it takes.
ZEEK_EVENTS: Final = 15_000

Found = list[tuple[int, int, dict[str, Any]]]


def a_seed() -> int:
    """In CI the same questions each time, elsewhere new ones."""
    given = os.environ.get("ZSTREAM_TEST_SEED")
    if given is not None:
        return int(given)
    return 20150101 if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)


# ---------------------------------------------------------------- questions


@dataclass
class Question:
    """A slice, and how it is walked through."""

    kind: str
    filter: dict[str, Any]
    since: int | None = None
    until: int | None = None
    #: Of the client: times as a caller may give them.
    times: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    size: int = 20
    pages: int = 1


class Questions:
    """Random questions about events, most of them about something that is there."""

    def __init__(self, stream: Plain, seed: int) -> None:
        self._rng = random.Random(seed)
        self._stream = stream
        #: The texts that a key has, each as often as events have it.
        self._texts = [
            [text for row in stream.by_id for text in sorted(row.texts[at])]
            for at in range(len(stream.keys))
        ]
        self._distinct = [sorted(set(texts)) for texts in self._texts]

    def ask(self) -> Question:
        rng = self._rng
        row = rng.choice(self._stream.rows)
        question = Question(
            kind=rng.choices(("page", "offset", "walk", "count"), (30, 20, 30, 20))[0],
            filter=self._filter(row),
        )
        self._range(question, row)
        if question.kind != "count":
            question.size = rng.choice((1, 2, 20, 20, 50, rng.randint(1, 200)))
        if question.kind == "offset":
            there = len(self._stream.select(question.filter, question.since, question.until))
            beyond = rng.random() < 0.1
            there = min(there, 3_000)
            question.start = there if beyond else rng.randrange(max(1, there))
        if question.kind == "walk":
            question.pages = rng.randint(2, 6)
        return question

    def _filter(self, row: Row) -> dict[str, Any]:
        rng = self._rng
        places = [at for at, texts in enumerate(row.texts) if texts]
        wanted = rng.choices((0, 1, 2, 3), (5, 45, 35, 15))[0]
        rng.shuffle(places)
        filter: dict[str, Any] = {}
        for at in places[:wanted]:
            filter[self._stream.keys[at]] = self._values(row, at)
        if rng.random() < 0.05:  # something that nobody has
            filter[rng.choice(self._stream.keys)] = rng.choice(("nobody has this", [], "", -1))
        return filter

    def _values(self, row: Row, at: int) -> object:
        rng = self._rng
        text = rng.choice(sorted(row.texts[at]))
        given = plain.field_of(row.event, self._stream.keys[at])
        one: object = text if isinstance(given, list) or rng.random() < 0.5 else given
        if rng.random() < 0.55:
            return one
        # As often as they occur, or the rare ones just as often as the others.
        texts = rng.choice((self._texts, self._distinct))[at]
        more = rng.choice((0, 1, 3, 20, 63, 64, 65, 400))
        values = [one, *(rng.choice(texts) for _ in range(more))]
        rng.shuffle(values)
        return values

    def _range(self, question: Question, row: Row) -> None:
        rng = self._rng
        if rng.random() < 0.5:
            return
        other = rng.choice(self._stream.rows)
        low, high = sorted((row.ts, other.ts))
        # An event just at the edge is in at since and out at until.
        if rng.random() < 0.7:
            question.since = low + rng.choice((0, 0, 0, 0, 1, -1))
            question.times["since"] = self._time(question.since)
        if rng.random() < 0.7:
            question.until = high + rng.choice((0, 1, 1, 1, 1))
            question.times["until"] = self._time(question.until)

    def _time(self, ts: int) -> object:
        """A time as a caller may give it."""
        moment = EPOCH + timedelta(microseconds=ts)
        forms: list[object] = [moment, moment.isoformat(), Decimal(ts).scaleb(-6)]
        if ts % 1_000_000 == 0:
            forms += [ts // 1_000_000, float(ts // 1_000_000)]
        return self._rng.choice(forms)


def answers(client: Client, question: Question) -> Found | int:
    """What the client is answered."""
    if question.kind == "count":
        return client.count(question.filter, **question.times)
    return walk(client, question)[0]


def walk(client: Client, question: Question) -> tuple[Found, int]:
    """The pages that the client is answered with, and the head of the first."""
    found: Found = []
    start, token, head = question.start, None, None
    for _ in range(question.pages):
        page: Page = client.items(
            question.filter, start=start, end=start + question.size, before=token, **question.times
        )
        found += [(event.id, event.ts, dict(event)) for event in page]
        start, token, head = 0, page.next, page.head if head is None else head
        # A page that is not full ends the slice.
        assert len(page) == question.size or token is None
        if token is None:
            break
    assert head is not None
    return found, head


def expected(stream: Plain, question: Question, head: int | None = None) -> Found | int:
    """What the scan finds, of the events up to an id."""
    rows = stream.select(question.filter, question.since, question.until)
    if head is not None:
        rows = [row for row in rows if row.id <= head]
    if question.kind == "count":
        return len(rows)
    wanted = rows[question.start : question.start + question.pages * question.size]
    return [(row.id, row.ts, row.event) for row in wanted]


def compare(url: str, stream: Plain, seed: int, questions: int) -> None:
    """Ask the client and the scan; both must say the same, and mostly something."""
    print(f"the questions: ZSTREAM_TEST_SEED={seed}")
    asker = Questions(stream, seed)
    answered = 0
    seen: set[object] = set()
    with Client(url) as client:
        for number in range(questions):
            question = asker.ask()
            wanted = expected(stream, question)
            told = answers(client, question)
            if told != wanted:
                differ(f"question {number} of seed {seed}", question, told, wanted)
            answered += bool(wanted)
            seen |= {question.kind, len(question.filter), *question.times}
    assert answered * 100 >= questions * ANSWERED
    assert seen >= {"page", "offset", "walk", "count", 1, 2, "since", "until"}


def differ(place: str, question: Question, told: Found | int, wanted: Found | int) -> None:
    pytest.fail(
        f"{place}: {str(question)[:600]}\n"
        f"the client was told {_short(told)}\nthe scan finds     {_short(wanted)}"
    )


def _short(found: Found | int) -> str:
    if isinstance(found, int):
        return str(found)
    return f"{len(found)} events: {str([id for id, _, _ in found])[:500]}"


# ---------------------------------------------------------------- data


@contextmanager
def a_store(
    folder: Path, keys: Sequence[str], store: str = "sqlite", redis: Redis | None = None
) -> Iterator[Server]:
    url = f"sqlite:///{folder}/events.db" if store == "sqlite" else "memory:"
    if redis is not None:
        url = redis.url(redis.prefix())
    with server(keys=keys, store=url) as running:
        yield running


@pytest.fixture(scope="module")
def data(shared_data: Path) -> Callable[[str], Path]:
    """Find a file of the real data."""

    def find(name: str) -> Path:
        path = shared_data / name
        if not path.is_file():
            pytest.skip(f"the real data is not here: {path.name} is missing")
        return path

    return find


@pytest.fixture(scope="module")
def github_files(data: Callable[[str], Path]) -> list[Path]:
    return [data(f"github-events/2015-01-01-{hour}.json.gz") for hour in (0, 1)]


@pytest.fixture(scope="module")
def github(github_files: list[Path]) -> Plain:
    return Plain(
        (plain.event_of(line) for path in github_files for line in lines_of(path)),
        GITHUB_KEYS,
        lambda event: micros(event["created_at"]),
    )


@pytest.fixture(scope="module")
def wikipedia_file(data: Callable[[str], Path]) -> Path:
    return data("wikipedia-edits/wikiticker-2015-09-12-00h-17h.json.gz")


def zeek_in_order_of_arrival(folder: Path, most: int) -> list[dict[str, Any]]:
    """The first of all kinds as they were written, which is not when they happened."""
    events = [
        plain.event_of(line)
        for path in sorted(folder.glob("*.json.gz"))
        for line in islice(lines_of(path), most)
    ]
    return sorted(events, key=lambda event: str(event["_write_ts"]))[:most]


@pytest.fixture(scope="module")
def zeek(shared_data: Path) -> Plain:
    folder = shared_data / "zeek"
    if not folder.is_dir():
        pytest.skip("the real data is not here: zeek is missing")
    events = zeek_in_order_of_arrival(folder, ZEEK_EVENTS)
    return Plain(events, ZEEK_KEYS, lambda event: micros(event["ts"]))


# ---------------------------------------------------------------- tests


def test_the_scan_is_independent() -> None:
    tree = ast.parse(Path(plain.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "json" in imported
    assert not [name for name in imported if name.partition(".")[0] in ("zstream", "zstreamd", "")]


def test_github(github_files: list[Path], github: Plain, tmp_path: Path) -> None:
    assert len(github.rows) == 15_129
    assert github.late > 0
    seed = a_seed()
    with a_store(tmp_path, GITHUB_KEYS) as running:
        said = zstream_ok(running.url, "import", *github_files, "--date", "created_at")
        print(said.decode())
        info = ask_well(running.url, "info")
        assert (info["stored"], info["refused"], info["head"]) == (15_129, 0, 15_129)
        compare(running.url, github, seed, QUESTIONS)

        # Nothing of the answers may hang on what the daemon has in memory.
        running.restart()
        compare(running.url, github, seed + 1, QUESTIONS // 2)

        with Client(running.url) as client:
            everything = Question("walk", {}, size=10_000, pages=2)
            assert answers(client, everything) == expected(github, everything)
            logins = [row.event["actor"]["login"] for row in github.rows[:30]]
            followed = [row for row in github.by_id if row.event["actor"]["login"] in logins]
            with client.tail({"actor.login": logins}, after=0) as tail:
                for row in followed:
                    event = tail.get(timeout=10)
                    assert (event.id, event.ts, dict(event)) == (row.id, row.ts, row.event)


def test_wikipedia(wikipedia_file: Path, tmp_path: Path) -> None:
    stream = Plain(
        map(plain.event_of, lines_of(wikipedia_file)),
        WIKIPEDIA_KEYS,
        lambda event: micros(event["time"]),
    )
    assert len(stream.rows) == 28_391
    with a_store(tmp_path, WIKIPEDIA_KEYS) as running:
        zstream_ok(running.url, "import", wikipedia_file, "--date", "time")
        compare(running.url, stream, a_seed(), QUESTIONS)


def test_wikipedia_shuffled(wikipedia_file: Path, tmp_path: Path) -> None:
    """In the file none is late. Here nearly all are."""
    seed = a_seed()
    rng = random.Random(seed)
    events = rng.sample([plain.event_of(line) for line in lines_of(wikipedia_file)], 6_000)
    stream = Plain(events, WIKIPEDIA_KEYS, lambda event: micros(event["time"]))
    assert stream.late > 5_000
    with a_store(tmp_path, WIKIPEDIA_KEYS) as running:
        zstream_ok(running.url, "import", "-", "--date", "time", stdin=jsonl(events))
        compare(running.url, stream, seed, QUESTIONS // 2)


@pytest.fixture(params=["sqlite", "memory", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def there(request: pytest.FixtureRequest, store: str) -> Redis | None:
    """The server of a store that has one."""
    found: Redis | None = request.getfixturevalue(store) if store == "redis" else None
    return found


def test_zeek(zeek: Plain, tmp_path: Path, store: str, there: Redis | None) -> None:
    """Keys with dots in their names, lists, numbers and booleans; really late rows."""
    assert len(zeek.rows) == ZEEK_EVENTS
    assert zeek.late > 1_000
    lines = jsonl(row.event for row in zeek.by_id)
    with a_store(tmp_path, ZEEK_KEYS, store, there) as running:
        zstream_ok(running.url, "import", "-", "--date", "ts", stdin=lines)
        compare(running.url, zeek, a_seed(), QUESTIONS // 2)


def test_questions_while_it_grows(
    zeek: Plain, tmp_path: Path, store: str, there: Redis | None
) -> None:
    """A walk sees what there was at its first page, whatever comes and however late it is."""
    seed = a_seed()
    print(f"the questions: ZSTREAM_TEST_SEED={seed}")
    asker = Questions(zeek, seed)
    heads = set()
    with a_store(tmp_path, ZEEK_KEYS, store, there) as running, Client(running.url) as client:
        for first in range(0, len(zeek.by_id), 100):
            for row in zeek.by_id[first : first + 100]:
                client.insert(row.event, date=EPOCH + timedelta(microseconds=row.ts))
            if first % 700 == 0:  # else it has come as far as it has come
                client.flush(timeout=PATIENCE_S)
            question = asker.ask()
            if question.kind == "count":
                continue
            told, head = walk(client, question)
            wanted = expected(zeek, question, head)
            if told != wanted:
                differ(f"seed {seed} at {head}", question, told, wanted)
            heads.add(head)
        client.flush(timeout=PATIENCE_S)
        assert client.count() == len(zeek.by_id)
    assert len(heads) > 10
