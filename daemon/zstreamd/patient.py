"""The store as the thread that writes uses it: it waits while the store is away."""

import logging
import threading
from collections.abc import Sequence
from typing import Final

from zstream.backends.base import Backend, Batch, Head
from zstream.errors import BackendError, BackendUnavailable
from zstreamd.outage import Outage
from zstreamd.watch import Patience

#: Seconds between tries while the store is away: doubling from the first to the last.
_RETRY_S: Final = (0.05, 1.0)

_log = logging.getLogger("zstreamd.writer")


class PatientStore:
    """Appends and opens, again and again until it works or there is no more time.

    Args:
        backend: The store, open.
        outage: Is told when it is away, and when it is back.
        patience: Shared with the watch, which ends what takes too long.
    """

    def __init__(self, backend: Backend, outage: Outage, patience: Patience) -> None:
        self._backend, self._outage, self._patience = backend, outage, patience
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Try once more at the most from now on."""
        self._stopping.set()
        self._outage.wake()

    def append(self, batch: Batch) -> None:
        """Store a batch, once.

        Raises:
            BackendError: It came to nothing; of `BackendUnavailable` only after ``stop``.
        """
        tries = _Tries(self._outage, self._stopping)
        while True:
            last_try = self._stopping.is_set()
            try:
                with self._patience.call():
                    if not (tries.count and self._has(batch)):
                        self._backend.append(batch)
                break
            except BackendUnavailable as error:
                tries.failed(error)
                if last_try:
                    raise
        if self._outage.away is not None:
            # As the watch does, and before queries are let in: what was begun meanwhile may hang.
            self._backend.interrupt()
        self._outage.over()

    def _has(self, batch: Batch) -> bool:
        """After a failure whose outcome is unknown: tell whether the batch is there."""
        return bool(batch.bodies) and self._backend.last_id() >= batch.first

    def open_anew(self, keys: Sequence[str], why: BackendError) -> Head:
        """Close the store, which went back to an earlier state, and open it.

        Args:
            keys: Those that it had.
            why: What said that it went back.

        Raises:
            BackendError: As for `append`.
        """
        _log.warning("the store went back, it is opened anew: %s", why)
        tries = _Tries(self._outage, self._stopping)
        while True:
            last_try = self._stopping.is_set()
            try:
                self._backend.close()
                head = self._backend.open(keys)
                break
            except BackendUnavailable as error:
                tries.failed(error)
                if last_try:
                    raise
        self._outage.over()
        return head


class _Tries:
    """The failures of one call that is tried again and again."""

    def __init__(self, outage: Outage, stopping: threading.Event) -> None:
        self._outage, self._stopping = outage, stopping
        self._delay_s, self._longest_s = _RETRY_S
        self.count = 0

    def failed(self, error: BackendError) -> None:
        """Note a failure, and wait until it is time for the next try."""
        self.count += 1
        # The first may be of a connection that has been dead for long, to a store that is there,
        # unless the watch knows better. It is back when something was written, not before.
        if self.count > 1 or self._stopping.is_set() or self._outage.away is not None:
            self._outage.note("append", error)
        if not self._stopping.is_set():
            self._outage.wait(self._delay_s)
            self._delay_s = min(self._delay_s * 2, self._longest_s)
