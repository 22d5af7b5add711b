"""Which model a request path means, however it is spelled."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import unquote

INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
# Other ways to the same model's outputs: MLServer's and Triton's generate and streams, KServe's V1 and explainers.
BESIDE = re.compile(
    r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(?:infer_stream|generate|generate_stream|explain)"
    r"|/v1/models/([^/:]+):(?:predict|explain)"
)


@dataclass(frozen=True, slots=True)
class Target:
    """The model that a POST would run; `infer` says whether its answer has the form that can be judged."""

    model: str
    version: str
    infer: bool


def target(raw_path: bytes) -> Target | None:
    """None when the path runs no model. Escapes, doubled and trailing slashes and dot segments are resolved first, so that
    no spelling that some server accepts leads past the monitor.
    """
    path = posixpath.normpath("/" + unquote(raw_path.decode("latin-1")).lstrip("/"))
    if found := INFER.fullmatch(path):
        return Target(found[1], found[2] or "", infer=True)
    if found := BESIDE.fullmatch(path):
        return Target(found[1] or found[3], found[2] or "", infer=False)
    return None
