"""Requests off the wire: a frame becomes its fields, and no more of it becomes objects.

Four million empty maps fit into a frame and fill 280 MB as Python objects. So what no operation
knows is passed over, a scalar is not made where a container stands, and a long filter is decoded
against its type.
"""

from typing import Annotated, Any, Final

import msgspec

from zstream import wire
from zstream.errors import BadFilter, BadRequest
from zstream.limits import MAX_FILTER_VALUES, MAX_KEYS

#: Up to so many bytes a filter is decoded whatever it is, for the sake of a better message.
_SHORT_FILTER: Final = 64 << 10

_Scalar = None | bool | int | float | str
_Values = _Scalar | Annotated[list[_Scalar], msgspec.Meta(max_length=MAX_FILTER_VALUES)]
_Filter = Annotated[dict[str, _Values], msgspec.Meta(max_length=MAX_KEYS)]
_decode_filter = msgspec.msgpack.Decoder(_Filter).decode

_NONE: Final = msgspec.Raw(b"")


class _Frame(msgspec.Struct):
    op: str
    id: msgspec.Raw = _NONE
    v: int = wire.VERSION
    events: msgspec.Raw = _NONE
    filter: msgspec.Raw = _NONE
    floor: msgspec.Raw = _NONE
    after: msgspec.Raw = _NONE
    before: msgspec.Raw = _NONE
    limit: msgspec.Raw = _NONE
    missed: msgspec.Raw = _NONE
    producer: msgspec.Raw = _NONE
    run: msgspec.Raw = _NONE
    since: msgspec.Raw = _NONE
    start: msgspec.Raw = _NONE
    until: msgspec.Raw = _NONE


class _Identity(msgspec.Struct):
    id: msgspec.Raw = _NONE


_SCALARS: Final = (
    "after", "before", "floor", "limit", "missed", "producer", "run", "since", "start", "until",
)  # fmt: skip
_decode = msgspec.msgpack.Decoder(_Frame).decode
_decode_identity = msgspec.msgpack.Decoder(_Identity).decode


def decode(payload: bytes) -> _Frame:
    """Read what a request says of itself: ``op``, ``v``, and ``events`` as bytes.

    Raises:
        BadRequest: It is no request, or its ``id`` cannot be echoed.
        DecodeError: Its ``id`` is an extension type.
    """
    try:
        frame = _decode(payload)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"a request is a msgpack map with an 'op' in it: {error}") from error
    if frame.id and not isinstance(_scalar("id", frame.id), int | str | bytes | None):
        raise BadRequest("a request's id is an integer, text or bytes")
    return frame


def fields(frame: _Frame) -> dict[str, Any]:
    """The fields of a request that an operation may want, as far as they are given.

    Raises:
        BadRequest: A field is no scalar.
        BadFilter: The filter is none.
        DecodeError: A field is not msgpack as it is used here.
    """
    found = {name: _scalar(name, raw) for name in _SCALARS if (raw := getattr(frame, name))}
    if frame.filter:
        found["filter"] = _filter(bytes(frame.filter))
    return found


def identity(payload: bytes) -> int | str | bytes | None:
    """The ``id`` of a request, however bad the rest is; None if it has none that is echoed."""
    try:
        raw = _decode_identity(payload).id
        id = _scalar("id", raw) if raw else None
    except (ValueError, RecursionError):  # BadRequest and DecodeError are ValueErrors
        return None
    return id if isinstance(id, int | str | bytes) else None


def _scalar(name: str, raw: msgspec.Raw) -> Any:
    data = bytes(raw)
    if 0x80 <= data[0] <= 0x9F or 0xDC <= data[0] <= 0xDF:
        raise BadRequest(f"{name!r} is neither a map nor an array")
    return wire.unpack(data)


def _filter(data: bytes) -> Any:
    if len(data) <= _SHORT_FILTER:
        return wire.unpack(data)
    try:
        return _decode_filter(data)
    except (ValueError, RecursionError) as error:
        raise BadFilter(f"a filter is a map of scalars or arrays of them: {error}") from error
