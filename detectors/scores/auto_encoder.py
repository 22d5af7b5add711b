"""What an auto-encoder cannot rebuild."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import one_of, whole
from demur.detectors.learned.layer import Dense, MeanShift, rectified, scaling
from demur.detectors.learned.two_headed import LOG_VARIANCE, auto_encoder
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import sample_rows
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 10_000


@dataclass(frozen=True, eq=False)
class AutoEncoder:
    """How far a row is from what an auto-encoder rebuilds of its neighbourhood.

    The network (D, hidden, code, hidden, 2 D), rectified between layers, gives a mean m and a log variance v, cut to [-6, 6],
    for rows x = (h - centre) / scale. by: mse: mean_d (x - m)^2. by: apre: mean_d 0.5 ((x - m)^2 / exp(v) + v). Either is
    also what Adam minimised in float64 over a seeded sample of all reference rows, which also gives centre and scale.
    `mean_shift` times, what goes in is replaced by the mean of its k nearest bank rows (euclidean in x; the bank is the first
    `bank` rows of the sample, shuffled by the seed); the error stays that of x itself.
    Shapes: features (N, D) -> (N,). Range: mse [0, inf); apre [-3, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit with under k reference rows.
    Source: OutlierNet, APRE and mean-shift scoring (weighted negative log-likelihood with weights 1/2); Nix & Weigend 1994
    (mean and variance heads).
    """

    centre: Array  # (D,)
    gain: Array  # (D,), 1 / scale
    body: tuple[Dense, ...]  # D -> hidden -> code -> hidden
    heads: tuple[Dense, ...]  # hidden -> D: the mean and, for apre, the log variance
    shift: tuple[MeanShift, ...]  # one or none
    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "OutlierNet (APRE and mean-shift scoring); Nix & Weigend 1994"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        by: str = "apre",
        mean_shift: int = 0,
        k: int = 5,
        bank: int = 1000,
        hidden: int = 64,
        code: int = 16,
        epochs: int = 30,
        seed: int = 0,
    ) -> Self:
        one_of("auto_encoder", "by", by, ("mse", "apre"))
        shifts, start = (whole("auto_encoder", "seed", v, least=0) for v in (mean_shift, seed))
        for name, value in (("k", k), ("bank", bank), ("hidden", hidden), ("code", code), ("epochs", epochs)):
            whole("auto_encoder", name, value)
        rows = sample_rows(reference, "features", SAMPLE_ROWS, start)
        centre, spread = scaling(rows)
        scaled = (rows - centre) / spread
        width = rows.shape[1]
        kept = np.random.default_rng(start).permutation(len(rows))[:bank]
        if shifts and len(kept) < k:
            raise ValueError(f"auto_encoder: k = {k} neighbours need at least {k} rows in the bank, got {len(kept)}")
        *body, (weight, bias) = auto_encoder(scaled, by, (width, hidden, code, hidden, 2 * width), epochs, start)
        ends = slice(0, width), slice(width, None)
        return cls(
            centre.astype(np.float32),
            (1 / spread).astype(np.float32),
            tuple(map(Dense.of, body)),
            tuple(Dense.of((weight[part], bias[part])) for part in ends[: 1 + (by == "apre")]),
            (MeanShift.of(scaled[kept], shifts, k),) if shifts else (),
            by,
        )

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = (signals["features"] - self.centre) * self.gain
        asked = x
        for shift in self.shift:
            asked = shift(xp, asked)
        inner = xp.maximum(rectified(xp, self.body, asked), 0.0)
        off = x - self.heads[0](xp, inner)
        if self.by == "mse":
            return xp.mean(off * off)
        v = xp.minimum(xp.maximum(self.heads[1](xp, inner), -LOG_VARIANCE), LOG_VARIANCE)
        return 0.5 * xp.mean(off * off * xp.exp(-v) + v)  # type: ignore[no-any-return]
