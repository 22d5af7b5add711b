"""Whatever fails in the engine is an abstention that says why, never an acceptance."""

from __future__ import annotations

import time

import numpy as np
import pytest

import demur
from demur.detectors.reason import Reason
from demur.monitor.engine import Conduct
from demur.monitor.errors import AuditUnavailable
from demur.monitor.verdicts import act

COLUMNS = ("scores", "p_values", "rule_hits", "reason_bits", "accept")


@pytest.fixture(scope="module")
def monitor(bundle):
    return demur.Monitor.of(bundle)


def equal(one, other):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


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


def test_a_listener_that_fails_changes_no_answer(bundle, signals):
    heard = []

    def listener(event):
        heard.append(event)
        raise RuntimeError("no")

    monitor = demur.Monitor.of(bundle, listeners=[listener])
    equal(monitor.assess(**signals), demur.Monitor.of(bundle).assess(**signals))
    assert len(heard) == 1


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


class Failing:
    """A recorder that cannot record."""

    gates = True

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
