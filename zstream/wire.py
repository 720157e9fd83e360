"""The wire: frames to values and back. Pure functions; `docs/protocol.md` is their specification.

Headers are fixed and big-endian, bodies are msgpack. Nothing else in zstream packs or unpacks.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from zstream import errors

VERSION: Final = 1

Pairs = Iterable[tuple[str, Any]]

# ---------------------------------------------------------------- values


def _refuse_ext(code: int, data: bytes) -> Any:
    raise errors.DecodeError(f"msgpack extension type {code} is not used here")


def pack(value: Any, *, raw: bool = False) -> bytes:
    """Pack one value; TypeError, ValueError or OverflowError for what msgpack cannot hold.
    With ``raw`` text and bytes are one type, as in the msgpack that Redis' Lua reads."""
    return msgpack.packb(value, use_bin_type=not raw)  # type: ignore[no-any-return]


def unpack(data: bytes, pairs_hook: Callable[[Pairs], Any] | None = None) -> Any:
    """Unpack exactly one value, strictly: text keys only, no extension types.

    Args:
        data: The bytes.
        pairs_hook: Makes what a map becomes from its pairs, in their order; None makes a dict.

    Raises:
        DecodeError: The bytes are not one such value.
    """
    try:
        return msgpack.unpackb(
            data, strict_map_key=True, ext_hook=_refuse_ext, object_pairs_hook=pairs_hook
        )
    except errors.DecodeError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise errors.DecodeError(f"not msgpack: {str(error) or type(error).__name__}") from error


def unique(pairs: Pairs) -> dict[str, Any]:
    """Make a dict of pairs; ValueError if a name stands twice."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r:.60} stands twice")
        result[name] = value
    return result


def split_array(frame: bytes, most: int) -> tuple[list[bytes], str | None]:
    """Cut an array into the bytes of its elements, as far as it can be read.

    Args:
        frame: The array.
        most: So many elements are read at the most.

    Returns:
        The elements, and why the rest could not be read, or None.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(frame))
    unpacker.feed(frame)
    elements: list[bytes] = []
    try:
        count, start = unpacker.read_array_header(), unpacker.tell()
        for _ in range(min(count, most)):
            unpacker.skip()
            elements.append(frame[start : (start := unpacker.tell())])
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        return elements, f"not msgpack: {str(error) or type(error).__name__}"
    if count > most:
        return elements, f"{count} elements; at most {most} are taken"
    rest = len(frame) - start
    return elements, f"{rest} bytes after the end of the array" if rest else None


def array_header(count: int) -> bytes:
    """The msgpack header of an array of so many elements."""
    if count < 16:
        return bytes((0x90 | count,))
    return struct.pack(">BH", 0xDC, count) if count < 65536 else struct.pack(">BI", 0xDD, count)


_ENTRY = struct.Struct(">BBQBQ").pack


def pack_entry(id: int, ts: int, body: bytes) -> bytes:
    """Pack one ``[id, ts, event]`` from an event that is packed already."""
    return _ENTRY(0x93, 0xCF, id, 0xCF, ts) + body


def pack_entries(ids: Sequence[int], ts: Sequence[int], bodies: Sequence[bytes]) -> bytes:
    """Pack an array of ``[id, ts, event]`` from events that are packed already."""
    entries = map(pack_entry, ids, ts, bodies)
    return b"".join((array_header(len(ids)), *entries))


# ---------------------------------------------------------------- queries


def encode_request(
    op: str, id: int, fields: Mapping[str, Any], packed: Mapping[str, bytes] | None = None
) -> bytes:
    """Pack a request from values, and from values that are packed already.

    ``id`` comes back in the reply.
    """
    return _pack_map({"op": op, "id": id, "v": VERSION, **fields}, packed or {})


def encode_reply(fields: Mapping[str, Any], packed: Mapping[str, bytes] | None = None) -> bytes:
    """Pack a reply from values, and from values that are packed already."""
    return _pack_map({"ok": True, **fields}, packed or {})


def _pack_map(fields: Mapping[str, Any], packed: Mapping[str, bytes]) -> bytes:
    size = len(fields) + len(packed)
    parts = [bytes((0x80 | size,)) if size < 16 else struct.pack(">BH", 0xDE, size)]
    for name, value in fields.items():
        parts += (pack(name), pack(value))
    for name, data in packed.items():
        parts += (pack(name), data)
    return b"".join(parts)


def encode_error(error: errors.Error, id: object = None) -> bytes:
    """Pack the reply that tells of an error."""
    what: dict[str, Any] = {"code": error.code or "internal", "message": str(error)}
    retry_s = getattr(error, "retry_s", None)
    if retry_s is not None:
        what["retry_ms"] = round(retry_s * 1000)
    reply: dict[str, Any] = {"ok": False, "error": what}
    return pack(reply if id is None else {**reply, "id": id})


def decode_reply(frame: bytes) -> dict[str, Any]:
    """Unpack a reply.

    Raises:
        DecodeError: It is no reply.
    """
    return _reply(unpack(frame))


def _reply(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        raise errors.DecodeError("the daemon's reply is not a zstream reply")
    return reply


def split_reply(frame: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """Unpack a reply but for one field, whose bytes are given as they are; DecodeError."""
    unpacker = msgpack.Unpacker(ext_hook=_refuse_ext, max_buffer_size=len(frame))
    unpacker.feed(frame)
    parts = {}
    try:
        for _ in range(unpacker.read_map_header()):
            key, start = unpacker.unpack(), unpacker.tell()
            unpacker.skip()
            parts[key] = frame[start : unpacker.tell()]
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise errors.DecodeError(f"not msgpack: {str(error) or type(error).__name__}") from error
    packed = parts.pop(name, b"")
    return _reply({key: unpack(part) for key, part in parts.items()}), packed


def reply_error(reply: Mapping[str, Any]) -> errors.Error | None:
    """The exception that a reply stands for, or None if it is a good one."""
    if reply["ok"]:
        return None
    what = reply.get("error")
    if not isinstance(what, dict):
        return errors.DecodeError("the daemon's error reply has no error")
    retry = what.get("retry_ms")
    return errors.from_wire(
        str(what.get("code")), str(what.get("message")), retry if isinstance(retry, int) else None
    )


# ---------------------------------------------------------------- numbered batches

_BATCH = struct.Struct(">2sBB16sIQII")
BATCH_MAGIC: Final = b"ZI"


class BatchHeader(NamedTuple):
    """What stands before a numbered batch.

    Attributes:
        producer: 16 random bytes that name the producer.
        epoch: A higher one fences lower ones of the same producer.
        n: The batch's number, from 1 without gaps.
        size: Events in the batch.
        crc32: Of the second frame.
    """

    producer: bytes
    epoch: int
    n: int
    size: int
    crc32: int


def encode_batch(producer: bytes, epoch: int, n: int, elements: Sequence[bytes]) -> list[bytes]:
    """Make the two frames of a numbered batch from packed elements."""
    body = array_header(len(elements)) + b"".join(elements)
    return number_batch(producer, epoch, n, len(elements), body)


def number_batch(producer: bytes, epoch: int, n: int, count: int, body: bytes) -> list[bytes]:
    """Make the two frames of a numbered batch from a packed array of so many elements."""
    header = _BATCH.pack(BATCH_MAGIC, VERSION, 0, producer, epoch, n, count, zlib.crc32(body))
    return [header, body]


def decode_batch_header(frame: bytes) -> BatchHeader:
    """Read the first frame of a numbered batch.

    Raises:
        DecodeError: Wrong size, magic or flags, or a number out of range.
        VersionMismatch: Another version of the protocol.
    """
    if len(frame) != _BATCH.size or frame[:2] != BATCH_MAGIC:
        raise errors.DecodeError("two frames, and the first is not the header of a batch")
    _, version, flags, producer, epoch, n, size, crc32 = _BATCH.unpack(frame)
    if version != VERSION:
        raise errors.VersionMismatch(f"batch of protocol version {version}; this is {VERSION}")
    if flags:
        raise errors.DecodeError(f"unknown flags {flags:#x} in the header of a batch")
    if not 1 <= n < 1 << 53:
        raise errors.DecodeError("a batch's number is from 1 to 2^53 - 1")
    return BatchHeader(producer, epoch, n, size, crc32)


def element(body: bytes, ts: int | None) -> bytes:
    """Pack one element of a batch: the event, or ``[ts, event]`` for one with a date."""
    return body if ts is None else b"\x92" + pack(ts) + body


# ---------------------------------------------------------------- publications

_PUBLICATION = struct.Struct(">2sBBHHQQQQ")
PUBLICATION_MAGIC: Final = b"ZT"

DATA, HELLO, BEAT, ACK, NACK, ERR, TOMBSTONE, BYE = range(1, 9)
TYPE_NAMES: Final = dict(
    enumerate(("DATA", "HELLO", "BEAT", "ACK", "NACK", "ERR", "TOMBSTONE", "BYE"), 1)
)


class Header(NamedTuple):
    """The second frame of a publication: complete for its filter from ``prev`` to ``id``.

    Attributes:
        type: One of DATA, HELLO, BEAT, ACK, NACK, ERR, TOMBSTONE, BYE.
        node: The daemon's node.
        run: The store's run.
        prev: The id up to which this topic was complete before.
        id: The id up to which it is complete now; for ACK and NACK the last batch number stored.
        ts: The daemon's clock, in microseconds since 1970 UTC.
    """

    type: int
    node: int
    run: int
    prev: int
    id: int
    ts: int


def encode_header(header: Header) -> bytes:
    """Pack the header of a publication."""
    kind, node, run, prev, id, ts = header
    return _PUBLICATION.pack(PUBLICATION_MAGIC, VERSION, kind, node, 0, run, prev, id, ts)


def decode_header(frame: bytes) -> Header:
    """Read the header of a publication.

    Raises:
        DecodeError: Wrong size or magic.
        VersionMismatch: Another version of the protocol.
    """
    if len(frame) != _PUBLICATION.size or frame[:2] != PUBLICATION_MAGIC:
        raise errors.DecodeError("a publication without a zstream header")
    _, version, kind, node, _, run, prev, id, ts = _PUBLICATION.unpack(frame)
    if version != VERSION:
        raise errors.VersionMismatch(f"publication of version {version}; this is {VERSION}")
    return Header(kind, node, run, prev, id, ts)
