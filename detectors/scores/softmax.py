"""Softmax probabilities without the digits that 1 - p loses."""

from __future__ import annotations

from demur.detectors.numpy_ops import TINY
from demur.detectors.score import Reference
from demur.detectors.tensor import Ops, T

UP = 2.0**60  # and back: exact


def class_count(reference: Reference, score: str) -> int:
    """C, the width of the logits. Raises: ValueError naming `score` with under 2 classes."""
    width = next(reference.batches("logits", size=1)).signals["logits"].shape[1]
    if width < 2:
        raise ValueError(f"{score}: expected logits of at least 2 classes, got {width}")
    return int(width)


def log_rest(xp: Ops[T], log_p: T) -> T:
    """log(1 - p_max) as the log-sum-exp of the other classes: (N, C) -> (N,), exact where p_max rounds to 1.

    Relative to the second largest: the sum then holds at least one 1 besides the first class, also when they are equal.
    """
    first = xp.max(log_p, keepdims=True)
    pair = xp.top(log_p, 2)
    shares = xp.exp(log_p - xp.min(pair, keepdims=True))
    total = xp.sum(xp.where(xp.greater(first, log_p), shares, 1.0)) - 1.0
    return xp.min(pair) + xp.log(total)  # type: ignore[no-any-return]


def parts(xp: Ops[T], log_p: T) -> tuple[T, T, T]:
    """p_max, the sum and the sum of squares of the other probabilities, (N, C) -> (N,) each."""
    p = xp.exp(log_p)
    first = xp.max(p)
    others = xp.where(xp.greater(p, 0.5), 0.0, p)  # a class above 1/2 is the only one
    again = xp.where(xp.greater(first, 0.5), 0.0, first)
    large = others * UP  # squares of 1e-20 would be subnormal numbers: 42 us a row instead of 5, at C = 1000
    return first, xp.sum(others) - again, xp.sum(large * large) * (1.0 / UP / UP) - again * again


def log_odds(xp: Ops[T], log_p: T) -> T:
    """log((1 - S) / S) with S = sum p^2: 1 - S = r (1 + p_max - q / r), r and q the other classes' sum and squares."""
    first, rest, squares = parts(xp, log_p)
    inner = 1.0 + first - squares / xp.maximum(rest, TINY)
    return log_rest(xp, log_p) + xp.log(inner / (first * first + squares))  # type: ignore[no-any-return]


def log_entropy(xp: Ops[T], log_p: T) -> T:
    """Log of the entropy in nats: relative to the other classes' probability where one class has more than half.

    Its own part there is -p log(1 - r) = p r (1 + r/2 + r^2/3 + ...): from the series below r = 0.01.
    """
    first, top = xp.exp(xp.max(log_p)), xp.max(log_p)
    rest = log_rest(xp, log_p)
    base = xp.where(xp.greater(first, 0.5), rest, 0.0)
    big = xp.greater(xp.exp(log_p), 0.5)
    others = xp.sum(xp.where(big, 0.0, -log_p * xp.exp(log_p - xp.concat([base]))))
    r = xp.exp(rest)
    own = xp.where(xp.greater(r, 0.01), -top / xp.maximum(r, TINY), 1.0 + r * (0.5 + r / 3.0))
    return base + xp.log(others + xp.where(xp.greater(first, 0.5), first * own, 0.0))  # type: ignore[no-any-return]
