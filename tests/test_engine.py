"""The engine: equal bits, closed on failure, one bundle a request."""

from __future__ import annotations

import copy
import threading
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import demur
from demur.detectors.reason import Reason
from demur.monitor.contract import out_of_range
from demur.monitor.engine import Conduct, Engine
from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import observe

COLUMNS = ("scores", "p_values", "rule_hits", "reason_bits", "accept")


HOSTILE = [np.nan, np.inf, -np.inf, 1e20, -1e20, 3.4e38, -3.4e38, 1e-45, 0.0]


@pytest.fixture(scope="module")
def monitor(bundle):
    return demur.Monitor.of(bundle)


def equal(one, other):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("size", [1, 3, 7, 16, 63])
def test_a_row_has_the_same_bits_in_every_batch(monitor, signals, size):
    whole = monitor.assess(**signals)
    for start in range(0, 64, size):
        part = monitor.assess(**{n: a[start : start + size] for n, a in signals.items()})
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[start : start + size])


def test_order_and_threads_change_nothing(bundle, monitor, signals):
    whole = monitor.assess(**signals)
    turned = monitor.assess(**{n: a[::-1] for n, a in signals.items()})
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(turned, name)[::-1], getattr(whole, name))
    equal(demur.Monitor(Engine(Loaded.open(bundle, threads=2))).assess(**signals), whole)


def test_the_reference_evaluator_agrees(bundle, monitor, signals):
    evaluator = ReferenceEvaluator(onnx.load_from_string(bundle.graph))
    outputs = dict(
        zip(
            [o.name for o in onnx.load_from_string(bundle.graph).graph.output],
            evaluator.run(None, dict(signals)),
            strict=True,
        )
    )
    found = monitor.assess(**signals)
    plain = [c != "fused" for c in found.columns]
    np.testing.assert_allclose(outputs["scores"][:, plain], found.scores[:, plain], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 7), st.sampled_from(["logits", "features"]), st.integers(0, 3), st.sampled_from(HOSTILE)
        ),
        max_size=6,
    )
)
def test_hostile_values_never_raise_never_pass_and_stay_in_their_row(monitor, signals, edits):
    clean = {n: a[:8].copy() for n, a in signals.items()}
    dirty = {n: a.copy() for n, a in clean.items()}
    for row, name, column, value in edits:
        dirty[name][row, column] = value
    verdicts, before = monitor.assess(**dirty), monitor.assess(**clean)
    np.testing.assert_array_equal(verdicts.accept, verdicts.reason_bits == 0)
    broken = ~(np.isfinite(dirty["logits"]).all(1) & np.isfinite(dirty["features"]).all(1))
    assert (verdicts.reason_bits[broken] & Reason.INVALID != 0).all()
    huge = (np.abs(dirty["features"]) >= 1e20).any(1)
    assert not verdicts.accept[broken | huge].any()
    untouched = np.setdiff1d(np.arange(8), [row for row, *_ in edits])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(verdicts, name)[untouched], getattr(before, name)[untouched])


GROUPED = {
    "monitor": "boxes",
    "signals": {"logits": 4},
    "scores": ["energy"],
    "rules": [{"image": {"when": "energy", "unit": "group", "promise": {"refuse_good_at_most": 0.1}}}],
}


@pytest.mark.parametrize("empty", ["abstain", "accept"])
def test_groups_empty_broken_and_oddly_named(sample, empty):
    made = [
        {k: v for k, v in sample(240, s).items() if k != "features"} | {"group_id": np.arange(240) // 4} for s in (1, 2)
    ]
    monitor = demur.Monitor.of(demur.fit({**GROUPED, "empty_group": empty}, reference=made[0], calibration=made[1]))
    logits = sample(6, 3)["logits"].copy()
    ids = np.array([-5, 9, -5, 2**40, 9, -5])
    whole = monitor.assess(logits=logits, group_id=ids, groups=[9, 7, -5, 2**40])
    assert whole.group_ids.tolist() == [9, 7, -5, 2**40]
    assert bool(whole.groups.accept[1]) == (empty == "accept")
    if empty == "abstain":
        assert whole.groups.kinds(1) == Reason.UNAVAILABLE
        assert "no rows" in whole.groups.reasons[1][0]
    logits[1, 2] = np.nan
    broken = monitor.assess(logits=logits, group_id=ids, groups=[9, 7, -5, 2**40])
    assert broken.groups.kinds(0) & Reason.INVALID
    np.testing.assert_array_equal(broken.groups.scores[[2, 3]], whole.groups.scores[[2, 3]])
    nothing = monitor.assess(logits=np.zeros((0, 4), np.float32), group_id=np.zeros(0, np.int64), groups=[1, 2])
    assert len(nothing) == 0
    assert nothing.group_ids.tolist() == [1, 2]
    assert nothing.groups.accept.tolist() == [empty == "accept"] * 2
    assert set(nothing.groups.reason_bits.tolist()) == {0 if empty == "accept" else int(Reason.UNAVAILABLE)}
    unnamed = monitor.assess(logits=np.zeros((0, 4), np.float32), groups=[1, 2])
    np.testing.assert_array_equal(unnamed.groups.reason_bits, nothing.groups.reason_bits)
    with pytest.raises(InvalidObservation, match="not among"):
        monitor.assess(logits=logits, group_id=ids, groups=[9])
    missing = monitor.assess(logits=logits)
    assert (missing.reason_bits == Reason.UNAVAILABLE).all()


@pytest.mark.parametrize("score", ["energy", "mahalanobis", "box", {"sigmoid_energy": {}}])
def test_rows_rules_take_a_request_whose_groups_have_no_rows(sample, score):
    """A detector that saw nothing: no verdict for no row, and not a failure either."""
    name = score if isinstance(score, str) else next(iter(score))
    config = {
        "monitor": "boxes",
        "signals": {n: a.shape[1] for n, a in sample(1, 0).items() if a.ndim == 2},
        "scores": [score],
        "rules": [{"novel": {"when": name, "promise": {"refuse_good_at_most": 0.1}}}],
    }
    made = [{**sample(240, s), "label": sample(240, s)["logits"].argmax(axis=1)} for s in (1, 2)]
    monitor = demur.Monitor.of(demur.fit(config, reference=made[0], calibration=made[1]))
    none = {n: np.zeros((0, width), np.float32) for n, width in config["signals"].items()}
    verdicts = monitor.assess(**none, group_id=np.zeros(0, np.int64), groups=[0, 1])
    assert len(verdicts) == 0
    assert verdicts.scores.shape == verdicts.p_values.shape == (0, 1)
    assert verdicts.cause == ""


def test_a_request_keeps_one_bundle_while_another_is_activated(bundle, policy, signals):
    looser = copy.deepcopy({**policy, "version": 3})
    looser["rules"][0]["novel"]["promise"]["refuse_good_at_most"] = 0.4
    loaded = [Loaded.open(bundle), Loaded.open(demur.calibrate(bundle, config=looser))]
    engine = Engine(loaded[0], conduct=Conduct())
    want = {x.bundle.digest: Engine(x).assess(observe(x.widths, signals)).rule_hits for x in loaded}
    stop, seen, wrong = threading.Event(), set(), []

    def ask():
        observation = observe(loaded[0].widths, signals)
        while not stop.is_set():
            verdicts = engine.assess(observation)
            seen.add(verdicts.policy.version)
            if (verdicts.rule_hits != want[verdicts.policy.bundle]).any():
                wrong.append(verdicts)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(100):
        engine.activate(loaded[i % 2])
        time.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert seen == {2, 3}
    assert not np.array_equal(*want.values())


def test_reasons_read_as_sentences(monitor, sample):
    far = {n: a for n, a in sample(4, 8, shift=5.0).items() if n != "label"}
    verdicts = monitor.assess(**far)
    assert verdicts.reasons[0][0].startswith("NOVEL: fused p = ")
    assert 'rule "novel" refuses at p <= 0.05' in verdicts.reasons[0][0]
    assert len(verdicts.reasons[1:3]) == 2
    assert len(list(verdicts.reasons)) == len(verdicts) == 4


def test_a_signal_that_no_score_reads_may_be_sent_or_left_out(sample):
    policy = {
        "monitor": "m",
        "signals": {"logits": 4, "features": 8},
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    monitor = demur.Monitor.of(demur.fit(policy, reference=sample(400, 1), calibration=sample(600, 2)))
    rows = sample(32, 3)
    both = monitor.assess(logits=rows["logits"], features=rows["features"])
    equal(monitor.assess(logits=rows["logits"]), both)
    assert both.accept.any()
    assert (monitor.assess(features=rows["features"]).reason_bits == Reason.UNAVAILABLE).all()


def test_a_request_without_groups_of_a_policy_that_judges_them_says_so(sample):
    made = [
        {k: v for k, v in sample(240, s).items() if k != "features"} | {"group_id": np.arange(240) // 4} for s in (1, 2)
    ]
    monitor = demur.Monitor.of(demur.fit(GROUPED, reference=made[0], calibration=made[1]))
    assert "group_id is missing" in monitor.assess(logits=made[0]["logits"][:3]).cause


def test_rows_outside_the_calibration_range_are_counted(bundle, signals):
    loaded = Loaded.open(bundle)
    assert out_of_range(loaded, observe(loaded.widths, signals)) < 8
    far = {n: a.copy() for n, a in signals.items()}
    far["features"][:5, 2] = 1e6
    far["logits"][5:9, 0] = -1e6
    near = out_of_range(loaded, observe(loaded.widths, {n: a[9:] for n, a in signals.items()}))
    assert out_of_range(loaded, observe(loaded.widths, far)) == 9 + near
