"""The random histories of ``test_model`` over a store in PostgreSQL."""

from contextlib import ExitStack
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from zstream.backends import index_read, postgres_find, postgres_parts, postgres_read
from zstream.backends.postgres import PostgresBackend

from ..servers.postgres import Postgres
from .test_model import Checked, batches, steps


class SmallPostgres(PostgresBackend):
    FIRST_ROWS = 3
    SEAL_ROWS = 7
    BUDGET = 5
    SWEEP_ROWS = 4


class CheckedPostgres(Checked):
    backend: PostgresBackend

    def settle(self) -> None:
        assert self.backend.settle(20.0)


#: What makes small data meet every plan.
SMALL: dict[Any, dict[str, int]] = {
    index_read: {"MERGED_VALUES": 1},
    postgres_find: {"FEW_VALUES": 1, "_TRIED": 2, "_SEEK": 1, "_RARE": 1, "_SPARE": 0, "_LEAST": 1},
    postgres_read: {"_MOST_RUNS": 2, "_GATHERED": 3},
    postgres_parts: {"DENSE_ROWS": 2},
}


@settings(
    max_examples=max(settings().max_examples // 2, 1),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=st.lists(batches, max_size=3), steps=steps)
def test_the_store_answers_as_the_list_does(
    postgres: Postgres, history: list[Any], steps: list[Any]
) -> None:
    schema = postgres.schema()
    with ExitStack() as stack:
        for where, names in SMALL.items():
            stack.enter_context(mock.patch.multiple(where, **names))
        stack.callback(postgres.drop, schema)
        checked = CheckedPostgres(SmallPostgres, postgres.url(schema))
        # Whatever it was closed and opened as in the meantime.
        stack.callback(lambda: checked.backend.close())
        for step in [*history, *steps]:
            note(repr(step))
            checked.step(step)
