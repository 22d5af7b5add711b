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
from demur.monitor.engine import Conduct, Engine, out_of_range
from demur.monitor.errors import AuditUnavailable, InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import group_rows, observe
from demur.monitor.verdicts import act

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


WRONG = {
    "unknown name": ({"logit": np.zeros((1, 4), np.float32)}, "no such signal; expected features, logits"),
    "width": ({"logits": np.zeros((2, 5), np.float32)}, r"expected \(N, 4\) float32, got \(2, 5\)"),
    "one dimension": ({"logits": np.zeros(4, np.float32)}, "a single input is one row"),
    "integers": ({"logits": np.zeros((1, 4), np.int64)}, "got int64"),
    "no rows": ({"logits": np.zeros((0, 4), np.float32)}, "at least one row"),
    "unequal": ({"logits": np.zeros((1, 4), np.float32), "features": np.zeros((2, 8), np.float32)}, "expected 1 rows"),
    "ragged": ({"logits": [[1.0], [1.0, 2.0]]}, "expected an array of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_refused_in_words(monitor, case):
    arrays, says = WRONG[case]
    with pytest.raises(InvalidObservation, match=says):
        monitor.assess(**arrays)


def test_other_floats_and_layouts_are_taken(monitor, signals):
    want = monitor.assess(**signals)
    equal(monitor.assess(**{n: a.astype(np.float64) for n, a in signals.items()}), want)
    equal(monitor.assess(**{n: np.asfortranarray(a) for n, a in signals.items()}), want)


@pytest.mark.parametrize(
    ("model", "required", "says"),
    [
        ({"version": "8"}, False, "'8' is not the '7'"),
        ({"version": "7"}, True, ""),
        ({}, False, ""),
        ({}, True, "requires the model's version"),
        ({"digest": "f" * 64}, True, "requires the model's version"),  # the bundle knows no digest to compare it with
    ],
)
def test_the_model_contract(policy, sample, signals, model, required, says):
    made = demur.fit(
        {**policy, "model": {"name": "m", "version": "7", "required": required}},
        reference=sample(400, 1),
        calibration=sample(600, 2),
    )
    verdicts = demur.Monitor.of(made).assess(model=model, **signals)
    if says:
        assert (verdicts.reason_bits == Reason.UNAVAILABLE).all()
        assert says in verdicts.reasons[0][0]
    else:
        assert not (verdicts.reason_bits & Reason.UNAVAILABLE).any()


@pytest.mark.parametrize(
    ("mode", "choice"), [("observe", "block"), ("observe", "pass"), ("enforce", "block"), ("enforce", "pass")]
)
def test_actions_follow_the_operator_and_verdicts_do_not(mode, choice):
    bits = np.array([0, Reason.NOVEL, Reason.INVALID, Reason.UNAVAILABLE, Reason.NOVEL | Reason.INVALID])
    want = {("enforce", "block"): [0, 2, 2, 2, 2], ("enforce", "pass"): [0, 2, 0, 0, 2]}.get((mode, choice), [0] * 5)
    np.testing.assert_array_equal(act(bits, mode, choice), want)


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


def test_a_listener_that_fails_changes_no_answer(bundle, signals):
    heard = []

    def listener(event):
        heard.append(event)
        raise RuntimeError("no")

    monitor = demur.Monitor.of(bundle, listeners=[listener])
    equal(monitor.assess(**signals), demur.Monitor.of(bundle).assess(**signals))
    assert len(heard) == 1


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


def test_a_missing_signal_is_named(monitor, signals):
    verdicts = monitor.assess(logits=signals["logits"])
    assert (verdicts.reason_bits == Reason.UNAVAILABLE).all()
    assert np.isnan(verdicts.scores).all()
    assert verdicts.scores.shape == verdicts.p_values.shape == (64, len(verdicts.columns))
    assert verdicts.reasons[0] == ("UNAVAILABLE: missing signal: features",)


def test_a_deadline_that_has_passed_is_not_scored(bundle, signals, monkeypatch):
    monitor = demur.Monitor.of(bundle)
    calls = []
    monkeypatch.setattr(monitor.engine.loaded.session, "run_columns", calls.append)
    verdicts = monitor.assess(deadline=time.perf_counter() - 0.01, **signals)
    assert not calls
    assert (verdicts.reason_bits == Reason.UNAVAILABLE).all()
    assert "not in time" in verdicts.reasons[0][0]


def test_an_answer_that_took_too_long_is_not_used(bundle, signals, monkeypatch):
    monitor = demur.Monitor.of(bundle, conduct=Conduct(budget_seconds=0.05))
    session = monitor.engine.loaded.session
    run = session.run_columns

    def slow(feed):
        time.sleep(0.06)
        return run(feed)

    assert monitor.assess(**signals).accept.any()
    monkeypatch.setattr(session, "run_columns", slow)
    late = monitor.assess(**signals)
    assert (late.reason_bits == Reason.UNAVAILABLE).all()
    assert "past the budget" in late.cause
    assert (monitor.assess(deadline=time.perf_counter() + 60, **signals).reason_bits == Reason.UNAVAILABLE).all()


@pytest.mark.parametrize("mode", ["observe", "enforce"])
@pytest.mark.parametrize("choice", ["block", "pass", None])
@pytest.mark.parametrize("fault", ["crash", "missing", "late", "model"])
def test_nothing_turns_a_fault_into_an_acceptance(bundle, signals, monkeypatch, mode, choice, fault):
    monitor = demur.Monitor.of(bundle, conduct=Conduct(mode=mode, on_failure=choice))

    def broken(_feed):
        raise MemoryError

    if fault == "crash":
        monkeypatch.setattr(monitor.engine.loaded.session, "run_columns", broken)
    sent = {n: a for n, a in signals.items() if fault != "missing" or n != "features"}
    about = {"late": {"deadline": 0.0}, "model": {"model": {"version": "other"}}}.get(fault, {})
    verdicts = monitor.assess(**sent, **about)
    assert not verdicts.accept.any()
    assert (verdicts.reason_bits == Reason.UNAVAILABLE).all()
    want = 2 if mode == "enforce" and choice != "pass" else 0  # the bundle's own choice is block
    assert set(verdicts.actions.tolist()) == {want}
    assert verdicts.mode == mode


def test_a_request_without_groups_of_a_policy_that_judges_them_says_so(sample):
    made = [
        {k: v for k, v in sample(240, s).items() if k != "features"} | {"group_id": np.arange(240) // 4} for s in (1, 2)
    ]
    monitor = demur.Monitor.of(demur.fit(GROUPED, reference=made[0], calibration=made[1]))
    assert "group_id is missing" in monitor.assess(logits=made[0]["logits"][:3]).cause


class Failing:
    """A recorder that cannot record."""

    def __init__(self, error):
        self.error = error

    def record(self, loaded, observation, verdicts):
        raise self.error


@pytest.mark.parametrize("error", [AuditUnavailable("the log is full"), RuntimeError("a defect")])
def test_a_recorder_that_fails_lets_no_verdict_out(bundle, signals, error):
    heard = []
    monitor = demur.Monitor.of(bundle, recorder=Failing(error), listeners=[heard.append])
    with pytest.raises(type(error)):
        monitor.assess(**signals)
    assert not heard


def test_rows_outside_the_calibration_range_are_counted(bundle, signals):
    loaded = Loaded.open(bundle)
    assert out_of_range(loaded, observe(loaded.widths, signals)) < 8
    far = {n: a.copy() for n, a in signals.items()}
    far["features"][:5, 2] = 1e6
    far["logits"][5:9, 0] = -1e6
    near = out_of_range(loaded, observe(loaded.widths, {n: a[9:] for n, a in signals.items()}))
    assert out_of_range(loaded, observe(loaded.widths, far)) == 9 + near


ODD_GROUPS = {
    "floats": ({"group_id": [1.0]}, "integers"),
    "too many": ({"group_id": [1, 2]}, r"\(1,\) integers"),
    "beyond 64 bits": ({"group_id": np.array([2**63], np.uint64)}, r"below 2\*\*63"),
    "ragged": ({"group_id": [[1], [1, 2]]}, "array of numbers"),
    "twice": ({"group_id": [1], "groups": [1, 1]}, "only|once"),
    "named in floats": ({"group_id": [1], "groups": [1.5]}, "integers"),
    "named in words": ({"group_id": [1], "groups": ["a"]}, "integers"),
    "named but not given": ({"groups": [1]}, "group_id"),
}


@pytest.mark.parametrize("case", ODD_GROUPS)
def test_groups_that_make_no_sense_are_refused(case):
    given_groups, says = ODD_GROUPS[case]
    with pytest.raises(InvalidObservation, match=says):
        observe({"logits": 4}, {"logits": np.zeros((1, 4), np.float32)}, **given_groups)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_group_ids_are_numbered_and_named_back(ids):
    array = np.array(ids, np.int64)
    found = group_rows(array, None, len(ids))
    np.testing.assert_array_equal(found.names[found.index], array)
    ordered = list(dict.fromkeys(ids))
    listed = group_rows(array, ordered, len(ids))
    assert listed.names.tolist() == ordered
    np.testing.assert_array_equal(listed.names[listed.index], array)


def test_what_cannot_become_an_array_is_refused_in_words():
    class Elsewhere:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("on another device")

    with pytest.raises(InvalidObservation, match=r"logits: .*Elsewhere.*on another device.*convert"):
        observe({"logits": 4}, {"logits": Elsewhere()})
