"""The record: what one leaf of the log says, in fixed fields and at most 4 KiB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from json.encoder import encode_basestring as quoted
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from demur.monitor.audit.canonical import LIMIT, canonical

SCHEMA: Final = "demur.audit/1"
LEAF_BYTES: Final = 4096
REASON_KINDS: Final = 16
_REASON_BYTES: Final = 24
# Escaped UTF-8 bytes a string may take; together with the numbers and field names they stay within 4 KiB.
_ROOM: Final = {
    "action": 24, "block": 66, "bundle": 66, "cause": 514, "commitment": 98, "environment": 66, "mode": 24,
    "model_digest": 130, "model_name": 258, "model_version": 130, "monitor": 194, "note": 514, "request": 386, "target": 66,
}  # fmt: skip

Kind = Literal[
    "verdict", "stream", "refused", "label", "review", "drop", "recovery", "bundle", "start", "stop"
]  # what a record may be about
_NOTHING: Mapping[str, int] = MappingProxyType({})


class InvalidRecord(ValueError):
    """Bytes that are not a leaf this version can have written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event of the log. Identifiers are strings, digests are SHA-256 in lower-case hex, times are Unix nanoseconds.

    `rows` units were judged and `accepted` of them accepted; `reasons` counts abstentions by reason kind. `block` is the
    digest of the verdict block beside the leaf. `target` names another record as "sequence" or "sequence/row" (labels,
    reviews). `count` is how many records a drop stands for. `sequence` (-1: not yet given), `time_ns` (0: when appended)
    and `clock_max_ns` (not 0: the clock stood earlier than this already recorded time) are set by the log.
    """

    kind: Kind
    monitor: str = ""
    bundle: str = ""
    request: str = ""
    model_name: str = ""
    model_version: str = ""
    model_digest: str = ""
    rows: int = 0
    accepted: int = 0
    reasons: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    action: str = ""
    mode: str = ""
    cause: str = ""
    environment: str = ""
    block: str = ""
    commitment: str = ""
    count: int = 0
    target: str = ""
    note: str = ""
    sequence: int = -1
    time_ns: int = 0
    clock_max_ns: int = 0

    def leaf(self) -> bytes:
        """The record's canonical JSON. Strings beyond their room are cut and say by how many characters."""
        return self.leaf_at(self.sequence, self.time_ns, self.clock_max_ns)

    def leaf_at(self, sequence: int, time_ns: int, clock_max_ns: int, block: bytes = b"") -> bytes:
        """The leaf with its place in the log and its block's digest, without copying the record: every request pays."""
        room = _ROOM
        digest = sha256(block).hexdigest() if block else self.block
        return (
            f'{{"accepted":{_number(self.accepted)},"action":{_quoted(self.action, room["action"])}'
            f',"block":{_quoted(digest, room["block"])},"bundle":{_quoted(self.bundle, room["bundle"])}'
            f',"cause":{_quoted(self.cause, room["cause"])},"clock_max_ns":"{clock_max_ns}"'
            f',"commitment":{_quoted(self.commitment, room["commitment"])},"count":"{self.count}"'
            f',"environment":{_quoted(self.environment, room["environment"])},"kind":"{self.kind}"'
            f',"mode":{_quoted(self.mode, room["mode"])},"model_digest":{_quoted(self.model_digest, room["model_digest"])}'
            f',"model_name":{_quoted(self.model_name, room["model_name"])}'
            f',"model_version":{_quoted(self.model_version, room["model_version"])}'
            f',"monitor":{_quoted(self.monitor, room["monitor"])},"note":{_quoted(self.note, room["note"])}'
            f',"reasons":{_counts(self.reasons) if self.reasons else "{}"}'
            f',"request":{_quoted(self.request, room["request"])},"rows":{_number(self.rows)}'
            f',"schema":"{SCHEMA}","sequence":"{sequence}","target":{_quoted(self.target, room["target"])}'
            f',"time_ns":"{time_ns}"}}'
        ).encode()

    def time(self, now_ns: int, clock_max_ns: int) -> tuple[int, int]:
        """(time_ns, clock_max_ns) to record: a time of its own is kept; a clock that went back is marked, not mended."""
        time_ns = self.time_ns or now_ns
        return time_ns, clock_max_ns if time_ns < clock_max_ns else 0

    @classmethod
    def parse(cls, leaf: bytes) -> Record:
        """The record in a leaf. Raises: InvalidRecord unless these are exactly the bytes `leaf` writes."""
        values = _object(leaf)
        if values.pop("schema", None) != SCHEMA:
            raise InvalidRecord(f"audit leaf: expected schema {SCHEMA}; read it with the version that wrote it")
        if set(values) != _NAMES or values["kind"] not in get_args(Kind):
            raise InvalidRecord(f"audit leaf: expected the fields of {SCHEMA}, got {sorted(values)[:30]}")
        try:
            counts = (values["rows"], values["accepted"], *values["reasons"].values())
            same = all(type(count) is int for count in counts)  # 3.0 and true compare equal to integers
            for name in ("sequence", "time_ns", "clock_max_ns", "count"):
                values[name] = int(values[name])
            record = cls(**values)
            same = same and record.leaf() == leaf
        except (TypeError, ValueError, AttributeError):
            same = False
        if not same:
            raise InvalidRecord("audit leaf: not the canonical spelling of its own fields")
        return record


_NAMES = frozenset(f.name for f in fields(Record))


def _object(leaf: bytes) -> dict[str, Any]:
    try:
        values = json.loads(leaf) if len(leaf) <= LEAF_BYTES else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InvalidRecord(f"audit leaf: expected a JSON object of at most {LEAF_BYTES} bytes")
    return values


def bounded(text: str, room: int) -> str:
    """`text` when its quoted UTF-8 spelling takes at most `room` bytes; else its beginning and how much is missing."""
    if len(text) * 6 + 2 <= room and text.isascii():
        return text
    if not _encodable(text):
        text = text.encode("utf-8", "backslashreplace").decode()
    if len(quoted(text).encode()) <= room:
        return text
    low, high = 0, min(len(text), room)
    while low < high:
        keep = (low + high + 1) // 2
        low, high = (keep, high) if len(quoted(_cut(text, keep)).encode()) <= room else (low, keep - 1)
    return _cut(text, low)


def _cut(text: str, keep: int) -> str:
    return f"{text[:keep]}…[+{len(text) - keep}]"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(number: int) -> int:
    return number if 0 <= number < LIMIT else min(max(number, 0), LIMIT - 1)


def _counts(reasons: Mapping[str, int]) -> str:
    named = {bounded(name, _REASON_BYTES): _number(count) for name, count in reasons.items()}
    if len(named) > REASON_KINDS:
        named = {name: named[name] for name in sorted(named)[:REASON_KINDS]}
    return canonical(named).decode()


def _quoted(text: str, room: int) -> str:
    if not text:
        return '""'
    if len(text) + 2 <= room and text.isalnum() and text.isascii():
        return f'"{text}"'
    return quoted(bounded(text, room))
