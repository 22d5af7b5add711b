"""Which requests are judged, by method and path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from demur.adapters.servers.oip.rest import path as oip

INFER, BESIDE = re.compile(f"(?:{oip.INFER.pattern})$"), re.compile(f"(?:{oip.BESIDE.pattern})$")
COMPLETIONS = re.compile(r"/(chat/)?completions$")


@dataclass(frozen=True, slots=True)
class Route:
    """`infer` names its model in the path, and so does what lies `beside` it: the same model's answers in forms that cannot
    be judged. Completions, of `chat` or `text`, name it in the request's body.
    """

    kind: Literal["infer", "beside", "chat", "text"]
    model: str = ""
    version: str = ""


def route(method: str, path: str) -> Route | None:
    """The route of a request, None for one that nothing judges. The path may stand behind any prefix, which Envoy may take
    off later.
    """
    if method.upper() != "POST":
        return None
    plain = oip.plain(path.encode("latin-1", "replace"))
    if found := INFER.search(plain):
        return Route("infer", found[1], found[2] or "")
    if found := BESIDE.search(plain):
        return Route("beside", found[1] or found[3], found[2] or found[4] or "")
    if found := COMPLETIONS.search(plain):
        return Route("chat" if found[1] else "text")
    return None
