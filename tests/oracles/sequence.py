"""Scores of a token stream: the value after each step."""

from __future__ import annotations

import numpy as np

from tests.oracles.sample import Float


def mean_nll(token_logprobs: Float) -> Float:
    """Mean of -log p(token) over the tokens so far, (L,) in nats; not exponentiated."""
    return np.array([-token_logprobs[: t + 1].mean() for t in range(len(token_logprobs))])


def entropy_bounds(top_probabilities: Float, vocabulary: int) -> tuple[float, float]:
    """The least and the greatest entropy, in nats, of a next-token distribution whose k largest probabilities these are.

    With r = 1 - sum p and p_k the smallest: no unseen token exceeds p_k, so the least spread puts r on floor(r / p_k)
    tokens of p_k and one remainder; the greatest spreads r evenly over the V - k unseen tokens.
    """
    p = [float(x) for x in top_probabilities if x > 0]
    seen = -sum(x * np.log(x) for x in p)
    rest = max(0.0, 1.0 - sum(p))
    smallest = min(p)
    full = int(np.floor(rest / smallest))
    remainder = rest - full * smallest
    lower = seen - full * smallest * np.log(smallest) - (remainder * np.log(remainder) if remainder > 0 else 0.0)
    unseen = vocabulary - len(p)
    upper = seen - (rest * np.log(rest / unseen) if rest > 0 and unseen > 0 else 0.0)
    return float(lower), float(upper)


def mean_entropy_bound(steps: list[Float], vocabulary: int, bound: str) -> Float:
    """Mean over the steps so far of one of the bounds, (L,) in nats."""
    values = [entropy_bounds(step, vocabulary)[0 if bound == "lower" else 1] for step in steps]
    return np.array([np.mean(values[: t + 1]) for t in range(len(values))])
