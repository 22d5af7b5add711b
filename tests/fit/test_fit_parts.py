"""Folds, recovered heads and signal ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import demur
from demur.detectors.promises.promise import CalibrationRefused
from demur.monitor.fit.errors import TableError
from demur.monitor.fit.head import recover_head
from demur.monitor.fit.ranges import signal_ranges
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.units import split_units


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(st.integers(-5, 40), min_size=30, max_size=120),
    share=st.floats(0.2, 0.8),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_never_cut_a_group(groups, share, seed):
    table = SignalsTable.from_arrays(features=np.zeros((len(groups), 1), np.float32), group_id=groups)
    if len(set(groups)) < 6:
        groups = list(range(len(groups)))
        table = SignalsTable.from_arrays(features=np.zeros((len(groups), 1), np.float32), group_id=groups)
    a, b = split_units(table, (share, 1 - share), seed)
    assert sorted([*a, *b]) == list(range(len(groups)))
    ids = np.asarray(groups)
    assert not set(ids[a]) & set(ids[b])
    assert abs(len(set(ids[a])) - share * len(set(groups))) <= 0.5 + 1e-6
    again = split_units(table, (share, 1 - share), seed)
    assert all(np.array_equal(x, y) for x, y in zip((a, b), again, strict=True))


def test_folds_of_rows():
    table = SignalsTable.from_arrays(features=np.zeros((100, 1), np.float32))
    folds = split_units(table, (0.5, 0.3), 1)
    assert [len(fold) for fold in folds] == [50, 30]
    assert not set(folds[0]) & set(folds[1])
    assert not np.array_equal(folds[0], split_units(table, (0.5, 0.3), 2)[0])
    for wrong in ((), (0.6, 0.6), (-0.1, 0.5), (0.001, 0.5)):
        with pytest.raises(ValueError, match=r"fractions|cannot fill"):
            split_units(table, wrong, 0)


def test_head_is_recovered():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(10, 24)), rng.normal(size=10)
    features = np.maximum(rng.normal(size=(20_000, 24)) * 5 + 3, 0).astype(np.float32)
    logits = (features @ weight.T + bias).astype(np.float32)
    head = recover_head(features, logits)
    np.testing.assert_allclose(head.weight, weight, atol=1e-5)
    np.testing.assert_allclose(head.bias, bias, atol=1e-4)
    assert head.residual < 1e-6
    expected = np.linalg.lstsq(np.c_[features.astype(float), np.ones(20_000)], logits.astype(float), rcond=None)[0]
    np.testing.assert_allclose(head.weight, expected[:-1].T, atol=1e-6)


def test_head_with_dead_and_repeated_features():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(500, 6)).astype(np.float32)
    features[:, 2] = 7.0
    features[:, 4] = features[:, 3]
    weight = rng.normal(size=(3, 6))
    head = recover_head(features, features @ weight.T)
    assert head.residual < 1e-6
    assert np.abs(head.weight[:, 2]).max() < 1e-6
    np.testing.assert_allclose(features @ head.weight.T + head.bias, features @ weight.T, atol=1e-4)


def test_head_is_refused_when_logits_are_not_affine():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(500, 6)).astype(np.float32)
    logits = np.tanh(features @ rng.normal(size=(6, 3)))
    with pytest.raises(TableError, match=r"affine function of features, got a relative residual of 0\.\d+"):
        recover_head(features, logits)


def test_head_needs_more_rows_than_features():
    rng = np.random.default_rng(3)
    with pytest.raises(TableError, match=r"expected at least \d+ rows to recover it"):
        recover_head(rng.normal(size=(20, 50)), rng.normal(size=(20, 3)))
    with pytest.raises(TableError, match=r"expected finite features"):
        recover_head(np.full((100, 2), np.nan), np.zeros((100, 2)))
    with pytest.raises(TableError, match=r"expected features \(N, D\)"):
        recover_head(np.zeros((100, 2)), np.zeros((99, 2)))


def test_ranges():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(3000, 4)).astype(np.float32)
    features[5, 1], features[6, 2] = np.nan, np.inf
    found = signal_ranges(SignalsTable.from_arrays(features=features, logits=features[:, :2] * 2))["features"]
    finite = features[np.isfinite(features)].astype(float)
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    np.testing.assert_allclose((found.low, found.high), np.percentile(finite, (0.1, 99.9)), rtol=1e-6)
    empty = signal_ranges(SignalsTable.from_arrays(features=np.full((2, 2), np.nan)))["features"]
    assert np.isnan(empty.minimum)


def test_ranges_of_many_values_are_sampled(monkeypatch):
    monkeypatch.setattr("demur.monitor.fit.ranges.SAMPLE_VALUES", 1000)
    features = np.random.default_rng(5).random((5000, 2)).astype(np.float32)
    features[4999, 1] = 9.0
    found = signal_ranges(SignalsTable.from_arrays(features=features))["features"]
    assert found.maximum == 9.0
    assert found.high == pytest.approx(1.0, abs=0.02)


def test_a_shortage_is_counted_in_rows_as_they_were_given():
    """Fusions take 40 % of the calibration rows, and the rule for errors sees what the other rule leaves of the rest."""
    rng = np.random.default_rng(3)

    def made(count: int) -> dict[str, np.ndarray]:
        logits = rng.normal(size=(count, 4)).astype(np.float32) * 3
        wrong = rng.random(count) < 0.02
        return {"logits": logits, "label": np.where(wrong, (logits.argmax(1) + 1) % 4, logits.argmax(1))}

    policy = {
        "monitor": "m",
        "signals": {"logits": 4},
        "scores": ["msp", "energy", "max_logit", {"both": {"type": "fused", "of": ["energy", "max_logit"]}}],
        "rules": [
            {"novel": {"when": "both", "promise": {"refuse_good_at_most": 0.05}}},
            {"ambiguous": {"when": "msp", "promise": {"error_when_accepted_at_most": 0.01}}},
        ],
    }
    with pytest.raises(CalibrationRefused) as caught:
        demur.fit(policy, reference=made(400), calibration=made(320))
    refused = caught.value
    assert refused.rule == "ambiguous"
    assert 0 < refused.rows < 192
    total = -(-refused.rows_needed * 320 // refused.rows)
    expected = f"; in all, about {total:,} calibration rows, where 320 were given and fusions took 128"
    assert str(refused).endswith(expected)
    assert "but a level found on them keeps its full confidence only on new ones; in all" in str(refused)
    alone = policy | {"scores": ["msp"], "rules": policy["rules"][1:]}
    with pytest.raises(CalibrationRefused, match="needs about") as caught:
        demur.fit(alone, reference=made(400), calibration=made(320))
    assert "in all" not in str(caught.value)  # all rows are there to judge by
