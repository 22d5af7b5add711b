"""Rows, groups and streams: what is counted, and what is resampled together."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.monitor.evaluate import EvaluationError
from demur.monitor.evaluate.judged import judge, steps, unit_of
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.table import SignalsTable

GROUPS = {
    "monitor": "images",
    "signals": {"logits": 4},
    "scores": ["energy", "msp"],
    "rules": [
        {"novel": {"when": "energy", "unit": "group", "aggregate": "max", "promise": {"refuse_good_at_most": 0.1}}},
        {"wrong": {"when": "msp", "unit": "group", "promise": {"error_when_accepted_at_most": 0.6}}},
    ],
}
STREAMS = {
    "monitor": "tokens",
    "signals": {"token_logprob": 1},
    "scores": ["mean_nll"],
    "rules": [{"unfamiliar": {"when": "mean_nll", "unit": "stream", "promise": {"refuse_good_at_most": 0.1}}}],
}


def images(sample, groups, seed, shift=0.0):
    table = sample(4 * groups, seed, shift)
    mixed = np.random.default_rng(seed).permutation(np.repeat(np.arange(groups), 4))
    noise = np.random.default_rng(seed + 1).normal(size=table["logits"].shape)
    return {"logits": (table["logits"] + 2 * noise).astype(np.float32), "label": table["label"], "group_id": mixed}


def tokens(streams, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, streams)
    logprob = -rng.gamma(2.0, 0.5 * scale, lengths.sum()).astype(np.float32)
    return {"token_logprob": logprob[:, None], "group_id": np.repeat(np.arange(streams), lengths)}


@pytest.fixture(scope="module")
def grouped(sample):
    return demur.fit(GROUPS, reference=sample(400, 1), calibration=images(sample, 300, 2))


@pytest.fixture(scope="module")
def streamed():
    return demur.fit(STREAMS, reference=tokens(50, 1), calibration=tokens(400, 2))


def test_groups_count_once_and_are_wrong_when_any_row_is(grouped, sample):
    table = images(sample, 60, 5)
    found = demur.evaluate(grouped, table, ood={"far": images(sample, 40, 6, shift=4.0)}, bootstrap=100)
    judged = assess_table(demur.Monitor.of(grouped), SignalsTable.from_columns(table))
    wrong = np.zeros(60, bool)
    np.logical_or.at(wrong, table["group_id"], table["logits"].argmax(axis=1) != table["label"])
    one = found.outcome("id")
    assert (found.subject.unit, one.units, one.rows) == ("group", 60, 240)
    assert (one.wrong, one.accepted) == (wrong.sum(), judged.groups.accept.sum())
    assert one.wrong_accepted == (wrong & judged.groups.accept).sum()
    assert [p.state != "not checked" for p in found.promises] == [True, True]
    assert found.promises[0].units == 60


def test_rows_of_a_grouped_table_are_resampled_by_group(bundle, tables):
    alone = tables["test"]
    twins = {k: np.repeat(v[:100], 4, axis=0) for k, v in alone.items()}
    widths = []
    for group in (None, np.repeat(np.arange(100), 4)):
        given = twins if group is None else twins | {"group_id": group}
        estimate = demur.evaluate(bundle, given, bootstrap=200).ranking("errors", "msp").metrics["auroc"]
        widths.append(estimate.high - estimate.low)
    assert widths[1] > 1.6 * widths[0]


def test_shares_of_grouped_rows_claim_no_exact_interval(bundle, tables):
    given = tables["test"] | {"group_id": np.arange(400) // 4}
    found = demur.evaluate(bundle, given, bootstrap=100)
    assert found.outcome("id").accepted_share.low is None
    assert found.promises[0].realised.low is not None


def test_streams_are_judged_as_the_engine_judges_them_step_by_step(streamed):
    monitor, table = demur.Monitor.of(streamed), SignalsTable.from_columns(tokens(40, 7, scale=1.3))
    found = judge(monitor, table, unit_of(monitor))
    by_step = assess_table(monitor, table)
    for stream in range(40):
        rows = np.flatnonzero(table.group_id == stream)
        assert found.accept[stream] == by_step.accept[rows].all()
        assert found.scores[stream, 0] == by_step.scores[rows, 0].max()
        assert found.rule_hits[stream] == np.bitwise_or.reduce(by_step.rule_hits[rows])
    assert 0 < found.accept.sum() < 40


def test_streams_are_evaluated(streamed):
    found = demur.evaluate(streamed, tokens(100, 8), ood={"strange": tokens(80, 9, scale=2.0)}, bootstrap=100)
    assert (found.subject.unit, found.outcome("id").units) == ("stream", 100)
    assert found.ranking("ood", "mean_nll").metrics["auroc"].value > 0.8
    assert found.promises[0].state in ("kept", "within chance")


def test_steps_of_streams_that_are_mixed_in_the_table():
    index = np.array([1, 0, 1, 2, 0, 1])
    assert [part.tolist() for part in steps(index)] == [[0, 1, 3], [2, 4], [5]]


def test_a_group_policy_needs_group_ids_and_a_row_policy_has_no_groups(grouped, bundle, sample, tables):
    bare = {k: v for k, v in images(sample, 10, 5).items() if k != "group_id"}
    for unit in ("group", "row"):
        with pytest.raises(EvaluationError, match="arrays: expected group_id, this policy judges groups"):
            demur.evaluate(grouped, bare, unit=unit)
    with pytest.raises(EvaluationError, match="expected row"):
        demur.evaluate(bundle, tables["test"], unit="stream")


def test_only_numbers_are_kept_of_a_table_read_in_batches(bundle, tables):
    """Batches are read one after another, each dropped before the next."""
    monitor, alive, most = demur.Monitor.of(bundle), [0], [0]

    class Batch(SignalsTable):
        def __del__(self):
            alive[0] -= 1

    table = SignalsTable.from_columns({k: np.concatenate([v] * 5) for k, v in tables["test"].items()})

    class Streaming(SignalsTable):
        def batches(self, rows=None):
            for part in SignalsTable.batches(self, 100):
                alive[0] += 1
                most[0] = max(most[0], alive[0])
                yield Batch(part.signals, part.given)

    streaming = Streaming(table.signals, table.given)
    heard = []
    found = judge(monitor, streaming, "row", heard.append)
    whole = judge(monitor, table, "row")
    assert most[0] <= 2
    assert sum(heard) == 2000
    for name in ("scores", "p_values", "accept", "wrong"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.scores.dtype == found.p_values.dtype == np.float32


def test_calibration_groups_and_streams_are_known_by_their_scores(grouped, streamed, sample):
    """Without labels, or in another order, the digest of the table is another one."""
    bare = {k: v for k, v in images(sample, 300, 2).items() if k != "label"}
    again = {k: np.append(v, v[:1], axis=0) for k, v in tokens(400, 2).items()}
    again["group_id"][-1] = 1000
    groups, streams = (demur.evaluate(b, t, bootstrap=0).notes[0] for b, t in ((grouped, bare), (streamed, again)))
    assert groups.startswith("id: 300 of 300 groups have the very scores of groups in the calibration set")
    assert streams.startswith("id: 400 of 401 streams have the very scores of streams in the calibration set")
