"""Libraries that replace the threads and sockets of a process, and why that cannot go together."""

import sys
from typing import Final

from zstream.errors import ConfigError

#: Of each library: the module that patches, its question, and what it is asked about.
_PATCHERS: Final = (
    ("gevent.monkey", "is_module_patched", ("threading", "socket")),
    ("eventlet.patcher", "is_monkey_patched", ("thread", "socket")),
)


def check_unpatched() -> None:
    """Refuse a process whose threads or sockets are not real ones.

    Raises:
        ConfigError: gevent or eventlet has patched them.
    """
    for module, question, names in _PATCHERS:
        is_patched = getattr(sys.modules.get(module), question, None)
        if is_patched is None:
            continue
        name = next((name for name in names if is_patched(name)), None)
        if name is not None:
            library = module.partition(".")[0]
            raise ConfigError(
                f"{library} has patched {name!r} in this process, and a zstream client needs a real"
                f" thread: as a green one it would stop all others whenever libzmq waits. Use"
                f" worker processes or threads (gunicorn: --worker-class sync or gthread; Celery:"
                f" --pool prefork or threads), or a process in which {library} has patched nothing"
            )
