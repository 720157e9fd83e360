"""Tell the service manager how the daemon is, by systemd's notify protocol."""

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send a state to ``$NOTIFY_SOCKET``; without one do nothing.

    Args:
        state: Assignments, one a line, such as ``READY=1``.
        environ: The environment. A name that begins with ``@`` is an abstract socket.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.sendall(state.encode())
    except (OSError, ValueError) as error:
        log.warning(
            "cannot tell the service manager %s: %s", state.partition("\n")[0], error,
            extra={"event": "notify_failed"},
        )  # fmt: skip
