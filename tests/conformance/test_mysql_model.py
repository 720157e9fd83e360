"""Random histories and queries over MariaDB, judged by the plain list of ``test_model``."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, note, settings

from zstream.backends.mysql import MySQLBackend
from zstream.backends.mysql_search import Limits

from ..servers.mariadb import MariaDB
from .test_model import KEYS, Checked, batches, st, steps

#: A store as it is made; to make it anew for each example would take most of the time.
EMPTY = (
    *(f"DELETE FROM {table}" for table in ("events", "lists", "runs", "producers", "marks")),
    "UPDATE head SET last = 0, floor = 0, arrival = 0, lists = 0",
)


class QuickMySQL(MySQLBackend):
    LOCK_S = 0


class SmallMySQL(QuickMySQL):
    LIMITS = Limits(scanned=5, gathered=3, counted=3)
    SWEEP_ROWS = 4


class Tidied(Checked):
    """Every step is followed by a little tidying up, as in the daemon."""

    def step(self, step: Any) -> None:
        super().step(step)
        self.backend.tidy()


@pytest.fixture(scope="module")
def database(mariadb: MariaDB) -> Iterator[str]:
    name = mariadb.database()
    backend = QuickMySQL(mariadb.url(name))
    backend.open(KEYS)
    backend.close()
    yield name
    mariadb.drop(name)


@pytest.mark.parametrize("cls", [QuickMySQL, SmallMySQL])
@settings(max_examples=settings().max_examples // 2)  # a step takes a hundred times as long here
@given(history=st.lists(batches, max_size=3), steps=steps)
def test_mariadb_answers_as_the_list_does(
    mariadb: MariaDB, database: str, cls: type[MySQLBackend], history: list[Any], steps: list[Any]
) -> None:
    mariadb.ask(*EMPTY, database=database)
    checked = Tidied(cls, mariadb.url(database))
    try:
        for step in [*history, *steps]:
            note(repr(step))
            checked.step(step)
    finally:
        checked.backend.close()
