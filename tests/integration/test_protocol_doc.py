"""docs/protocol.md against a real daemon: its programs, its vectors and its sentences."""

import ast
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from zstream import wire
from zstream.backends.memory import MemoryBackend
from zstream.limits import MAX_FRAME_BYTES, MAX_FRAME_EVENTS, PROBE_N
from zstream.testing import Server, server
from zstreamd.sockets import Sockets

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
VECTORS: dict[str, Any] = json.loads((ROOT / "docs" / "vectors.json").read_text(encoding="utf-8"))
PROGRAMS = ROOT / "examples" / "protocol"
PATIENCE_S = 20.0

Socket = zmq.Socket[bytes]
Connect = Callable[[int, str], Socket]


def blocks(language: str, section: str) -> list[str]:
    _, _, text = PROTOCOL.partition(f"\n## {section}\n")
    return re.findall(rf"^```{language}\n(.*?)^```$", re.split(r"\n## ", text)[0], re.S | re.M)


PYTHON = "\n\n".join(blocks("python", "A client in Python"))


@pytest.fixture
def daemon() -> Iterator[Server]:
    with server() as running:
        yield running


class Dealer:
    """Requests over a DEALER, which takes whatever comes back."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    def raw(self, *frames: bytes) -> dict[str, Any]:
        self.socket.send_multipart(frames)
        *envelope, reply = self.socket.recv_multipart()
        assert b"" in envelope
        return wire.decode_reply(reply)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.raw(b"", msgpack.packb({"op": op, **fields}))

    def until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for ``info`` until it says what is waited for."""
        limit = time.monotonic() + PATIENCE_S
        while not reached(info := self.ask("info")):
            assert time.monotonic() < limit, info
        return info


@pytest.fixture
def dealer(daemon: Server, zmq_socket: Connect) -> Dealer:
    return Dealer(zmq_socket(zmq.DEALER, daemon.endpoints.query))


@pytest.fixture
def push(daemon: Server, zmq_socket: Connect) -> Socket:
    return zmq_socket(zmq.PUSH, daemon.endpoints.insert)


@pytest.fixture
def sub(daemon: Server, zmq_socket: Connect) -> Socket:
    return zmq_socket(zmq.SUB, daemon.endpoints.publish)


def receive(sub: Socket) -> tuple[bytes, wire.Header, Any]:
    topic, header, body = sub.recv_multipart()
    return topic, wire.decode_header(header), wire.unpack(body)


# ---------------------------------------------------------------- the programs


def run(command: Sequence[str], daemon: Server, **options: Any) -> str:
    environment = os.environ | {"ZSTREAM_URL": daemon.url}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_blocks_print_what_the_document_says(daemon: Server) -> None:
    alone = "import sys\nprint({'zstream', 'zstreamd'} & set(sys.modules))\n"
    printed = run([sys.executable, "-W", "error", "-c", PYTHON + alone], daemon)
    (expected,) = blocks("text", "A client in Python")
    assert printed == expected + "set()\n"


def test_the_python_blocks_are_the_program() -> None:
    program = (PROGRAMS / "client.py").read_text(encoding="utf-8")
    for block in blocks("python", "A client in Python"):
        assert program.count(block) == 1
        program = program.replace(block, "")
    assert re.fullmatch(r'"""[^"]+"""\s+', program)


def test_the_go_blocks_are_in_the_program() -> None:
    program = (PROGRAMS / "go" / "main.go").read_text(encoding="utf-8")
    found = blocks("go", "A client in Go")
    assert len(found) > 3
    for block in found:
        for part in block.split("\n\n"):
            assert part.rstrip() in program


@pytest.fixture(scope="module")
def go() -> Callable[..., None]:
    """Runs go on the Go program. No CI depends on it: without go, modules or time, it skips."""
    found = shutil.which("go")
    if found is None:
        pytest.skip("there is no go on the PATH")

    def run_go(*arguments: str) -> None:
        command = [found, *arguments]
        try:
            done = subprocess.run(
                command, cwd=PROGRAMS / "go", capture_output=True, text=True, timeout=100
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"go {arguments[0]} took more than 100 s")
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        subprocess.run(
            [found, "mod", "download"], cwd=PROGRAMS / "go", check=True, capture_output=True,
            timeout=30,
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        pytest.skip(f"the modules of the Go program cannot be had: {error}")
    return run_go


def test_the_go_program_prints_what_the_document_says(
    go: Callable[..., None], daemon: Server, tmp_path: Path
) -> None:
    program = str(tmp_path / "client")
    go("build", "-mod=readonly", "-o", program, ".")
    assert [run([program], daemon)] == blocks("text", "A client in Go")


def test_the_go_program_knows_the_vectors(go: Callable[..., None]) -> None:
    go("test", "-mod=readonly", "-count=1", ".")


def library(url: str) -> dict[str, Any]:
    """The functions and classes of the Python blocks, without what they do."""
    keep = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(PYTHON)
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, keep)
        or (isinstance(node, ast.Assign) and re.match(r"\(?[A-Z]|context", ast.unparse(node)))
    ]
    names: dict[str, Any] = {}
    before = os.environ.get("ZSTREAM_URL")
    os.environ["ZSTREAM_URL"] = url
    try:
        exec(compile(tree, "protocol.md", "exec"), names)
    finally:
        os.environ.pop("ZSTREAM_URL")
        if before is not None:
            os.environ["ZSTREAM_URL"] = before
    names["ask"] = names["Query"]().ask
    return names


def test_the_python_client_outlives_crashes(tmp_path: Path) -> None:
    with server(store=f"sqlite:///{tmp_path}/store.db") as running:
        client = library(running.url)
        push = client["connect"](zmq.PUSH, client["INSERT"])
        producer = client["Producer"](push)
        live = client["follow"]({"kind": "even"}, client["ask"]("ping")["run"], 0)
        followed, sent = [], 0
        for crash in (True, False, True, None):
            for _ in range(5):
                kinds = ("even", "odd")
                producer.send([{"kind": kinds[n % 2], "n": n} for n in range(sent, sent + 10)])
                sent += 10
            assert producer.flush()["last"] == sent // 10
            # Some are left to be found after the crash.
            followed += islice(live, sent // 2 - len(followed) - (crash is not None) * 7)
            if crash is not None:
                running.restart(kill=crash)
        live.close()
        producer.acks.close()
        push.close()
        client["context"].destroy(linger=0)
    assert [event["n"] for _, _, _, event in followed] == list(range(0, sent, 2))
    assert [id for _, id, _, _ in followed] == list(range(1, sent, 2))


# ---------------------------------------------------------------- the vectors


def test_the_exchanges(dealer: Dealer) -> None:
    for case in VECTORS["exchanges"]:
        reply = dealer.raw(b"", bytes.fromhex(case["request"]))
        told = reply["error"]["code"] if not reply["ok"] else None
        assert told == case.get("code"), (case["name"], reply)
        expected = case.get("reply", {})
        assert {name: reply.get(name) for name in expected} == expected, case["name"]


def test_the_frames(dealer: Dealer, push: Socket) -> None:
    # In the vectors the clock stands still, in 2015; what is ahead of it is not ahead of ours.
    frames = [case for case in VECTORS["frames"] if not case["name"].endswith("24 h ahead")]
    for case in frames:
        push.send(bytes.fromhex(case["frame"]))
    stored = [each for case in frames for each in case["stored"]]
    refused = sum(len(case["refused"]) for case in frames)
    info = dealer.until(lambda info: info["received"] >= len(stored) + refused)
    assert (info["stored"], info["refused"]) == (len(stored), refused)
    dealer.socket.send_multipart([b"", msgpack.packb({"op": "replay"})])
    reply, place = dealer.socket.recv_multipart()[1], 0
    for id, (date, body) in enumerate(stored, 1):
        start = wire.pack_entry(id, date or 0, b"")[: None if date is not None else 10]
        found = reply.index(start, place)
        place = reply.index(bytes.fromhex(body), found)


def test_the_topics(zmq_socket: Connect) -> None:
    with server(keys=VECTORS["keys"]) as running:
        sub = zmq_socket(zmq.SUB, running.endpoints.publish)
        expected = {bytes.fromhex(case["topic"]): case.get("code") for case in VECTORS["topics"]}
        for topic in expected:
            sub.subscribe(topic)
        answers: dict[bytes, str | None] = {}
        while len(answers) < len(expected):
            topic, header, body = receive(sub)
            answers.setdefault(topic, body["code"] if header.type == wire.ERR else None)
            if header.type == wire.ERR:
                assert (header.prev, header.id) == (0, 0)
            else:
                assert header.type in (wire.HELLO, wire.BEAT)
        assert answers == expected
        sub.close()


# ---------------------------------------------------------------- its sentences


def test_info_has_the_documented_fields(dealer: Dealer) -> None:
    _, _, section = PROTOCOL.partition("\n### info\n")
    rows = re.findall(r"^\| (`.*?) \|", section.split("\n### ")[0], re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert dealer.ask("info").keys() - {"ok", "run", "head"} == documented


def test_the_operations_are_those_of_the_daemon(dealer: Dealer) -> None:
    documented = re.findall(r"^### (\w+)$", PROTOCOL, re.M)
    message = dealer.ask("nothing")["error"]["message"]
    assert sorted(message.split("known are: ")[1].split(", ")) == sorted(documented)


def test_holes_that_were_filled_are_counted(dealer: Dealer) -> None:
    for missed in (True, False, True):
        assert dealer.ask("replay", missed=missed)["ok"]
    assert dealer.ask("replay")["ok"]
    assert dealer.ask("replay", missed=1)["error"]["code"] == "bad_request"
    assert dealer.ask("replay", missed=True, after=9)["error"]["code"] == "cursor_lost"
    assert dealer.ask("info")["heals"] == 2


def test_envelopes_come_back_and_their_number_is_bounded(dealer: Dealer) -> None:
    request = msgpack.packb({"op": "ping"})
    path = [b"%d" % n for n in range(15)]
    dealer.socket.send_multipart([*path, b"", request])
    assert dealer.socket.recv_multipart()[:-1] == [*path, b""]
    for frames in ([*path, b"16", b"", request], [request], [b"", request, request], [b""]):
        assert dealer.raw(*frames)["error"]["code"] == "bad_request"


def test_a_relaxed_req_goes_on_after_a_timeout(daemon: Server, zmq_context: zmq.Context) -> None:
    socket = zmq_context.socket(zmq.REQ)
    socket.linger, socket.rcvtimeo = 0, 10_000
    socket.req_relaxed = socket.req_correlate = 1
    socket.connect(daemon.endpoints.query)
    for n in range(3):
        socket.send(msgpack.packb({"op": "ping", "id": n}))  # nobody waits for the first two
    assert wire.decode_reply(socket.recv())["id"] == 2
    socket.close()


def test_what_is_too_large_resets_the_connection_only(
    dealer: Dealer, push: Socket, daemon: Server, zmq_socket: Connect
) -> None:
    def blob(size: int) -> bytes:
        return b"\xc6" + struct.pack(">I", size - 5) + bytes(size - 5)

    push.send(blob(MAX_FRAME_BYTES))
    dealer.until(lambda info: info["refused"] == 1)
    push.send(blob(MAX_FRAME_BYTES + 1))
    again = zmq_socket(zmq.PUSH, daemon.endpoints.insert)
    again.send(b"\x80")
    info = dealer.until(lambda info: info["stored"] == 1)
    assert info["refused"] == 1
    head = msgpack.packb({"op": "ping"})[1:]
    fits = b"\x82" + head + b"\xa1x" + blob(MAX_FRAME_BYTES - len(head) - 3)
    assert len(fits) == MAX_FRAME_BYTES
    assert dealer.raw(b"", fits)["ok"]


def test_an_insert_of_too_many_stores_none_and_a_frame_the_first(
    dealer: Dealer, push: Socket
) -> None:
    events: list[dict[str, Any]] = [{}] * (MAX_FRAME_EVENTS + 1)
    assert dealer.ask("insert", events=events)["error"]["code"] == "bad_event"
    assert dealer.ask("ping")["head"] == 0
    push.send(msgpack.packb(events))
    dealer.until(lambda info: info["stored"] == MAX_FRAME_EVENTS)


def numbered(
    producer: bytes, epoch: int, n: int, events: list[Any], count: int | None = None
) -> list[bytes]:
    body = msgpack.packb(events)
    size = len(events) if count is None else count
    return frames(producer, epoch, n, size, body)


def frames(producer: bytes, epoch: int, n: int, count: int, body: bytes) -> list[bytes]:
    fields = (b"ZI", 1, 0, producer, epoch, n, count, zlib.crc32(body))
    return [struct.pack(">2sBB16sIQII", *fields), body]


def sent_n(batch: list[bytes]) -> int:
    return int.from_bytes(batch[0][24:32], "big")


def test_batches_are_confirmed_as_documented(dealer: Dealer, push: Socket, sub: Socket) -> None:
    producer = os.urandom(16)
    topic = b"@" + producer.hex().encode()
    sub.subscribe(topic)

    def answer(epoch: int, n: int, events: list[Any], **more: int) -> tuple[Any, ...]:
        return reply_to(numbered(producer, epoch, n, events, **more))

    def reply_to(batch: list[bytes]) -> tuple[Any, ...]:
        push.send_multipart(batch)
        name, header, body = receive(sub)
        assert (name, header.prev, header.id) == (topic, 0, body["last"])
        assert body.get("n") == (sent_n(batch) if header.type == wire.NACK else None)
        return wire.TYPE_NAMES[header.type], body["last"], body["epoch"], body.get("code")

    _, first, body = receive(sub)
    told = {"epoch": 0, "last": 0, "refused": 0, "durability": "unsynced"}
    assert (first.type, body) == (wire.ACK, told)
    assert answer(0, 1, [{}, {}]) == ("ACK", 1, 0, None)
    assert answer(0, 1, [{}, {}]) == ("ACK", 1, 0, None)
    assert answer(0, 3, [{}]) == ("NACK", 1, 0, "gap")
    assert answer(0, 2, [{}], count=2) == ("NACK", 1, 0, "bad_batch")
    for count, body in ((3, b"\x93\x80"), (1, b"\x91\x80\x80"), (1, b"\x80")):
        broken = frames(producer, 0, 2, count, body)
        assert reply_to(broken) == ("NACK", 1, 0, "bad_batch")
    assert answer(1, 9, [{}]) == ("NACK", 1, 1, "gap")
    assert answer(0, 2, [{}]) == ("NACK", 1, 1, "fenced")
    assert answer(1, 2, [{}, 1, [-1, {}]]) == ("ACK", 2, 1, None)
    assert answer(1, 3, []) == ("ACK", 3, 1, None)
    assert reply_to(frames(producer, 1, 4, 2, b"\x92\x80")) == ("ACK", 4, 1, None)
    mark = dealer.ask("watermark", producer=producer)
    assert (mark["epoch"], mark["last"], mark["refused"]) == (1, 4, 3)
    refusals = [[2, 1, "bad_event"], [2, 2, "bad_request"], [4, 1, "bad_event"]]
    assert [row[:3] for row in mark["refusals"]] == refusals
    info = dealer.ask("info")
    counts = [info[name] for name in ("received", "stored", "refused", "duplicates", "nacked")]
    assert counts == [11, 4, 7, 2, 3]
    assert answer(1, PROBE_N, []) == ("NACK", 4, 1, "gap")
    assert answer(0, PROBE_N, []) == ("NACK", 4, 1, "fenced")
    push.send_multipart(numbered(os.urandom(16), 0, PROBE_N, []))
    assert answer(1, PROBE_N, [{}]) == ("NACK", 4, 1, "gap")
    after = dealer.ask("info")
    assert [after[name] for name in ("commits", "producers", "stored")] == [
        info[name] for name in ("commits", "producers", "stored")
    ]
    assert answer(2, PROBE_N, []) == ("NACK", 4, 2, "gap")
    assert answer(1, 5, [{}]) == ("NACK", 4, 2, "fenced")
    assert dealer.ask("info")["commits"] == info["commits"] + 1


def test_bad_batch_headers_are_kept_as_rejects(dealer: Dealer, push: Socket) -> None:
    bad = VECTORS["bad_batch_headers"]
    for case in bad:
        push.send_multipart([bytes.fromhex(case["header"]), b"\x91\x80"])
    push.send_multipart([b"a", b"b", b"c"])
    info = dealer.until(lambda info: info["received"] == len(bad) + 1)
    assert info["refused"] == len(bad) + 1


def test_one_connection_keeps_its_order(dealer: Dealer, push: Socket) -> None:
    producer = os.urandom(16)
    for n in range(500):
        push.send(msgpack.packb({"n": n}))
    push.send_multipart(numbered(producer, 0, 1, [{"n": 500}, {"n": 501}]))
    limit = time.monotonic() + PATIENCE_S
    while not dealer.ask("watermark", producer=producer)["last"]:
        assert time.monotonic() < limit
    events = dealer.ask("replay")["events"]
    assert [(id, event["n"]) for id, _, event in events] == [(n + 1, n) for n in range(502)]


def test_the_chain_of_a_topic(dealer: Dealer, push: Socket, sub: Socket) -> None:
    dealer.ask("insert", events=[{"kind": "before"}])
    sub.subscribe(b'{"kind": "wanted"}')
    _, hello, body = receive(sub)
    assert (hello.type, hello.prev, hello.id, body) == (wire.HELLO, 1, 1, {})
    large = {"kind": "wanted", "text": "x" * 40_000}
    dealer.ask("insert", events=[large, {"kind": "other"}, large, {"kind": "other"}])
    _, first, one = receive(sub)
    _, second, two = receive(sub)
    assert (first.type, first.prev, first.id) == (wire.DATA, 1, 2)
    assert (second.type, second.prev, second.id) == (wire.DATA, 2, 5)
    assert [event for _, _, event in one + two] == [large, large]
    assert [id for id, _, _ in one + two] == [2, 4]
    _, beat, body = receive(sub)
    assert (beat.type, beat.prev, beat.id, body) == (wire.BEAT, 5, 5, {})
    assert beat.run == dealer.ask("ping")["run"]


def test_a_daemon_says_bye(daemon: Server, dealer: Dealer, sub: Socket) -> None:
    sub.subscribe(b"{}")
    assert receive(sub)[1].type == wire.HELLO
    dealer.ask("insert", events=[{}])
    assert receive(sub)[1].type == wire.DATA
    assert daemon.stop() == 0
    types = [(header := receive(sub)[1]).type]
    while types[-1] == wire.BEAT:
        types.append((header := receive(sub)[1]).type)
    assert types[-1] == wire.BYE
    assert (header.prev, header.id) == (1, 1)


def test_a_misspelt_topic_reaches_whoever_it_begins_with(
    sub: Socket, zmq_socket: Connect, daemon: Server
) -> None:
    sub.subscribe(b"{}")
    assert receive(sub)[1].type == wire.HELLO
    other = zmq_socket(zmq.SUB, daemon.endpoints.publish)
    other.subscribe(b"{} ")
    while (received := receive(sub))[0] == b"{}":
        assert received[1].type == wire.BEAT
    assert (received[0], received[1].type) == (b"{} ", wire.ERR)


def test_a_walk_is_not_shifted_and_start_goes_on_by_what_was_skipped(dealer: Dealer) -> None:
    def event(n: int) -> dict[str, Any]:  # each key matches half of them, both match 1 in 100
        return {"kind": n % 100 < 55, "user": n % 100 >= 54}

    total = MemoryBackend.BUDGET * 5 // 2
    for first in range(0, total, 10_000):
        dealer.ask("insert", events=[[n, event(n)] for n in range(first, first + 10_000)])
    rare = [n for n in reversed(range(total)) if n % 100 == 54]
    found: list[int] = []
    start = skip = MemoryBackend.BUDGET * 9 // 400  # beyond the work of one page
    before, shorts = None, 0
    while len(found) < 40:
        page = dealer.ask(
            "items", filter={"kind": True, "user": True}, start=start, limit=40 - len(found),
            before=before,
        )  # fmt: skip
        found += [ts for _, ts, _ in page["events"]]
        shorts += page["skipped"] < start
        start, before = start - page["skipped"], page["next"]
        dealer.ask("insert", events=[[total, event(54)], [rare[skip] - 1, event(54)]])
    assert found == rare[skip : skip + 40]
    assert shorts > 0


def test_the_daemon_sends_no_heartbeats_of_its_own() -> None:
    # libzmq's PING goes to ZMTP 3.0 peers too; go-zeromq's REQ takes it for the reply.
    sockets = Sockets()
    for socket in (sockets.query, sockets.insert, sockets.publish):
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
    sockets.close()
