"""How callers are told what became of their events."""

from zstream.confirmation import Refusal
from zstream.errors import Refused


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


def _were(count: int) -> str:
    return "1 was" if count == 1 else f"{count} were"
