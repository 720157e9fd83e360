"""Django: an event is inserted when its transaction is committed; a rollback inserts nothing."""

from collections.abc import Callable
from pathlib import Path

from zstream import Client
from zstream.testing import Server

from .recipes import run, write

USE = """
import django

django.setup()

from django.core.management import call_command
from django.test import Client

call_command("migrate", run_syncdb=True, verbosity=0)
browser = Client(headers={"host": "localhost"})
for total, status in (("5.25", 201), ("5000", 403), ("7", 201)):
    assert browser.post("/orders/23", {"total": total}).status_code == status, total

from django.db import transaction

from shop import events
from shop.models import Order

assert Order.objects.count() == 2
with transaction.atomic():
    event = {"kind": "seen", "user": 23}
    events.insert(event, date="2020-01-01T00:00:00Z")
    event["user"] = 24
    events.client.flush()
    assert events.client.count(kind="seen") == 0, "it waits for the commit"
events.client.flush()
assert events.client.count(kind="seen") == 1
events.insert({"kind": "bad", "user": {1, 2}, None: "no key"})  # logged; nothing fails
page = browser.get("/feeds/23").json()
assert [event.get("total") for event in page["events"]] == ["7", "5.25", None], page
"""


def test_transactions(
    daemon: Server, client: Client, tmp_path: Path, needs: Callable[..., None]
) -> None:
    needs("django")
    write("Django", tmp_path)
    environ = "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'shop.settings'\n"
    run(tmp_path, daemon.url, "-c", environ + USE)
    assert client.count() == 3


def test_its_tests(
    daemon: Server, client: Client, tmp_path: Path, needs: Callable[..., None]
) -> None:
    needs("django")
    write("Django", tmp_path)
    command = "-m django test shop --settings shop.settings --pythonpath ."
    run(tmp_path, daemon.url, *command.split())
    assert client.count() == 0
