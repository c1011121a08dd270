"""Messages as Flower records. No other module knows Flower's encoding.

Text and numbers travel as canonical JSON in a ConfigRecord. Bytes are joined into one piece for all blobs and one for
the envelope, because Flower makes several requests for every piece. Small pieces are in the same record. Large pieces
are Arrays, which Flower cuts into chunks. A piece is named by its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import ValidationError

from ..canonical import canonical, parse_canonical
from ..errors import Refused
from .envelope import RawEnvelope
from .messages import Attachment, Body

__all__ = [
    "BLOB",
    "ENVELOPE",
    "INLINE_BYTES",
    "RecordDict",
    "attach",
    "attached",
    "from_records",
    "kind_of",
    "to_records",
    "unsealed",
]

ENVELOPE, BLOB = "moonflower.envelope.v2", "moonflower.blob.v1"
_KIND, _JSON, _LOG = "kind", "json", "log"
INLINE_BYTES = 1 << 20
"""Pieces up to this size are in the message's own record: Flower makes one request instead of four."""
A = TypeVar("A", bound=Attachment)
M = TypeVar("M", bound=Body)


def attach(attachment: Attachment, records: RecordDict) -> None:
    """Put an attachment into the records of a message."""
    records.config_records["message"][_LOG] = canonical(attachment.model_dump()).decode()


def attached(kind: type[A], records: RecordDict) -> A:
    """Return the attachment of a message.

    Raises:
        Refused: ``audit.missing``: the message has no attachment, or one of another form.
    """
    try:
        return kind.model_validate(parse_canonical(str(records.config_records["message"][_LOG]).encode()))
    except (KeyError, ValueError):
        raise Refused("audit.missing", "the message carries nothing about the log, or in another form") from None


def to_records(body: Body) -> RecordDict:
    """Return the message as Flower records."""
    plain: dict[str, Any] = {}
    blobs: list[bytes] = []
    sizes: dict[str, int | dict[str, int]] = {}
    pieces: dict[str, bytes] = {}
    # blobs lie in the order in which canonical JSON lists their sizes
    for name, value in sorted(body, key=lambda item: item[0]):
        if isinstance(value, RawEnvelope):
            pieces[ENVELOPE] = value.data
        elif isinstance(value, bytes):
            sizes[name] = len(value)
            blobs.append(value)
        elif isinstance(value, dict) and value and all(isinstance(item, bytes) for item in value.values()):
            parts = sorted(value.items())
            sizes[name] = {key: len(item) for key, item in parts}
            blobs += [item for _, item in parts]
        else:
            plain[name] = value
    if sizes:
        pieces[BLOB] = b"".join(blobs)
    config: dict[str, Any] = {_KIND: body.kind, _JSON: canonical({"fields": plain, "sizes": sizes}).decode()}
    arrays = {stype: _array(stype, data) for stype, data in pieces.items() if len(data) > INLINE_BYTES}
    config |= {stype: data for stype, data in pieces.items() if len(data) <= INLINE_BYTES}
    records = RecordDict({"message": ConfigRecord(config)})
    if arrays:
        records["bytes"] = ArrayRecord(arrays)
    return records


def from_records(kind: type[M], records: RecordDict) -> M:
    """Return the message in ``records``.

    Raises:
        Refused: ``envelope.plaintext``: something else came instead of an envelope;
            ``envelope.malformed``: any other wrong form.
    """
    envelopes = [name for name in kind.model_fields if _is_envelope(kind, name)]
    wrong = "envelope.plaintext" if envelopes else "envelope.malformed"
    try:
        config = records.config_records["message"]
        arrays = records.array_records.get("bytes", {})
        content = parse_canonical(str(config[_JSON]).encode())
        fields, sizes = content["fields"], content["sizes"]
        if config[_KIND] != kind.kind or len(content) != 2 or not (type(fields) is type(sizes) is dict):
            raise Refused("envelope.malformed", f"not a message of kind {kind.kind!r}")
    except (KeyError, ValueError, TypeError):
        raise Refused(wrong, f"not a message of kind {kind.kind!r}") from None
    wanted = {ENVELOPE} if envelopes else set()
    wanted |= {BLOB} if sizes else set()
    pieces = _pieces(config, arrays)
    if {*pieces} != wanted:
        came = ", ".join(sorted(pieces)) or "nothing"
        raise Refused(wrong, f"a {kind.kind} message came with {came}; expected {', '.join(sorted(wanted))}")
    fields |= _split(pieces.get(BLOB, b""), sizes)
    fields |= {name: RawEnvelope(pieces[ENVELOPE]) for name in envelopes}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
        raise Refused("envelope.malformed", f"{kind.kind} message: {where} has the wrong form") from None


def unsealed(vector: NDArray[np.float32]) -> RecordDict:
    """Return a reply with a vector in the clear instead of an envelope, as the drill ``plaintext`` sends it."""
    arrays = ArrayRecord({"update": Array(vector)})
    return RecordDict({"message": ConfigRecord({_KIND: "sealed"}), "bytes": arrays})


def kind_of(records: RecordDict) -> str:
    """Return the kind of message that records claim to be; "" if they name none."""
    config = records.config_records.get("message")
    return str(config.get(_KIND, "")) if config is not None else ""


def _is_envelope(kind: type[Body], name: str) -> bool:
    return name in kind.model_fields and kind.model_fields[name].annotation is RawEnvelope


def _array(stype: str, data: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)


def _pieces(config: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """Return the pieces of bytes by type. A type that came twice, or an array under another name, is malformed."""
    small = {name: value for name, value in config.items() if name not in (_KIND, _JSON, _LOG)}
    large = {array.stype: array.data for name, array in arrays.items() if array.stype == name}
    if len(large) < len(arrays) or {*small} & {*large} or not all(isinstance(data, bytes) for data in small.values()):
        return {"malformed pieces": b""}
    return small | large


def _split(whole: bytes, sizes: Mapping[str, Any]) -> dict[str, bytes | dict[str, bytes]]:
    """Return the joined blobs, split by field.

    Raises:
        Refused: ``envelope.malformed``: the sizes do not add up.
    """
    fields: dict[str, bytes | dict[str, bytes]] = {}
    at = 0

    def take(size: Any) -> bytes:
        nonlocal at
        if type(size) is not int or size < 0:
            raise Refused("envelope.malformed", "the size of a blob is not a whole number of 0 or more")
        at += size
        return whole[at - size : at]

    for name, size in sizes.items():
        fields[name] = {key: take(part) for key, part in size.items()} if isinstance(size, dict) else take(size)
    if at != len(whole):
        raise Refused("envelope.malformed", f"the blobs have {len(whole)} bytes together; their sizes add up to {at}")
    return fields
