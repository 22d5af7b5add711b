"""What the client gets instead of an answer: an HTTP status, `demur-*` headers and JSON in the words of its protocol."""

from __future__ import annotations

import json

import grpc

from demur.adapters.servers.ext_proc import reply
from demur.adapters.servers.oip.withheld import Withheld
from demur.proto.envoy.external_processor_pb2 import ProcessingResponse

BROKEN = {"UNAVAILABLE", "INVALID"}
UNJUDGED = 503  # clients may try again: the monitor could not judge
UNREADABLE = 400


def status(withheld: Withheld, blocked: int) -> int:
    """`blocked` for an abstention for reasons of the answer; 503 when nothing could be judged; 400 for what cannot be read."""
    if withheld.status is grpc.StatusCode.INVALID_ARGUMENT:
        return UNREADABLE
    reasons = {r for r in said(withheld).get("demur-reasons", "").split(",") if r}
    return blocked if reasons - BROKEN else UNJUDGED


def said(withheld: Withheld) -> dict[str, str]:
    """Its metadata as headers."""
    return {name: value if isinstance(value, str) else value.decode("latin-1") for name, value in withheld.metadata}


def instead(withheld: Withheld, blocked: int, body: bytes) -> ProcessingResponse:
    """The immediate response."""
    put = said(withheld)
    details = f"demur_{put.get('demur-verdict', 'ABSTAIN')}:{put.get('demur-reasons', '')}"
    if put.get("demur-sequence"):
        details += f":sequence={put['demur-sequence']}"
    return reply.instead(status(withheld, blocked), {"content-type": "application/json", **put}, body, details)


def inference_error(withheld: Withheld) -> bytes:
    """The Open Inference Protocol's error object, with what the headers say beside it."""
    return _json({"error": withheld.details, "demur": _plain(withheld)})


def openai_error(withheld: Withheld) -> bytes:
    """OpenAI's error object, with what the headers say beside it."""
    code = "demur_" + said(withheld).get("demur-verdict", "abstain").lower()
    error = {"message": withheld.details, "type": "demur_error", "param": None, "code": code}
    return _json({"error": error, "demur": _plain(withheld)})


def _plain(withheld: Withheld) -> dict[str, str]:
    return {name.removeprefix("demur-"): value for name, value in said(withheld).items()}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
