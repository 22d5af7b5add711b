"""Where pytorch-ood 0.4 differs: by what is written in deviations.py and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax
from scipy.stats import spearmanr, weibull_min

from demur.detectors.build import build_score, build_transform
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.scores.coverage import nac_edges
from tests.differential.peers import Peers, peers, rows, soft
from tests.differential.rows import Rows
from tests.oracles import headed
from tests.oracles.sample import Sample

pytestmark = pytest.mark.differential

Scores = NDArray[np.float64]


def test_entropy_differs_by_what_is_clipped():
    p = softmax(rows().logits(rows().test).astype(np.float64), axis=1)
    small = np.where(p < 1e-7, p, 1.0)
    clip = (small < 1).sum(axis=1) * -1e-7 * np.log(1e-7) + (small * np.log(small)).sum(axis=1)
    ours, theirs = rows().ours("entropy"), peers().of_logits("Entropy")
    assert clip.max() > 1e-6
    np.testing.assert_allclose(theirs - ours, clip, atol=3e-6)
    assert np.corrcoef(theirs - ours, clip)[0, 1] > 0.9


def test_gen_differs_by_the_clamp_alone():
    p = softmax(rows().logits(rows().test).astype(np.float64), axis=1)
    ours, theirs = rows().ours("gen", top=11), 11 * peers().of_logits("GEN")
    kept = peers().test_logits.softmax(dim=1).numpy().clip(np.float32(1e-7), np.float32(1 - 1e-7))
    np.testing.assert_allclose(theirs, ((kept * (1 - kept)) ** 0.1).sum(axis=1), rtol=1e-4)
    exact = np.exp(0.1 * (np.log(p) + np.log(np.array([[np.delete(r, c).sum() for c in range(11)] for r in p]))))
    np.testing.assert_allclose(ours, exact.sum(axis=1), rtol=1e-4)
    assert np.abs(theirs / ours - 1).max() > 0.05


def test_weighted_energy_overflows_there_and_not_here():
    hot = rows().but(weight=rows().weight * 20, bias=rows().bias * 20)
    weights = [1.0] * len(hot.weight)
    theirs = Peers(hot).of_logits("WeightedEBO", peers().torch.tensor(weights))
    assert np.isneginf(theirs).any()
    exact = -np.logaddexp.reduce(hot.logits(hot.test).astype(np.float64), axis=1)
    np.testing.assert_allclose(hot.ours("weighted_energy", weights=weights), exact, rtol=1e-5)


def test_open_max_of_theirs_depends_on_the_batch():
    alone = rows().but(test=rows().test[:1])
    together, apart = (Peers(r).of_logits("OpenMax", fit=True)[0] for r in (rows(), alone))
    assert abs(together - apart) > 1e-3 * together
    ours = [r.ours("open_max", tail=25, alpha=10)[0] for r in (rows(), alone)]
    assert ours[0] == ours[1]


def test_the_fitted_temperature_is_the_minimum_and_theirs_is_not():
    hot = rows().but(weight=rows().weight * 3, bias=rows().bias * 3)
    peer = Peers(hot)
    found = peer.detectors.TemperatureScaling(None)
    found.fit_logits(peer.logits, peer.labels)
    theirs, ours = found.t.item(), build_score("msp", {"temperature": "fit"}, hot.reference).temperature
    z = hot.logits(hot.features).astype(np.float64)
    loss = [-log_softmax(z / t, axis=1)[np.arange(len(z)), hot.labels].mean() for t in (ours, theirs)]
    assert loss[0] < loss[1] * 0.99
    np.testing.assert_allclose(
        hot.ours("msp", temperature=theirs), 1 + found.predict_logits(peer.test_logits).detach().numpy(), atol=1e-6
    )


def test_mahalanobis_of_theirs_turns_negative_with_fewer_rows_than_features():
    few = Rows.made(5, rows=66, width=200, classes=11)
    theirs = Peers(few).of_features("Mahalanobis")
    scaled = Peers(few.but(features=few.features * 0.01, test=few.test * 0.01)).of_features("Mahalanobis")
    assert theirs.min() < 0
    assert spearmanr(theirs, scaled).statistic < 0.9
    assert few.ours("mahalanobis").min() > 0


def test_gmm_of_theirs_needs_more_rows_a_class_than_features():
    few = Rows.made(5, rows=66, width=200, classes=11)
    with pytest.raises(ValueError, match="not positive definite"):
        Peers(few).of_features("GMM", reg=0.0)
    assert np.isfinite(few.ours("class_gmm")).all()


def test_pnml_differs_by_the_constant_and_the_outside_alone():
    r = rows()
    wide = [a.astype(np.float64) for a in (r.features, r.logits(r.features), r.weight, r.bias, r.test)]
    sample = Sample(wide[0], wide[1], r.labels, wide[2], wide[3], np.ones(len(r.labels), np.bool_))
    unit, test = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (wide[0], wide[4]))
    a = ((test @ np.linalg.pinv(unit.T @ unit)) * test).sum(axis=1)
    theirs = peers().of_features("PNML", peers().head)
    np.testing.assert_allclose(theirs, headed.regret(sample, wide[4], a / (1 + a)), rtol=1e-3)
    np.testing.assert_allclose(
        r.ours("pnml"), headed.regret(sample, wide[4], headed.leverage(sample, wide[4])), rtol=1e-3
    )
    assert spearmanr(r.ours("pnml"), theirs).statistic > 0.9


@pytest.mark.parametrize("cut", [600, 597, 594])
def test_react_quantiles_differ_by_one_number_at_most(cut):
    r = rows().but(features=rows().features[:cut], labels=rows().labels[:cut])
    values = np.sort(r.features.ravel())
    peer = Peers(r).detectors.ReAct(None, None)
    peer.fit_feature_maps(Peers(r).features, Peers(r).labels)
    ours = build_transform("react", r.reference).clip[0]
    place = int(np.searchsorted(values, ours))
    assert values[place - 1] <= peer.threshold <= values[place + 1]


def test_vra_raises_there_what_the_paper_sets_to_0():
    ours = build_transform({"vra": {"q_low": 0.1}}, rows().reference)
    theirs = build_transform("vra_openood_clip", rows().reference)
    low = float(ours.low[0])
    given = {"features": np.array([[low / 2, low * 1.01]], np.float32)}
    np.testing.assert_array_equal(ours(NumpyOps(), given)["features"], [[0, np.float32(low * 1.01)]])
    np.testing.assert_array_equal(theirs(NumpyOps(), given)["features"], [[theirs.low[0], np.float32(low * 1.01)]])


def test_ash_b_of_theirs_lifts_zeros():
    from pytorch_ood.detector.ash import ash_b

    row = np.zeros((1, 41), np.float32)
    row[0, [3, 20]] = [4, 2]
    theirs = ash_b(peers().torch.tensor(row)[:, :, None, None], 0.65).flatten().numpy()
    ours = build_transform({"ash_b": {"percentile": 65}}, rows().reference)(NumpyOps(), {"features": row})["features"][
        0
    ]
    assert (theirs > 0).sum() == 14
    assert np.flatnonzero(ours).tolist() == [3, 20]
    assert ours.sum() == pytest.approx(theirs.sum())


def test_open_max_fits_the_likeliest_law_and_theirs_stops_before():
    found = peers().detectors.OpenMax(None)
    found.fit_logits(peers().logits, peers().labels)
    z = rows().logits(rows().features).astype(np.float64)
    ours = build_score("open_max", {"tail": 25, "alpha": 10}, rows().reference)
    for c in range(len(rows().weight)):
        own = z[rows().labels == c]
        tail = np.sort(np.linalg.norm(own - own.mean(axis=0), axis=1))[-25:]
        law = found._openmax.distributions[c]
        shape = float(ours.shape[c])
        scale = 10_000 / np.exp(float(ours.offset[c]) / shape)
        x = tail - tail.min() + 10_000
        assert law.min_val == pytest.approx(float(ours.least[c]), rel=1e-5)
        best, other = (
            weibull_min.logpdf(x, shape, scale=scale).sum(),
            weibull_min.logpdf(x, law.c, scale=law.scale).sum(),
        )
        assert other - 1e-3 < best < other + 0.1


def coverage(cuts: NDArray[np.float64]) -> Scores:
    """Minus the mean coverage, in float64, of the states' bins between these edges."""
    r = soft()
    weight = r.weight.astype(np.float64)

    def places(features: NDArray[np.float32]) -> NDArray[np.int64]:
        p = softmax(r.logits(features).astype(np.float64), axis=1)
        states = expit(20 * features * ((p - 1 / len(weight)) @ weight))
        return np.clip(np.searchsorted(cuts, states, side="right") - 1, 0, len(cuts) - 2)

    known, asked = places(r.features), places(r.test)
    counts = np.array([np.bincount(column, minlength=len(cuts) - 1) for column in known.T])
    return -np.minimum(counts[np.arange(len(counts)), asked] / 50, 1).mean(axis=1)


def test_nac_differs_by_the_bins_alone():
    torch = peers().torch
    body = torch.nn.Identity()
    found = peers().detectors.NACUE(torch.nn.Sequential(body, Peers(soft()).head), [body], alpha=20.0)
    found.fit([(peers().features.clone().requires_grad_(), peers().labels)])
    theirs = found.predict(peers().test.clone().requires_grad_()).numpy()
    low = np.geomspace(1e-6, 0.5, 26)
    for scores, cuts in (
        (theirs, np.concatenate([low, 1 - low[-2::-1]])),
        (soft().ours("nac", sharpness=20.0), nac_edges(50)),
    ):
        assert (np.abs(scores - coverage(cuts)) < 1e-4).mean() > 0.9  # the rest: a state within rounding of an edge
    assert spearmanr(coverage(np.concatenate([low, 1 - low[-2::-1]])), coverage(nac_edges(50))).statistic < 0.9
