"""The walk-through of the README in one terminal, against a daemon that lives as long as it."""

import sys
import threading
from itertools import islice
from typing import Any

from zstream import Client, Tail
from zstream.testing import server

EVENTS: list[dict[str, Any]] = [
    {"kind": "create-repo", "repo": 17, "user": 291, "name": "frist"},
    {"kind": "delete-repo", "repo": 17, "user": 291, "reason": "Made a typo :("},
    {"kind": "watch", "repo": 2842, "user": 291, "owner": 23},
    {"kind": "friend", "user": 291, "friend": 23},
    {"kind": "friend", "user": 23, "friend": 291},
]

BOLD, FAINT, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")  # print() would write twice, and the follower in between


def say(text: str) -> None:
    show(f"\n{BOLD}{text}{PLAIN}")


def code(text: str) -> None:
    show(f"{FAINT}>>>{PLAIN} {text}")


def follow(tail: Tail) -> None:
    for event in islice(tail, 2):
        show(f"      {FAINT}a follower of kind=friend received{PLAIN} {event}")


def main() -> None:
    with server(keys=["kind", "user", "repo"]) as running, Client(running.url) as c:
        say(f"A throw-away daemon listens at {running.url}, in memory, keys kind, user, repo.")
        code("c = Client()")

        say("1. Insert. Each call only queues; flush() waits until all of it is stored.")
        for event in EVENTS:
            code(f"c.insert({event})")
            c.insert(event)
        code("c.flush()")
        c.flush()

        say("2. Query. The newest come first; a list of values means any of them.")
        for text, page in [
            ("c.items()", c.items()),
            ('c.items(kind="friend")', c.items(kind="friend")),
            ('c.items(kind="friend", user=23)', c.items(kind="friend", user=23)),
            ("c.items(user=[23, 291], start=1, end=3)", c.items(user=[23, 291], start=1, end=3)),
        ]:
            code(text)
            for event in page:
                show(f"    {event}")
        code('c.count(kind="friend")')
        show(f"    {c.count(kind='friend')}")

        say("3. Follow. A tail receives what is stored from now on, and nothing else.")
        code('for event in c.tail(kind="friend"): ...')
        tail = c.tail(kind="friend")
        follower = threading.Thread(target=follow, args=(tail,))
        follower.start()
        for event in [
            {"kind": "friend", "user": 7, "friend": 23},
            {"kind": "watch", "user": 7, "repo": 17},
            {"kind": "friend", "user": 23, "friend": 7},
        ]:
            code(f"c.insert({event}, wait=True)")
            show(f"    stored as {c.insert(event, wait=True)}")
        follower.join()
        tail.close()

        info = c.info()
        say(f"Stored {info['stored']} events, refused {info['refused']}. The daemon stops now.")


if __name__ == "__main__":
    main()
