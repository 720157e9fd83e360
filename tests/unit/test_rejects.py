"""The reject file: every reject is counted, and kept with its reason as far as there is room."""

import base64
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from zstream.errors import BadTime, ConfigError, DecodeError, EventError, TooLarge
from zstreamd import rejects
from zstreamd.rejects import FILE_BYTES, KEPT_BYTES, KEPT_REASON, Rejects


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_a_reject_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    kept = Rejects(str(path))
    kept.keep(EventError("event['a'] is nan"), b"\x81\xa1a\xcb")
    kept.keep(TooLarge("too large: é\ud800"), b"")
    kept.keep(BadTime("no date"), b"\xff")
    kept.keep(DecodeError("no insert"), b"\xff")
    kept.close()
    found = lines(path)
    assert [line["code"] for line in found] == ["bad_event", "too_large", *["bad_request"] * 2]
    assert found[0]["reason"] == "event['a'] is nan"
    assert base64.b64decode(found[0]["data"]) == b"\x81\xa1a\xcb"
    assert found[0]["size"] == 4
    assert datetime.fromisoformat(found[0]["at"]).utcoffset() is not None
    assert kept.count == 4


def test_no_file_is_made_before_the_first_reject(tmp_path: Path) -> None:
    kept = Rejects(str(tmp_path / "rejects.jsonl"))
    kept.flush()
    kept.close()
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_rejects_are_counted(tmp_path: Path) -> None:
    kept = Rejects(None)
    kept.keep(EventError("bad"), b"x")
    kept.flush()
    kept.close()
    assert kept.count == 1


def test_only_the_beginning_of_a_large_reject_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    kept = Rejects(str(path))
    kept.keep(EventError("why " * 1_000), b"x" * (KEPT_BYTES + 1))
    kept.close()
    [line] = lines(path)
    assert line["size"] == KEPT_BYTES + 1
    assert base64.b64decode(line["data"]) == b"x" * KEPT_BYTES
    assert len(line["reason"]) == KEPT_REASON


def test_what_was_kept_can_be_read_after_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    kept = Rejects(str(path))
    kept.keep(EventError("bad"), b"x")
    kept.flush()
    assert len(lines(path)) == 1
    kept.close()


def test_the_file_is_turned_over_and_only_one_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    path.write_bytes(b" " * (FILE_BYTES - 1) + b"\n")  # from an earlier life
    old = tmp_path / "rejects.jsonl.1"
    old.write_text("older")
    kept = Rejects(str(path))
    kept.keep(EventError("the last of the old file"), b"x")
    assert not path.exists()
    kept.keep(EventError("the first of the new file"), b"x")
    kept.close()
    assert old.stat().st_size > FILE_BYTES
    assert old.read_text("ascii").endswith("\n")
    assert [line["reason"] for line in lines(path)] == ["the first of the new file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_once_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    kept = Rejects("/dev/full")
    for _ in range(3):
        kept.keep(EventError("bad"), b"x")
        kept.flush()
    kept.close()
    assert kept.count == 3
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["cannot be written" in record.message for record in errors] == [True]


def test_a_folder_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        Rejects(str(tmp_path / "none" / "rejects.jsonl"))
    with pytest.raises(ConfigError, match="folder"):
        Rejects(str(tmp_path))


def test_the_log_has_a_bounded_rate_and_all_are_told_in_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(rejects.time, "monotonic", lambda: now_s)
    caplog.set_level(logging.WARNING, "zstreamd.rejects")
    kept = Rejects(None)
    for number in range(1_000):
        kept.keep(EventError(f"the reason of {number}"), b"x")
    assert ["the reason of 0" in record.message for record in caplog.records] == [True]
    now_s += rejects.LOG_EVERY_S
    kept.keep(EventError("y" * 10_000), b"x")
    assert "refused 1000 since the last such line, 1001 in all" in caplog.records[1].message
    assert len(caplog.records[1].message) < 500
    kept.keep(EventError("bad"), b"x")
    kept.close()
    assert caplog.records[2].message == "1 more rejects"
    assert len(caplog.records) == 3
