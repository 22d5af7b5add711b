"""Scores of token streams against their oracles, step by step, and what the entropy interval promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import entropy as scipy_entropy

from demur.detectors.compile import serialize
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.policy import Column
from demur.detectors.scores import STREAM_SCORES
from demur.detectors.stream import StreamScore, compile_stream, state_size
from demur.monitor.session import Session
from tests.backends import RTOL, assert_close
from tests.oracles import fusion, sequence
from tests.oracles.sample import Float
from tests.oracles.table import STREAM

SEEDS = (0, 1, 2)
VOCABULARY, TOP, STREAMS, STEPS = 5000, 20, 6, 40
Steps = list[dict[str, NDArray[np.float32]]]


def in_numpy(score: StreamScore, steps: Steps) -> NDArray[np.float32]:
    """(steps, M)."""
    state = tuple(np.zeros(STREAMS, np.float32) for _ in range(score.state_width))
    values = []
    for step in steps:
        state, value = score(NumpyOps(), state, step)
        values.append(value)
    return np.array(values)


def in_runtime(score: StreamScore, steps: Steps, table: NDArray[np.float32]) -> tuple[Any, Any]:
    """Scores and p-values of the running maximum, (steps, M) each."""
    columns = [Column("s", "s", unit="stream", calibration=(table,))]
    widths = {name: array.shape[1] for name, array in steps[0].items()}
    session = Session(serialize(compile_stream({"s": score}, columns, [], widths)))
    state, values, p = np.zeros((STREAMS, state_size({"s": score}, columns)), np.float32), [], []
    for step in steps:
        got = session.run({"state": state, **step})
        state = got["next_state"]
        values.append(got["scores"][:, 0])
        p.append(got["p_values"][:, 0])
    return np.array(values), np.array(p)


def token_steps(rng: np.random.Generator, length: int = STEPS) -> tuple[Steps, list[Float]]:
    log_p = -rng.exponential(1.5, size=(length, STREAMS, 1)).astype(np.float32)
    return [{"token_logprob": step} for step in log_p], list(log_p[:, :, 0].T.astype(np.float64))


def topk_steps(rng: np.random.Generator) -> tuple[Steps, list[list[Float]]]:
    """Shuffled top-k of random distributions, some entries masked from the tail, and the same as oracle steps."""
    steps: Steps = []
    known: list[list[Float]] = [[] for _ in range(STREAMS)]
    for _ in range(STEPS):
        log_p, mask = np.zeros((STREAMS, TOP), np.float32), np.zeros((STREAMS, TOP), np.float32)
        for m in range(STREAMS):
            full = np.sort(rng.dirichlet(np.full(VOCABULARY, 10 ** rng.uniform(-3, 0))))[::-1]
            kept = int(rng.integers(1, min(TOP, np.sum(full > 1e-30)) + 1))
            place = rng.permutation(TOP)[:kept]
            log_p[m, place], mask[m, place] = np.log(full[:kept]), 1
            known[m].append(np.exp(log_p[m, place].astype(np.float64)))
        steps.append({"topk_logprobs": log_p, "topk_mask": mask})
    return steps, known


def compare(score: StreamScore, steps: Steps, want: Float, limit: Float) -> None:
    table = np.sort(np.random.default_rng(0).choice(want.ravel(), 99)).astype(np.float32)
    got, p = in_runtime(score, steps, table)
    for values in (in_numpy(score, steps), got):
        assert_close(values.ravel(), want.ravel(), limit.ravel())
    highest = np.maximum.accumulate(got, axis=0)
    np.testing.assert_allclose(p, np.array([fusion.conformal_p(table, row) for row in highest]), rtol=2e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_mean_nll_equals_oracle(seed: int):
    steps, streams = token_steps(np.random.default_rng(seed))
    want = np.array([STREAM["mean_nll"](stream) for stream in streams]).T
    compare(STREAM_SCORES["mean_nll"].fit(), steps, want, RTOL * want)


def test_mean_nll_does_not_drift_over_a_long_stream():
    steps, streams = token_steps(np.random.default_rng(5), length=20_000)
    want = np.array([-stream.mean() for stream in streams])
    got = in_numpy(STREAM_SCORES["mean_nll"].fit(), steps)[-1]
    assert_close(got, want, RTOL * want)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_entropy_interval_equals_oracle(bound: str, seed: int):
    steps, known = topk_steps(np.random.default_rng(seed))
    want = np.array([STREAM["entropy_interval"](stream, VOCABULARY, bound) for stream in known]).T
    score = STREAM_SCORES["entropy_interval"].fit(bound=bound, vocabulary=VOCABULARY)
    # 1 - sum p is rounded to 6e-8 for each of k terms, and that rest weighs log((V - k) / rest), at most 20 nats.
    compare(score, steps, want, RTOL * want + TOP * 2.0**-24 * 20)


ZIPF = [(1.5, 3.16, 2.69, 3.88, 0.83), (1.2, 5.40, 3.88, 6.66, 0.57), (1.05, 7.02, 4.62, 8.32, 0.38)]


@pytest.mark.parametrize(("exponent", "true", "lower", "upper", "mass"), ZIPF)
def test_entropy_interval_of_the_published_zipf_table(
    exponent: float, true: float, lower: float, upper: float, mass: float
):
    """V = 50,000, k = 20: oracle and score give the table's bounds, and the plain partial sum would reverse the order."""
    weights = np.arange(1, 50_001, dtype=np.float64) ** -exponent
    p = weights / weights.sum()
    assert scipy_entropy(p) == pytest.approx(true, abs=0.005)
    assert p[:20].sum() == pytest.approx(mass, abs=0.005)
    assert sequence.entropy_bounds(p[:20], 50_000) == pytest.approx((lower, upper), abs=0.005)
    step = {"topk_logprobs": np.log(p[None, :20]).astype(np.float32), "topk_mask": np.ones((1, 20), np.float32)}
    for bound, expected in (("lower", lower), ("upper", upper)):
        score = STREAM_SCORES["entropy_interval"].fit(bound=bound, vocabulary=50_000)
        _, value = score(NumpyOps(), (np.zeros(1, np.float32), np.zeros(1, np.float32)), step)
        assert value[0] == pytest.approx(expected, abs=0.005)


def test_zipf_entropies_pin_the_exponents():
    ranks = np.arange(1, 50_001, dtype=np.float64)
    for exponent, true, *_ in ZIPF:
        found = brentq(lambda s, h=true: scipy_entropy(ranks**-s) - h, 0.5, 3)
        assert found == pytest.approx(exponent, abs=0.002)


def test_true_entropy_lies_inside_the_interval():
    """Random distributions of every peakedness, and every k."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        size = int(rng.integers(2, 400))
        p = np.sort(rng.dirichlet(np.full(size, 10 ** rng.uniform(-2.5, 1.5))))[::-1]
        top = p[: int(rng.integers(1, size + 1))]
        lower, upper = sequence.entropy_bounds(top, size) if top[-1] > 0 else (0.0, np.inf)
        assert lower - 1e-9 <= scipy_entropy(p) <= upper + 1e-9


def test_no_completion_of_the_top_k_beats_the_bounds_and_two_reach_them():
    """Brute force: many ways to spread the unseen mass under the cap, the two extreme ones among them."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        size = int(rng.integers(4, 30))
        p = np.sort(rng.dirichlet(np.full(size, 10 ** rng.uniform(-1, 1))))[::-1]
        top = p[: int(rng.integers(1, size))]
        rest, cap, free = 1 - top.sum(), top[-1], size - len(top)
        lower, upper = sequence.entropy_bounds(top, size)
        full = int(rest / cap)
        packed = np.array([cap] * full + [max(0.0, rest - full * cap)])
        reached = [scipy_entropy(np.append(top, tail)) for tail in (packed, np.full(free, rest / free))]
        assert reached == pytest.approx([lower, upper], abs=1e-9)
        for _ in range(10):
            tail = rng.dirichlet(np.full(free, 10 ** rng.uniform(-1, 1))) * rest
            for _ in range(50):  # pour what exceeds the cap onto the others
                over = np.maximum(tail - cap, 0).sum()
                tail = np.minimum(tail, cap)
                room = cap - tail
                tail = tail + over * room / room.sum() if room.sum() > 0 else tail
            assert lower - 1e-9 <= scipy_entropy(np.append(top, tail)) <= upper + 1e-9
