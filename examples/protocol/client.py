"""The zstream protocol with nothing but pyzmq and msgpack; docs/protocol.md shows it in pieces."""

import json
import os
import struct
import zlib

import msgpack
import zmq

QUERY = os.environ.get("ZSTREAM_URL", "tcp://127.0.0.1:5570")
HOST, _, PORT = QUERY.rpartition(":")
INSERT, PUBLISH = f"{HOST}:{int(PORT) + 1}", f"{HOST}:{int(PORT) + 2}"
DATA, HELLO, BEAT, ACK, NACK, ERR, TOMBSTONE, BYE = range(1, 9)

context = zmq.Context()


def connect(kind, endpoint, *, wait_ms=5_000, linger_ms=0):
    """Make a socket that gives up instead of waiting for ever, and notices a frozen daemon."""
    socket = context.socket(kind)
    socket.rcvtimeo = socket.sndtimeo = wait_ms
    socket.linger = linger_ms
    socket.heartbeat_ivl, socket.heartbeat_timeout = 10_000, 30_000
    socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 10_000
    socket.connect(endpoint)
    return socket


class Query:
    """A REQ, and another one after each timeout."""

    def __init__(self):
        self.socket = connect(zmq.REQ, QUERY)

    def ask(self, op, **fields):
        """Send one request and return the reply."""
        self.socket.send(msgpack.packb({"op": op, **fields}))
        try:
            reply = msgpack.unpackb(self.socket.recv())
        except zmq.Again:
            self.socket.close()
            self.socket = connect(zmq.REQ, QUERY)
            raise TimeoutError(f"no answer to {op}") from None
        if not reply["ok"]:
            raise RuntimeError("{code}: {message}".format(**reply["error"]))
        return reply


ask = Query().ask
print("keys", ask("info")["keys"])


newyear = 1_420_070_400_000_000  # 2015, in microseconds
friends = [
    {"kind": "friend", "user": 23, "friend": 291},
    [newyear, {"kind": "friend", "user": 291, "friend": 23}],
]
print("ids", ask("insert", events=friends)["ids"])

push = connect(zmq.PUSH, INSERT, linger_ms=1_000)
push.send(msgpack.packb({"kind": "watch", "user": 23, "repo": 7}))
push.send(msgpack.packb([{"kind": "watch", "user": 291, "repo": 7}, "no event"]))


class Producer:
    """Numbers batches, and keeps each until it is on disk."""

    def __init__(self, push):
        self.push, self.id, self.n, self.kept = push, os.urandom(16), 0, {}
        self.acks = connect(zmq.SUB, PUBLISH)
        self.acks.subscribe(b"@" + self.id.hex().encode())

    def send(self, events):
        """Number a batch and send it; its bytes never change again."""
        body = msgpack.packb(events)
        self.n += 1
        fields = (b"ZI", 1, 0, self.id, 0, self.n, len(events), zlib.crc32(body))
        self.kept[self.n] = [struct.pack(">2sBB16sIQII", *fields), body]
        self.push.send_multipart(self.kept[self.n])

    def flush(self):
        """Return when all batches are on disk; the reply tells what was refused of them."""
        while self.kept:
            resend = False
            if self.acks.poll(2_000):
                _, header, body = self.acks.recv_multipart()
                (last,) = struct.unpack(">Q", header[24:32])
                if header[3] == NACK:
                    why, resend = msgpack.unpackb(body), True
                    if why["code"] != "gap":
                        raise RuntimeError(why["message"])
            else:  # publications may be lost; the watermark is the truth
                last, resend = ask("watermark", producer=self.id)["last"], True
                if last + 1 < min(self.kept):
                    raise RuntimeError("the store lost what it had confirmed")
            self.kept = {n: frames for n, frames in self.kept.items() if n > last}
            if resend:
                for frames in self.kept.values():
                    self.push.send_multipart(frames)
        return ask("watermark", producer=self.id)


producer = Producer(push)
producer.send([{"kind": "friend", "user": n, "friend": 23} for n in (1, 2, 3)])
producer.send([{"kind": "friend", "user": 4}, {"kind": float("nan")}])
confirmed = producer.flush()
print("last", confirmed["last"], "refused", confirmed["refused"])
print("refusals", confirmed["refusals"])


def walk(filter, size):
    """All events of a slice, newest first, so many at a time."""
    fields = {"filter": filter, "limit": size}
    while True:
        page = ask("items", **fields)
        yield from page["events"]
        if page["next"] is None:
            return
        fields["before"] = page["next"]


for id, _, event in walk({"kind": "friend", "user": [23, 291, 3]}, 2):
    print(id, event)


def publications(topic):
    """What is published under a topic, for ever, over as many connections as it takes."""
    while True:
        sub = connect(zmq.SUB, PUBLISH, wait_ms=15_000)  # three beats
        sub.subscribe(topic)
        try:
            while True:
                name, header, body = sub.recv_multipart()
                if name == topic and header[:3] == b"ZT\x01":
                    _, _, kind, _, _, run, prev, id, _ = struct.unpack(">2sBBHHQQQQ", header)
                    yield kind, run, prev, id, msgpack.unpackb(body)
        except zmq.Again:
            continue
        finally:
            sub.close()


def follow(filter, run, cursor):
    """Yield (run, id, ts, event) above a cursor by rising id, without a hole and without an end.

    The cursor to go on from later is the run and the id of the last one.
    """
    for kind, now, prev, id, body in publications(json.dumps(filter).encode()):
        if kind == ERR:
            raise RuntimeError("{code}: {message}".format(**body))
        if kind not in (DATA, HELLO, BEAT, BYE):
            continue
        if run != now or cursor < prev:  # another life of the store, or a hole
            head = None
            while cursor != head:
                page = ask("replay", filter=filter, after=cursor, run=run)
                for event in page["events"]:
                    yield page["run"], *event
                run, cursor, head = page["run"], page["upto"], page["head"]
        if run == now and cursor < id:
            for event in body:
                if event[0] > cursor:
                    yield run, *event
            cursor = id


page = ask("items", filter={"kind": "watch"}, limit=1)
print("newest", page["events"][0][2])

ask("insert", events=[{"kind": "watch", "user": 1, "repo": 8}])
live = follow({"kind": "watch"}, page["run"], page["head"])
print("from the store", next(live)[3])

ask("insert", events=[{"kind": "friend", "user": 9}, {"kind": "watch", "user": 2, "repo": 8}])
print("live", next(live)[3])
live.close()
