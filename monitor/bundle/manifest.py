"""What a bundle says about itself. Its raw bytes are the bundle's identity."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NoReturn

from pydantic import Field, ValidationError

from demur.monitor.config.decoding import Decoding
from demur.monitor.config.document import Section
from demur.monitor.errors import BundleError, UnsupportedSchema

SCHEMA = 1
EMPTY = "calibration_groups_without_rows"  # among the counts, where there are any


class SignalEntry(Section):
    """A signal of the contract: width, dtype, kind, and its range over the calibration rows, the model's output it is."""

    name: str
    width: int = Field(ge=1)
    dtype: Literal["FP32"] = "FP32"
    kind: str
    low: float | None = None
    high: float | None = None
    output: str | None = None  # left out when None, so that bundles without it keep their bytes


class OriginEntry(Section):
    """Where the signals came from, as far as their tables said: the decoding part of the signal map and its digest, and the
    SHA-256 of the model's file as it was before it was instrumented.
    """

    decoding: dict[str, Any] = Field(default_factory=dict)
    decoding_digest: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    model: str = Field("", pattern=r"^([0-9a-f]{64})?$")


class ScoreEntry(Section):
    """A fitted score: its parameters are the graph's initializers of the same name.

    `state_bytes` of them, `multiply_adds` of matrix products for one row: 0 where the score reads other columns.
    """

    name: str
    type: str
    settings: dict[str, Any]
    parameters: list[str]
    source: str
    scales: str
    state_bytes: int = Field(0, ge=0)
    multiply_adds: int = Field(0, ge=0)


class SlicesEntry(Section):
    """The signal whose codes slice a column, those that calibration had, and what rows with another code get."""

    signal: str
    codes: list[int] = Field(min_length=1, max_length=256)
    others: Literal["pooled", "unavailable"]


class ColumnEntry(Section):
    """A calibrated column: how many units its p-values come from, in all or of each slice."""

    name: str
    score: str
    unit: Literal["row", "group", "stream"]
    aggregate: Literal["max", "mean"] | None = None
    sliced: bool = False
    units: list[int]
    slices: SlicesEntry | None = None  # left out when None, as above


class RuleEntry(Section):
    """A rule as promised and as calibrated; thresholds of null never refuse."""

    name: str
    column: str
    unit: Literal["row", "group", "stream"]
    reason: Literal[1, 2, 4, 8, 16, 32]
    thresholds: list[float | None] = Field(min_length=1)
    pooled: list[bool] = Field(min_length=1)
    promise: dict[str, Any]
    statement: str
    level: float | None = None


def rules_digest(rules: Sequence[RuleEntry]) -> str:
    """SHA-256 (hex) over the ordered rules as promised and as calibrated.

    A selective-risk promise is about what the whole policy accepts: it holds only together with exactly these rules.
    """
    document = [r.model_dump(mode="json") for r in rules]
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class MemberEntry(Section):
    """A file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(Section):
    """Everything but the numbers."""

    schema_version: Literal[1] = 1
    kind: Literal["rows", "stream"]
    monitor: str = Field(min_length=1, max_length=63)
    version: int = Field(ge=1)
    demur: str
    model: dict[str, Any]
    signals: list[SignalEntry]
    scores: list[ScoreEntry]
    columns: list[ColumnEntry]
    rules: list[RuleEntry] = Field(max_length=62)
    statements: list[str]
    cautions: list[str]
    policy: dict[str, Any]
    policy_digest: str
    rules_digest: str
    digests: dict[str, str]
    counts: dict[str, int]
    findings: list[str] = Field(default_factory=list)
    state_size: int = Field(0, ge=0)
    on_failure: Literal["block", "pass"] = "block"
    tolerance: float = Field(1e-5, gt=0, le=1e-3)
    environment: dict[str, str]
    members: dict[str, MemberEntry]
    origin: OriginEntry | None = None  # left out when None, so that bundles without it keep their bytes

    @cached_property
    def decoding(self) -> Decoding:
        """How the signals of the tables were decoded; empty when they were the model's outputs as they are, or nobody knows."""
        return Decoding({} if self.origin is None else self.origin.decoding)

    def encode(self) -> bytes:
        """The manifest's bytes: sorted keys, two-space indent, so that people can read and diff it."""
        document = self.model_dump(mode="json")
        for signal in document["signals"]:
            if signal["output"] is None:
                del signal["output"]
        for column in document["columns"]:
            if column["slices"] is None:
                del column["slices"]
        if document["origin"] is None:
            del document["origin"]
        return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def decode(raw: bytes) -> Manifest:
        """Raises: UnsupportedSchema for another schema version, BundleError for anything that is not a manifest."""
        try:
            document = json.loads(raw, parse_constant=_refuse, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"manifest.json is not JSON: {error}; the bundle is damaged, build it again") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA:
            raise UnsupportedSchema(
                f"expected schema_version {SCHEMA}, got {version!r}; use a demur that writes and reads the same schema"
            )
        try:
            manifest = Manifest.model_validate(document)
        except ValidationError as error:
            raise BundleError(f"manifest.json does not follow schema {SCHEMA}: {error}") from None
        if manifest.rules_digest != rules_digest(manifest.rules):
            raise BundleError(
                "the rules are not those the promises were calibrated under; run `demur calibrate` after changing a rule"
            )
        if manifest.origin is not None:
            _check_origin(manifest.origin)
        return manifest


def _check_origin(origin: OriginEntry) -> None:
    """Raises: BundleError."""
    try:
        decoding = Decoding.parse(origin.decoding)
    except ValueError as error:
        raise BundleError(f"origin.decoding is no part of a signal map: {error}; build the bundle again") from error
    if origin.decoding_digest != (decoding.digest if decoding else ""):
        raise BundleError("origin.decoding does not have the digest that stands beside it; build the bundle again")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
