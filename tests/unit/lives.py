"""Random lives of a part among models of all others: which ones, and how one is told that fails."""

import os
import random
from collections.abc import Callable, Iterable

#: ``LIVES=1234`` leads that one life, ``LIVES=0-100000`` all of these.
_CHOSEN = os.environ.get("LIVES", "")
_IS_THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


def seeds(count: int) -> Iterable[int]:
    """The seeds of so many lives: the same each time, or a hundred times more and always others."""
    if _CHOSEN:
        first, _, last = _CHOSEN.partition("-")
        return range(int(first), int(last or first) + 1)
    if _IS_THOROUGH:
        begin = random.SystemRandom().randrange(1 << 40)
        return range(begin, begin + 100 * count)
    return range(count)


def lead(life: Callable[[int], None], count: int) -> None:
    """Lead so many lives; what one fails with tells its seed."""
    for seed in seeds(count):
        try:
            life(seed)
        except Exception as error:
            error.add_note(f"life {seed}; LIVES={seed} leads it again")
            raise
