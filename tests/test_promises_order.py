"""Order-statistic thresholds, exact binomial tails, clustered tables and selection, against independent oracles."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from demur.detectors.promises import binomial, order, selective
from demur.detectors.promises.clustered import INFLATION, clustered_table, one_row_per_group
from demur.detectors.promises.wording import percent, percent_up

levels = st.sampled_from([0.01, 0.05, 0.1, 0.29, 1 / 3, 0.5])
tied_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.float32))


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(99, 0.29, 71), (99, 0.05, 95), (19, 0.05, 19), (18, 0.05, 19), (412, 0.05, 393)]
)
def test_marginal_rank_is_exact_where_binary_floats_are_not(n, alpha, rank):
    assert order.marginal_rank(n, alpha) == rank


def test_the_float_formula_would_be_wrong():
    wrong = [
        (n, a / 100)
        for n in range(1, 400)
        for a in range(1, 100)
        if math.ceil((n + 1) * (1 - a / 100)) != order.marginal_rank(n, a / 100)
    ]
    assert wrong
    for n, a in wrong:
        assert order.marginal_rank(n, a) == math.ceil((n + 1) * (1 - Fraction(round(a * 100), 100)))


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.3])
def test_fewest_units_are_enough_and_one_less_is_not(alpha):
    n = order.units_for_marginal(alpha)
    assert order.marginal_rank(n, alpha) <= n
    assert order.marginal_rank(n - 1, alpha) > n - 1
    m = order.units_for_tolerance(alpha, 0.95)
    assert order.tolerance_rank(m, alpha, 0.95) <= m
    assert order.tolerance_rank(m - 1, alpha, 0.95) > m - 1


@given(n=st.integers(1, 500), alpha=st.sampled_from([0.02, 0.05, 0.2]), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_tolerance_rank_is_the_definition(n, alpha, confidence):
    ranks = np.arange(1, n + 1)
    passing = ranks[stats.binom.cdf(ranks - 1, n, 1 - alpha) >= confidence]
    assert order.tolerance_rank(n, alpha, confidence) == (passing[0] if passing.size else n + 1)


def test_tolerance_bound_of_the_printed_example():
    assert percent_up(order.tolerance_bound(412, order.marginal_rank(412, 0.05), 0.95)) == "6.7 %"


@given(table=tied_scores, alpha=levels)
def test_threshold_event_equals_p_value_event_under_ties(table, alpha):
    table = np.sort(table)
    rank = order.marginal_rank(table.size, alpha)
    queries = np.unique(np.concatenate([table, table + 0.5, table - 0.5]))
    exact_p = [Fraction(int(1 + np.count_nonzero(table >= s)), table.size + 1) for s in queries]
    small = np.array([p <= Fraction(str(alpha)) for p in exact_p])
    refused = queries > table[rank - 1] if rank <= table.size else np.zeros(queries.size, dtype=bool)
    assert np.array_equal(small, refused)
    assert np.allclose(order.p_values(table, queries), [float(p) for p in exact_p], rtol=1e-6)


@given(table=tied_scores, low=levels, high=levels)
def test_a_larger_level_never_refuses_less(table, low, high):
    if low <= high:
        assert order.marginal_rank(table.size, low) >= order.marginal_rank(table.size, high)
        assert order.tolerance_rank(table.size, low, 0.9) >= order.tolerance_rank(table.size, high, 0.9)


@given(n=st.integers(1, 3000), share=st.floats(0, 1), delta=st.sampled_from([0.5, 0.05, 1e-6, 1e-30]))
def test_clopper_pearson_inverts_the_binomial_tail(n, share, delta):
    e = round(share * n)
    up, low = binomial.upper(e, n, delta), binomial.lower(e, n, delta)
    assert up == 1.0 if e == n else stats.binom.cdf(e, n, up) == pytest.approx(delta, rel=1e-6)
    assert low == 0.0 if e == 0 else stats.binom.sf(e - 1, n, low) == pytest.approx(delta, rel=1e-6)


def test_binomial_tails_keep_their_digits():
    assert binomial.cdf(0, 400, 0.5) == pytest.approx(0.5**400, rel=1e-9)
    assert binomial.lower(1000, 1000, 1e-30) == pytest.approx(1e-30 ** (1 / 1000), rel=1e-12)
    with pytest.raises(ValueError, match=r"expected 0\.\.5, got 6"):
        binomial.upper(6, 5, 0.05)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-4, 4)), min_size=1, max_size=60))
def test_clustered_table_counts_the_weight_rounded_up(pairs):
    group = np.array([g for g, _ in pairs], dtype=np.int64)
    scores = np.array([s for _, s in pairs], dtype=np.float32)
    table = clustered_table(scores, group)
    sizes = {g: int(np.count_nonzero(group == g)) for g in set(group.tolist())}
    assert table.size == len(sizes)
    assert np.isin(table, scores).all()
    for s in np.arange(-5, 6, 0.5):
        weight = sum((Fraction(1, sizes[int(g)]) for g, x in zip(group, scores, strict=True) if x >= s), Fraction(0))
        assert np.count_nonzero(table >= s) == math.ceil(weight)


def test_groups_of_one_row_are_ordinary_rows():
    scores = np.random.default_rng(0).random(50).astype(np.float32)
    assert np.array_equal(clustered_table(scores, np.arange(50)), np.sort(scores))
    assert pytest.approx(math.e) == INFLATION


def test_coarse_weights_only_ever_refuse_less():
    sizes = np.arange(1, 80)
    group = np.repeat(np.arange(sizes.size), sizes)
    scores = np.random.default_rng(1).normal(size=group.size).astype(np.float32)
    table = clustered_table(scores, group)
    for s in np.quantile(scores, [0.1, 0.5, 0.9, 0.99]):
        weight = sum((Fraction(int(np.sum(scores[group == g] >= s)), int(m)) for g, m in enumerate(sizes)), Fraction(0))
        assert math.ceil(weight) <= np.count_nonzero(table >= s) <= math.ceil(weight) + 1


def test_one_row_is_drawn_evenly_from_each_group():
    group = np.array([2, 0, 1, 1, 2, 2, 1, 1])
    drawn = np.stack([one_row_per_group(group, seed) for seed in range(4000)])
    assert np.array_equal(group[drawn[0]], [0, 1, 2])
    assert set(drawn[:, 1].tolist()) == {2, 3, 6, 7}
    assert abs(np.mean(drawn[:, 2] == 0) - 1 / 3) < 0.03
    assert np.array_equal(one_row_per_group(group, 7), one_row_per_group(group, 7))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=400),
    st.sampled_from([0.02, 0.1, 0.3, 0.7]),
    st.sampled_from([0.05, 0.2]),
)
def test_selection_never_has_a_bound_above_its_promise_and_accepts_exactly_what_it_counted(pairs, risk, delta):
    scores = np.array([s for s, _ in pairs], dtype=np.float32)
    loss = np.array([x for _, x in pairs], dtype=np.float64)
    counts = selective.prefixes(scores, loss)
    found = selective.select(counts, risk, delta)
    supported = selective.smallest_supported(counts, delta)
    if found is None:
        assert supported is None or supported > risk
        return
    accepted = scores <= found.threshold
    assert (found.accepted, found.wrong) == (accepted.sum(), loss[accepted].sum())
    assert found.steps == math.floor(math.log2(np.unique(scores).size)) + 1
    assert stats.beta.ppf(1 - delta / found.steps, found.wrong + 1, found.accepted - found.wrong) <= risk + 1e-9
    assert supported is not None
    assert supported <= risk


def test_selection_visits_at_most_the_steps_delta_is_split_over(monkeypatch):
    for size in range(1, 70):
        for risk in (1e-9, 0.999999):
            visits = []
            counts = selective.prefixes(np.arange(size, dtype=np.float32), np.zeros(size))
            original = selective._at
            monkeypatch.setattr(selective, "_at", lambda *a, f=original, v=visits: v.append(1) or f(*a))
            selective.select(counts, risk, 0.5)
            monkeypatch.undo()
            assert len(visits) <= counts.steps


def test_selection_counts_every_error():
    """13 errors of 23: int(m * (e / m)) is 12, the fault of the published code."""
    assert int(23 * (13 / 23)) == 12
    counts = selective.prefixes(np.zeros(23, dtype=np.float32), np.r_[np.ones(13), np.zeros(10)])
    assert counts.wrong[0] == 13


def test_rows_needed_is_about_right():
    rng = np.random.default_rng(5)
    scores = rng.random(300).astype(np.float32)
    loss = (rng.random(300) < 0.1 * scores**2).astype(np.float64)
    counts = selective.prefixes(scores, loss)
    assert selective.select(counts, 0.01, 0.05) is None
    needed = selective.rows_needed(counts, 0.01, 0.05)
    assert needed is not None
    copies = math.ceil(needed / 300)
    many = selective.prefixes(np.tile(scores, 2 * copies), np.tile(loss, 2 * copies))
    assert selective.select(many, 0.01, 0.05) is not None
    assert selective.rows_needed(selective.prefixes(scores, np.ones(300)), 0.01, 0.05) is None
    assert selective.rows_needed(selective.prefixes(scores[:0], loss[:0]), 0.01, 0.05) == 299


def test_losses_other_than_0_and_1_are_refused():
    with pytest.raises(ValueError, match=r"expected 0 or 1 for every row, got 0\.5"):
        selective.prefixes(np.zeros(2, dtype=np.float32), np.array([0.5, 1.0]))


def test_percentages_say_a_promise_exactly_and_round_bounds_up():
    assert [percent(x) for x in (0.05, 0.29, 0.0125, 0.0005, Fraction(1, 60))] == [
        "5.0 %",
        "29.0 %",
        "1.25 %",
        "0.05 %",
        "1.67 %",
    ]
    assert [percent(x, 0) for x in (0.95, 0.999)] == ["95 %", "99.9 %"]
    assert [percent(x, 0) for x in (0.99995678, 0.999999999)] == ["99.995678 %", "99.9999999 %"]  # no 100 %
    assert [percent_up(x) for x in (0.07, 0.0661, 0.07 * 1.0000001, 1.0)] == ["7.0 %", "6.7 %", "7.1 %", "100.0 %"]
