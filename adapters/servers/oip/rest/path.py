"""Which model a request path means, however it is spelled."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
# Other ways to the same model's outputs: MLServer's and Triton's generate and streams, KServe's V1 and explainers,
# TensorFlow Serving's API as OpenVINO Model Server has it beside v2.
BESIDE = re.compile(
    r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(?:infer_stream|generate|generate_stream|explain)"
    r"|/v1/models/([^/:]+)(?:/(?:versions|labels)/([^/:]+))?:(?:predict|explain|classify|regress)"
)


@dataclass(frozen=True, slots=True)
class Target:
    """The model that a POST would run; `infer` says whether its answer has the form that can be judged."""

    model: str
    version: str
    infer: bool


def plain(raw_path: bytes) -> str:
    """The path that is meant: escapes, doubled and trailing slashes and dot segments are resolved, and what stands behind
    `?` or `#` is left out (a fragment has no place in a request, but uvicorn and other servers cut one off), so that no
    spelling that some server accepts leads past the monitor.
    """
    path = unquote_to_bytes(re.split(rb"[?#]", raw_path, maxsplit=1)[0]).decode("utf-8", "replace")
    return posixpath.normpath("/" + path.lstrip("/"))


def target(raw_path: bytes) -> Target | None:
    """None when the path runs no model."""
    path = plain(raw_path)
    if found := INFER.fullmatch(path):
        return Target(found[1], found[2] or "", infer=True)
    if found := BESIDE.fullmatch(path):
        return Target(found[1] or found[3], found[2] or found[4] or "", infer=False)
    return None
