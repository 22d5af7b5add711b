"""Token log-probabilities of one choice as the signals that stream scores read."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = -9999.0  # what servers write for "very unlikely"; never a measured log-probability
FLOOR = math.log(float(np.finfo(np.float32).tiny))  # -87.3 nats: below it a float32 softmax knows no probability
SIGNALS = frozenset({"token_logprob", "topk_logprobs", "topk_mask"})


class UnreadableAnswerError(Exception):
    """An answer that cannot be judged; the message becomes the verdict's cause."""


class Tokens:
    """The tokens of one choice so far. `most` alternatives are kept of each, the likeliest.

    Signals: `token_logprob` (L, 1), `topk_logprobs` (L, most), `topk_mask` (L, most) of 0 and 1, float32, nats. A token's
    own log-probability is at least FLOOR: OpenAI writes -9999 for tokens outside the 20 likeliest, which says no more than
    "very unlikely". Alternatives at or below it, and absent ones, are masked.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own, self._top, self._mask = array("f"), array("f"), array("f")

    def __len__(self) -> int:
        return len(self._own)

    @property
    def size(self) -> int:
        """Bytes held."""
        return 4 * (len(self._own) + len(self._top) + len(self._mask))

    @property
    def bare(self) -> bool:
        """Whether no token came with alternatives."""
        return not any(self._mask)

    def add(self, own: Any, top: Iterable[Any]) -> None:
        """One more token. Raises: UnreadableAnswerError for what is no number."""
        value = _number(own)
        known = sorted([v for v in map(_number, top) if not v <= NEVER], reverse=True)[: self._most]
        self._own.append(_narrow(max(value, FLOOR) if not math.isnan(value) else value))
        blank = [0.0] * (self._most - len(known))
        self._top.extend([_narrow(max(v, FLOOR)) if not math.isnan(v) else v for v in known] + blank)
        self._mask.extend([1.0] * len(known) + blank)

    def signals(self, widths: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
        """Those that a monitor of these widths has."""
        count = len(self)
        found = {
            "token_logprob": np.array(self._own, np.float32).reshape(count, 1),
            "topk_logprobs": np.array(self._top, np.float32).reshape(count, self._most),
            "topk_mask": np.array(self._mask, np.float32).reshape(count, self._most),
        }
        return {n: a for n, a in found.items() if n in widths}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnreadableAnswerError(f"expected a number as a log-probability, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise UnreadableAnswerError("a log-probability is larger than any float") from error


def _narrow(value: float) -> float:
    """Within float32, so that a huge claim becomes inf, and the stream INVALID, instead of an error."""
    return value if abs(value) <= 3.4e38 or math.isnan(value) else math.copysign(math.inf, value)
