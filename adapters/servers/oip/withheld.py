"""What a client gets instead of an answer in `enforce` mode."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import grpc
import numpy as np

from demur.adapters.servers.oip.annotation import kinds
from demur.monitor.verdicts import Action, Verdicts

Metadata = tuple[tuple[str, str | bytes], ...]
LONGEST_VALUE = 1024  # characters; gRPC peers accept 8 KiB of metadata by default, upstream's included


@dataclass(frozen=True, slots=True)
class Withheld:
    """A status in place of an answer.

    FAILED_PRECONDITION: a verdict blocks it (no client retries it by itself, and no inference server's transport sends it);
    `demur-reasons` in the trailing metadata tells an abstention from a monitor that could not judge (UNAVAILABLE, INVALID).
    UNAVAILABLE: the audit log cannot take the record and the operator chose to block. INVALID_ARGUMENT: the request
    cannot be read, so no model, and no monitor, could be found for it.
    """

    status: grpc.StatusCode
    details: str
    metadata: Metadata = ()


def blocked(verdicts: Verdicts) -> Withheld:
    """The refusal that these verdicts ask for: one blocked row or group withholds the whole message."""
    units = next(u for u in (verdicts, verdicts.groups) if u is not None and _places(u))
    places = _places(units)
    noun = "row" if units is verdicts else "group"
    sentence = "; ".join(units.reasons[places[0]])
    bits = functools.reduce(operator.or_, (int(units.reason_bits[i]) for i in places))
    return Withheld(
        grpc.StatusCode.FAILED_PRECONDITION,
        _ascii(f"demur: {len(places)} of {len(units)} {noun}s blocked; {noun} {places[0]}: {sentence}"),
        (
            ("demur-verdict", "ABSTAIN"),
            ("demur-action", "BLOCK"),
            ("demur-reasons", ",".join(kinds(bits))),
            ("demur-cause", _ascii(verdicts.cause)),
            ("demur-monitor", _ascii(verdicts.policy.monitor)),
            ("demur-bundle", verdicts.policy.bundle),
            ("demur-sequence", str(verdicts.sequence)),
        ),
    )


def unaudited(verdicts: Verdicts) -> Withheld:
    """The log cannot take the record and the operator chose to block."""
    return Withheld(
        grpc.StatusCode.UNAVAILABLE,
        "demur: the audit log cannot take this verdict and audit.on_failure is block; try again when it can",
        (
            ("demur-verdict", "ABSTAIN"),
            ("demur-action", "BLOCK"),
            ("demur-reasons", "UNAVAILABLE"),
            ("demur-monitor", _ascii(verdicts.policy.monitor)),
            ("demur-bundle", verdicts.policy.bundle),
        ),
    )


def unmapped(model: str) -> Withheld:
    """No monitor stands behind this model and `proxy.unmapped` is block."""
    return Withheld(
        grpc.StatusCode.FAILED_PRECONDITION,
        _ascii(
            f"demur: no monitor is mapped to model {model!r} and proxy.unmapped is block; add it under proxy.models"
        ),
        (("demur-verdict", "ABSTAIN"), ("demur-action", "BLOCK"), ("demur-reasons", "UNAVAILABLE")),
    )


UNREADABLE = Withheld(
    grpc.StatusCode.INVALID_ARGUMENT,
    "demur: expected a ModelInferRequest, got bytes that do not parse as one; no model can be told from them",
    (("demur-verdict", "ABSTAIN"), ("demur-action", "BLOCK"), ("demur-reasons", "UNAVAILABLE")),
)


def _places(verdicts: Verdicts) -> list[int]:
    return [] if verdicts.actions is None else np.flatnonzero(verdicts.actions == Action.BLOCK).tolist()


def _ascii(text: str) -> str:
    """Printable ASCII, as metadata values must be."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:LONGEST_VALUE])
