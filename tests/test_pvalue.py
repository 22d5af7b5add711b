"""p-values: exact counts, ties included, in NumPy and in the graph, at every table size that changes the layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.detectors.compile import compile_monitor
from demur.detectors.policy import Column
from demur.detectors.pvalue import p_value
from demur.detectors.scores import SCORES
from demur.detectors.scores.logit import MaxLogit
from tests.contract.entries import session

finite = st.floats(-100, 100, width=32)


def naive(table, score):
    return np.float32(1 + sum(t >= score for t in table)) / np.float32(len(table) + 1)


def graph_p(tables, values):
    """Through the graph, with max-logit of one logit as the identity: score = -logit."""
    columns = [Column(f"c{i}", "max_logit", calibration=(t,)) for i, t in enumerate(tables)]
    graph = session(compile_monitor({"max_logit": MaxLogit()}, columns, [], {"logits": 1}))
    return graph.run(["p_values"], {"logits": -values[:, None]})[0]


@given(st.lists(finite, min_size=1, max_size=30), st.lists(finite, min_size=1, max_size=10))
def test_numpy_p_value_is_the_definition(table, scores):
    table = np.sort(np.array(table, np.float32))
    scores = np.array([*scores, *table[:5]], np.float32)
    np.testing.assert_array_equal(p_value(table, scores), [naive(table, s) for s in scores])


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000, 1024, 4099, 8192, 20000])
def test_graph_counts_exactly(size):
    rng = np.random.default_rng(size)
    table = np.sort(np.round(rng.normal(size=size), 2).astype(np.float32))  # many ties
    values = np.concatenate([table[:: max(1, size // 200)], np.nextafter(table[:50], np.float32(9)), [-9, 9, 0]])
    values = values.astype(np.float32)
    expected = (size + 1 - np.searchsorted(table, values, side="left")).astype(np.float32) / np.float32(size + 1)
    np.testing.assert_array_equal(graph_p([table], values)[:, 0], expected)


def test_tables_of_different_sizes_share_a_layout():
    rng = np.random.default_rng(1)
    tables = [np.sort(rng.normal(size=n).astype(np.float32)) for n in (1, 40, 700, 3000)]
    values = rng.normal(size=300).astype(np.float32)
    got = graph_p(tables, values)
    for i, table in enumerate(tables):
        np.testing.assert_array_equal(got[:, i], p_value(table, values))


@settings(max_examples=25, deadline=None)
@given(st.lists(finite, min_size=1, max_size=400), st.lists(finite, min_size=1, max_size=8))
def test_graph_equals_numpy(table, scores):
    table, scores = np.sort(np.array(table, np.float32)), np.array(scores, np.float32)
    np.testing.assert_array_equal(graph_p([table], scores)[:, 0], p_value(table, scores))


def test_p_values_are_valid_under_ties():
    """P(p <= t) <= t for exchangeable scores with heavy ties: the strict count breaks this by a factor of six."""
    rng = np.random.default_rng(0)
    draws = np.sort(rng.integers(0, 3, (4000, 60)).astype(np.float32), axis=1)
    fresh = rng.integers(0, 3, 4000).astype(np.float32)
    p = np.array([p_value(table, fresh[i : i + 1])[0] for i, table in enumerate(draws)])
    for level in (0.05, 0.1, 0.34, 0.5):
        share = np.mean(p <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 4000)


def test_nan_score_has_nan_p_value():
    assert np.isnan(p_value(np.zeros(3, np.float32), np.array([np.nan], np.float32)))
    assert "max_logit" in SCORES
