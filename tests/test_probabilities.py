"""`kind: probabilities`: scores see the logits that a softmax came from, whatever a server exposes of them."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.detectors.compile import compile_monitor, serialize
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.policy import Column, Rule
from demur.detectors.reason import Reason
from demur.detectors.score import Reference
from demur.detectors.scores.logit import MSP
from demur.detectors.transforms.probability import LogProbabilities
from demur.monitor.auto.candidates import candidates
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import BundleError, ConfigurationError
from demur.monitor.fit.checks import ContractViolation
from demur.monitor.loaded import Loaded
from demur.monitor.session import Session

CLASSES = 5
SCORES = ["msp", "entropy", "gen", "margin", "doctor", "kl_matching", "max_sup", "odin"]


def logits(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows)
    z = rng.normal(0, 1.5, (rows, CLASSES))
    z[np.arange(rows), label] += 3
    return z.astype(np.float32), label


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def policy(kind: str, scores=SCORES, width: int = CLASSES, **more) -> dict:
    rule = {"novel": {"when": scores[0], "promise": {"refuse_good_at_most": 0.1}} | more}
    return {"monitor": "m", "signals": {"logits": {"width": width, "kind": kind}}, "scores": scores, "rules": [rule]}


def fitted(kind: str, shown, **more) -> Engine:
    tables = [{"logits": shown(z), "label": label} for z, label in (logits(900, 1), logits(300, 2))]
    return Engine(Loaded.open(demur.fit(policy(kind, **more), reference=tables[0], calibration=tables[1])))


def assessed(engine: Engine, rows: np.ndarray):
    return demur.Monitor(engine).assess(logits=rows)


def as_they_are(z: np.ndarray) -> np.ndarray:
    return z


@pytest.mark.parametrize("more", [{}, {"slice": "predicted_class"}], ids=["all", "a class"])
def test_scores_of_a_softmax_are_those_of_its_logits(more):
    test, _ = logits(200, 3)
    by_logits = assessed(fitted("logits", as_they_are, **more), test)
    by_softmax = assessed(fitted("probabilities", softmax, **more), softmax(test))
    np.testing.assert_allclose(by_softmax.scores, by_logits.scores, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(by_softmax.p_values, by_logits.p_values, atol=0.011)  # a rank more or less
    assert (by_softmax.accept == by_logits.accept).mean() > 0.98
    largest = softmax(test).astype(np.float64).max(axis=1)
    np.testing.assert_allclose(by_softmax.scores[:, 0], 1 - largest, atol=2e-6)


def test_a_row_that_is_no_distribution_is_invalid_and_rounding_is_not():
    engine = fitted("probabilities", softmax)
    good = softmax(logits(9, 4)[0])
    good[0], good[1], good[2] = [1, 0, 0, 0, 0], [0.5, 0.5, -1.2e-7, 1.2e-7, 0], good[2] * np.float32(1.005)
    bad = softmax(logits(6, 5)[0])
    bad[0, 3], bad[1], bad[2], bad[3, 1] = np.nan, bad[1] * np.float32(1.02), [1.2, -0.2, 0, 0, 0], np.inf
    bad[4], bad[5] = logits(1, 6)[0][0], -np.inf
    verdicts = assessed(engine, np.concatenate([good, bad]))
    assert np.isfinite(verdicts.scores[:9]).all()
    assert not verdicts.accept[9:].any()
    assert np.isnan(verdicts.scores[9:]).all()
    assert all(Reason.INVALID.name in "".join(r) for r in verdicts.reasons[9:])


def test_the_graph_and_numpy_agree_whatever_comes():
    rng = np.random.default_rng(7)
    rows = softmax(logits(400, 8)[0])
    rows[:100] = rng.dirichlet(np.full(CLASSES, 0.02), 100)
    rows[100:140] *= rng.uniform(0.9, 1.1, (40, 1))
    rows[140:180, 2] = rng.choice([np.nan, np.inf, -np.inf, -0.01, 1e30, -1e30], 40)
    shaped = (LogProbabilities(),)
    tables = tuple(np.sort(rng.random(20)).astype(np.float32) for _ in range(CLASSES))
    sliced = Column("msp", "msp", sliced=True, calibration=tables)
    limits = np.full(CLASSES, 0.2, np.float32)
    rules = (Rule("r", "msp", Reason.OUT_OF_SCOPE, limits, np.zeros(CLASSES, np.bool_)),)
    scores = {"msp": MSP(np.float32(1.0))}
    graph = Session(serialize(compile_monitor(scores, [sliced], rules, {"logits": CLASSES}, shaped=shaped)))
    wanted = evaluate_monitor(scores, [sliced], rules, {"logits": rows.astype(np.float32)}, shaped=shaped)
    found = graph.run({"logits": rows.astype(np.float32)})
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-5, atol=1e-6)
    for name in ("accept", "reasons", "rule_hits"):
        np.testing.assert_array_equal(found[name], wanted[name])
    assert np.isnan(found["scores"][140:180]).all()


def test_logarithms_against_float64():
    rows = np.random.default_rng(9).dirichlet(np.full(CLASSES, 0.3), 200).astype(np.float32)
    found = LogProbabilities()(NumpyOps(), {"logits": rows})["logits"]
    wanted = [[np.log(max(float(p), 2.0**-126)) for p in row] for row in rows]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["probabilities", "log_probabilities"])
def test_the_energy_of_a_distribution_is_refused(kind):
    shown = softmax if kind == "probabilities" else lambda z: np.log(softmax(z))
    with pytest.raises(
        ConfigurationError, match=f"score energy: it reads the energy, and that of {kind} is the logarithm"
    ):
        fitted(kind, shown, scores=["energy"])


def test_an_energy_that_tells_distributions_apart_is_taken():
    """At another temperature, or with weights of classes, the sum is not 1."""
    warm = [
        {"warm": {"type": "energy", "temperature": 2}},
        {"heavy": {"type": "weighted_energy", "weights": [0.1, 0.2, 0.3, 0.2, 0.2]}},
    ]
    tables = [{"logits": softmax(z), "label": label} for z, label in (logits(900, 1), logits(300, 2))]
    document = policy("probabilities", ["msp"]) | {"scores": ["msp", *warm]}
    assert (
        np.ptp(
            assessed(
                Engine(Loaded.open(demur.fit(document, reference=tables[0], calibration=tables[1]))),
                tables[1]["logits"],
            ).scores,
            axis=0,
        ).min()
        > 0.1
    )


def test_the_bank_of_nnguide_reads_the_energy_too():
    rng = np.random.default_rng(5)
    tables = [
        {"logits": softmax(z), "features": rng.normal(size=(len(z), 4)).astype(np.float32)}
        for z, _ in (logits(900, 1), logits(300, 2))
    ]
    document = policy("probabilities", ["nnguide"])
    document["signals"]["features"] = 4
    with pytest.raises(ConfigurationError, match="score nnguide: it reads the energy"):
        demur.fit(document, reference=tables[0], calibration=tables[1])


def test_one_probability_alone_is_refused():
    rows = [{"logits": softmax(logits(n, n)[0])[:, :1]} for n in (300, 200)]
    with pytest.raises(ConfigurationError, match="expected a column a class, got width 1"):
        demur.fit(policy("probabilities", ["msp"], width=1), reference=rows[0], calibration=rows[1])


def test_logits_said_to_be_probabilities_are_refused():
    with pytest.raises(ContractViolation, match="declared probabilities, but 900 of 900 rows are not"):
        fitted("probabilities", as_they_are)


def test_auto_chooses_on_what_scores_see_and_never_the_energy():
    """The energy of rows without a class would not be 0 where it is judged, and is 0 where it is served."""
    chosen = []
    for kind, shown in (("log_probabilities", lambda z: np.log(softmax(z))), ("probabilities", softmax)):
        tables = [{"logits": shown(z), "label": label} for z, label in (logits(900, 1), logits(600, 2), logits(300, 3))]
        rules = [{"wrong": {"when": "errors", "promise": {"refuse_good_at_most": 0.1}}}]
        document = policy(kind) | {"scores": "auto", "rules": rules}
        bundle = demur.fit(document, reference=tables[0], selection=tables[1], calibration=tables[2])
        chosen.append([s.type for s in PolicyConfig.model_validate(bundle.manifest.policy).scores])
    assert chosen[0] == chosen[1]
    assert "energy" not in chosen[0]
    held = Reference({"logits": np.log(softmax(logits(50, 1)[0]))})
    assert {c.type for c in candidates(Reference({"logits": logits(50, 1)[0]}))} - {
        c.type for c in candidates(held)
    } == {"energy"}


def test_a_bundle_whose_graph_takes_probabilities_for_logits_is_served_and_not_calibrated_again(monkeypatch):
    """As demur made it before: stored scores and a new graph would be of different numbers."""
    z, label = logits(900, 1)
    tables = [
        {"logits": softmax(z), "label": label},
        {"logits": softmax(logits(300, 2)[0]), "label": logits(300, 2)[1]},
    ]
    with monkeypatch.context() as earlier:
        earlier.setattr("demur.monitor.fit.assemble.shaping", lambda _: ())
        earlier.setattr("demur.monitor.fit.scores.shaping", lambda _: ())
        old = demur.fit(policy("probabilities"), reference=tables[0], calibration=tables[1])
    assert np.isfinite(assessed(Engine(Loaded.open(old)), tables[1]["logits"]).scores).all()
    for calibration in (None, tables[1]):
        with pytest.raises(BundleError, match="fitted on probabilities as if they were logits"):
            demur.calibrate(old, calibration=calibration)
    new = demur.fit(policy("probabilities"), reference=tables[0], calibration=tables[1])
    assert demur.calibrate(new).manifest.rules == new.manifest.rules


def test_what_no_score_reads_needs_no_logarithm():
    rng = np.random.default_rng(11)
    tables = [
        {"logits": softmax(z), "label": label, "features": rng.normal(size=(len(z), 3)).astype(np.float32)}
        for z, label in (logits(900, 1), logits(600, 2))
    ]
    document = policy("probabilities", ["mahalanobis"], slice="predicted_class")
    document["signals"]["features"] = 3
    made = demur.fit(document, reference=tables[0], calibration=tables[1])
    assert demur.calibrate(made).manifest.rules == made.manifest.rules
