"""Whether upstream refused a call because of outputs that demur asked for, and what its limits have to do with a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc

# Seen: Triton INVALID_ARGUMENT "unexpected inference output 'x' for model 'm'"; MLServer's scikit-learn runtime
# INVALID_ARGUMENT "... only supports 'predict', ... as outputs (x was received)"; runtimes that raise on their own: INTERNAL.
NAMING = frozenset(
    (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,  # what a Python server makes of any exception
    )
)
# C++: "... message larger than max (5 vs. 4)"; Go: "grpc: received message larger than max ..."; Java: "... exceeds maximum size 4: 5".
TOO_LARGE = re.compile(r"larger than max|exceeds? (the )?max", re.IGNORECASE)
LONGEST = 200  # characters of upstream's text in a cause


def rejected(code: grpc.StatusCode, details: str, asking: Iterable[str]) -> str:
    """Why upstream rejected an output that demur asked for beside the client's, or "" when the error is about another thing."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE.search(details):
        return f"the answer with the outputs that the monitor needs is too large ({details[:LONGEST]})"
    if code not in NAMING:
        return ""
    name = next((n for n in asking if names(details, n)), None)
    return "" if name is None else f"upstream rejected output {name} ({details[:LONGEST]})"


def names(text: str, output: str) -> bool:
    """Whether the text has this name as a word of its own, not as part of a longer one.

    ONNX Runtime, and servers that pass its words on, write "Invalid output name:x" without a space.
    """
    return bool(re.search(rf"(?<!\w)((?<=name:)|(?<!\w[./:-])){re.escape(output)}(?!\w|[./:-]\w)", text))


def explained(code: grpc.StatusCode, details: str, target: str, message_bytes: int) -> str:
    """The details, with the side and the limit when a message was too large for one."""
    if code is not grpc.StatusCode.RESOURCE_EXHAUSTED or not TOO_LARGE.search(details):
        return details
    ours = f"demur takes no larger answer than limits.message_bytes = {message_bytes} in demur.yaml"
    theirs = f"upstream {target} takes no larger request"
    if "CLIENT: " in details:
        said = f"{ours}; raise it"
    elif details.startswith("Decompressed"):  # gRPC does not say on which side
        said = f"{ours}, or {theirs}; raise the limit that was met"
    else:
        said = f"{theirs}; raise its own message limit, demur's is {message_bytes}"
    return f"{details} (demur: {said})"
