"""How callers are told what became of their events."""

import logging

from zstream.confirmation import Refusal
from zstream.errors import Refused
from zstream.source import Keeper

_log = logging.getLogger("zstream")


def refused_error(count: int, refusals: tuple[Refusal, ...]) -> Refused:
    """Make the error that tells of refused events."""
    why = f": {refusals[-1][3]}" if refusals else ""
    return Refused(f"the daemon refused {count} of the events{why}", count=count, refusals=refusals)


def flush_message(pending: int, lost: int, dropped: int, timeout: float, is_connected: bool) -> str:
    """What ``flush`` says of events that are not known to be on disk.

    Args:
        pending: How many may still come.
        lost: How many will not.
        dropped: How many were never sent.
        timeout: Seconds that it waited.
        is_connected: Whether a daemon is there.
    """
    parts = []
    if pending:
        what = "1 event was" if pending == 1 else f"{pending} events were"
        why = "" if is_connected else ": no daemon is connected"
        parts.append(f"{what} not confirmed within {timeout:g} s{why}")
    if lost:
        parts.append(f"{_were(lost)} lost when somebody else took over this client's producer")
    if dropped:
        parts.append(f"{_were(dropped)} dropped because the buffer was full")
    return "; ".join(parts)


def warn_of_end(missing: int, url: str, is_connected: bool, keeper: Keeper | None) -> None:
    """Log what a client that ends leaves behind.

    Args:
        missing: Events that are not known to be on the daemon's disk.
        url: The daemon's.
        is_connected: Whether it is there.
        keeper: What keeps events beyond the end.
    """
    why = "confirmed in time by the daemon" if is_connected else "stored: no daemon"
    if keeper is None:
        _log.warning("%d events were not %s at %s", missing, why, url)
        return
    lost = min(missing, keeper.unwritten)
    if lost:
        _log.warning("%d events were not %s at %s, nor kept: %s", lost, why, url, keeper.problem)
    if missing > lost:
        _log.info(
            "%d events were not %s at %s; they wait in %s for the next client",
            missing - lost, why, url, keeper.path,
        )  # fmt: skip


def _were(count: int) -> str:
    return "1 was" if count == 1 else f"{count} were"
