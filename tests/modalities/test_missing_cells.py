"""Rows of a table with missing cells, from fit to verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

import demur
from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.policy import Column
from demur.detectors.score import Reference
from demur.detectors.scores import SCORES
from demur.monitor.errors import ConfigurationError
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.roc import auroc
from demur.monitor.fit.checks import ContractViolation
from demur.monitor.fit.pipeline import calibrate
from demur.monitor.fit.scores import restore_scores
from demur.monitor.perturb import find

KINDS = ("isolation_forest", "knn", "ecod", "copod", "hbos", "lof")


def holed(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Cells removed at random."""
    return np.where(np.random.default_rng(seed).random(rows.shape) < share, np.nan, rows).astype(np.float32)


def table(count: int, seed: int, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return holed(rng.normal(size=(count, width)) + 3.0, 0.2, seed + 1000)


def policy(width: int = 5, **scores: object) -> dict[str, object]:
    named = scores or {"ecod": {}, "missingness": {}}
    return {
        "monitor": "cells",
        "signals": {"table": {"width": width, "kind": "table"}},
        "scores": [{n: {"on": "table", **(h or {})}} for n, h in named.items()],
        "rules": [{f"r_{n}": {"when": n, "promise": {"refuse_good_at_most": 0.1}}} for n in named],
    }


@pytest.fixture(scope="module")
def bundle() -> demur.Bundle:
    return demur.fit(policy(), reference={"table": table(400, 0)}, calibration={"table": table(500, 1)})


def test_missing_cells_are_judged_and_infinities_are_invalid(bundle):
    rows = table(6, 2)
    rows[0], rows[1, 2], rows[2, 0], rows[3] = np.nan, np.inf, -np.inf, 3.0
    verdicts = demur.Monitor.of(bundle).assess(table=rows)
    invalid = ["INVALID" in str(reason) for reason in verdicts.reasons]
    assert invalid == [False, True, True, False, False, False]
    assert not verdicts.accept[1:3].any()
    assert np.isfinite(verdicts.scores[[0, 3, 4, 5]]).all()
    column = verdicts.columns.index("missingness")
    assert verdicts.scores[0, column] > verdicts.scores[3, column]
    assert verdicts.p_values[0, column] < 0.01


def test_the_graph_equals_numpy_and_keeps_its_promise(bundle):
    rows = table(4000, 3)
    verdicts = demur.Monitor.of(bundle).assess(table=rows)
    scores = restore_scores(bundle)
    columns = [Column(c.name, c.score) for c in bundle.manifest.columns]
    want = evaluate_monitor(scores, columns, [], {"table": rows})["scores"]
    np.testing.assert_allclose(verdicts.scores, want, rtol=2e-5, atol=1e-5)
    assert verdicts.accept.mean() > 0.78  # two rules at 10 %


def test_a_batch_changes_no_bit(bundle):
    monitor, rows = demur.Monitor.of(bundle), table(64, 4)
    whole = monitor.assess(table=rows).scores
    parts = [monitor.assess(table=rows[i : i + size]).scores for size in (1,) for i in range(0, 64, size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_any_not_a_number_is_a_missing_cell(bundle):
    """Signalling and negative NaNs too: their bits differ."""
    rows = table(4, 5)
    rows[:, 1] = np.nan
    odd = rows.copy()
    odd.view(np.uint32)[:, 1] = [0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF]
    monitor = demur.Monitor.of(bundle)
    np.testing.assert_array_equal(monitor.assess(table=odd).scores, monitor.assess(table=rows).scores)


def test_other_signals_beside_a_table_stay_strict():
    config = policy(ecod={})
    config["signals"]["logits"] = 3
    config["scores"].append("msp")
    rng = np.random.default_rng(0)

    def rows(count: int, seed: int) -> dict[str, np.ndarray]:
        return {"table": table(count, seed), "logits": rng.normal(size=(count, 3)).astype(np.float32) * 4}

    monitor = demur.Monitor.of(demur.fit(config, reference=rows(300, 0), calibration=rows(300, 1)))
    asked = rows(2, 2)
    asked["table"][:, 0] = np.nan
    asked["logits"][1, 0] = np.nan
    assert ["INVALID" in str(r) for r in monitor.assess(**asked).reasons] == [False, True]


def test_calibrating_again_keeps_the_medians(bundle):
    again = calibrate(bundle, calibration={"table": table(300, 7)})
    rows = table(50, 8)
    old, new = (demur.Monitor.of(b).assess(table=rows).scores for b in (bundle, again))
    np.testing.assert_array_equal(old, new)


def test_features_by_name_are_filled_too():
    config = policy(knn={})
    config["signals"] = {"features": {"width": 5, "kind": "table"}}
    config["scores"] = ["knn", {"pattern": {"type": "missingness"}}]
    config["rules"] = [{"novel": {"when": "knn", "promise": {"refuse_good_at_most": 0.1}}}]
    bundle = demur.fit(config, reference={"features": table(300, 0)}, calibration={"features": table(300, 1)})
    assert np.isfinite(demur.Monitor.of(bundle).assess(features=np.full((1, 5), np.nan, np.float32)).scores).all()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.__setitem__((slice(None), 3), np.nan), "columns 3 are missing in every row"),
        (lambda t: t.__setitem__((7, 1), np.inf), "1 rows hold infinity; write missing cells as NaN"),
    ],
)
def test_tables_that_cannot_be_fitted_on(spoil, words):
    reference = table(300, 0)
    spoil(reference)
    with pytest.raises(ContractViolation, match=words):
        demur.fit(policy(), reference={"table": reference}, calibration={"table": table(300, 1)})


def test_what_reads_raw_cells_is_refused():
    config = policy(ecod={})
    config["scores"] = [{"raw": {"type": "given", "signal": "table"}}]
    config["rules"] = [{"r": {"when": "raw", "promise": {"refuse_good_at_most": 0.1}}}]
    with pytest.raises(ValueError, match="reads table, whose cells may be missing; put impute before it"):
        demur.fit(config, reference={"table": table(300, 0)}, calibration={"table": table(300, 1)})
    chain = {"transforms": [{"select": {"signal": "table"}}], "score": "ecod"}
    config["scores"] = [{"raw": {"type": "shaped", **chain}}]
    with pytest.raises(ValueError, match="a transform reads table, whose cells may be missing; put impute first"):
        demur.fit(config, reference={"table": table(300, 0)}, calibration={"table": table(300, 1)})


def test_scores_that_choose_their_signal_get_filled_cells_by_on():
    """What `on` means for a signal without missing cells: `features`, whatever the score asks for."""
    config = policy(given={"signal": "features"})
    monitor = demur.Monitor.of(
        demur.fit(config, reference={"table": table(300, 0)}, calibration={"table": table(300, 1)})
    )
    rows = np.array([[1, np.nan, 9, 2, 3], [1, 2, np.nan, 2, np.inf]], np.float32)
    verdicts = monitor.assess(table=rows)
    assert verdicts.scores[0, 0] == 9
    assert "INVALID" in str(verdicts.reasons[1])


@dataclass(frozen=True)
class Both:
    """Reads the cells and their mask."""

    inputs: ClassVar[tuple[str, ...]] = ("features", "features_missing")

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        next(reference.batches(*cls.inputs))
        return cls()

    def __call__(self, xp, signals):
        return xp.sum(signals["features"]) + 100.0 * xp.sum(signals["features_missing"])


def test_a_mask_is_taken_before_the_cells_are_filled(monkeypatch):
    monkeypatch.setitem(SCORES, "both", Both)
    reference = Reference({"features": np.array([[1.0, 2.0], [np.nan, 4.0]])}, absent=frozenset(["features"]))
    rows = {"features": np.array([[np.nan, 5.0], [7.0, 8.0], [np.inf, np.nan]], np.float32)}
    found = evaluate({"both": build_score("both", {}, reference)}, rows)["both"]
    np.testing.assert_array_equal(found, [106.0, 15.0, np.nan])


@pytest.mark.parametrize("on", [{}, {"on": "token_logprob"}])
def test_streams_read_no_tables(on):
    config = {
        "monitor": "cells",
        "signals": {"token_logprob": {"width": 1, "kind": "features" if on else "table"}},
        "scores": [{"mean_nll": on}],
        "rules": [{"r": {"when": "mean_nll", "unit": "stream", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    steps = [-np.random.default_rng(s).random((400, 1)) for s in (0, 1)]
    sets = [{"token_logprob": s, "group_id": np.repeat(np.arange(100), 4)} for s in steps]
    with pytest.raises(ValueError, match="is a score of streams, which reads its signals as they come"):
        demur.fit(config, reference=sets[0], calibration=sets[1])


def test_logits_are_no_table():
    """Their argmax is the predicted class, which rules are sliced by."""
    config = policy(ecod={})
    config["signals"]["logits"] = {"width": 3, "kind": "table"}
    with pytest.raises(ConfigurationError, match="`logits` is no table"):
        demur.fit(config, reference={}, calibration={})


@pytest.mark.parametrize("how", ["impute", "missing"])
def test_cells_are_not_filled_where_nobody_said_that_they_may_be_missing(how):
    config = policy(ecod={})
    config["signals"] = {"features": 5}
    inner = "ecod" if how == "impute" else "missingness"
    chain = {"transforms": [{how: {"signal": "features"}}], "score": inner}
    config["scores"] = [{"ecod": {"type": "shaped", **chain}}]
    whole = {n: {"features": np.nan_to_num(table(300, s))} for s, n in enumerate(("reference", "calibration"))}
    with pytest.raises(ValueError, match="features is no table with missing cells; declare it with `kind: table`"):
        demur.fit(config, **whole)


def test_a_signal_that_is_no_table_refuses_missing_cells():
    config = policy(ecod={})
    config["signals"] = {"table": 5}
    with pytest.raises(ContractViolation, match="rows hold NaN or infinity"):
        demur.fit(config, reference={"table": table(300, 0)}, calibration={"table": table(300, 1)})


def test_auto_says_that_it_cannot():
    config = {k: v for k, v in policy().items() if k != "scores"}
    config["rules"] = [{"r": {"when": "novelty", "promise": {"refuse_good_at_most": 0.1}}}]
    given = {name: {"table": table(300, seed)} for seed, name in enumerate(("reference", "calibration", "selection"))}
    with pytest.raises(ValueError, match="--auto cannot choose on missing cells yet"):
        demur.fit(config, **given)


def worlds() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ordinary rows and strange ones of real tables: benign against malignant tumours, two wines against the third."""
    cancer, wine = load_breast_cancer(), load_wine()
    return {
        "breast_cancer": (cancer.data[cancer.target == 1], cancer.data[cancer.target == 0]),
        "wine": (wine.data[wine.target != 2], wine.data[wine.target == 2]),
    }


def ranked(bundle: demur.Bundle, ordinary: np.ndarray, strange: np.ndarray) -> dict[str, float]:
    verdicts = demur.Monitor.of(bundle).assess(table=np.concatenate([ordinary, strange]))
    bad = np.repeat([0, 1], [len(ordinary), len(strange)])
    return {n: float(auroc(Counts.of(verdicts.scores[:, i], bad))) for i, n in enumerate(verdicts.columns)}


@pytest.mark.parametrize(("name", "floor"), [("breast_cancer", 0.9), ("wine", 0.9)])
def test_real_tables_with_and_without_a_fifth_of_their_cells(name, floor, record_property):
    ordinary, strange = worlds()[name]
    spread = ordinary.std(axis=0)
    ordinary, strange = ordinary / spread, strange / spread
    order = np.random.default_rng(0).permutation(len(ordinary))
    cut = np.split(ordinary[order], [len(order) // 2, len(order) * 3 // 4])
    config = policy(ordinary.shape[1], **{kind: {} if kind not in ("knn", "lof") else {"k": 5} for kind in KINDS})
    config["rules"] = [{"novel": {"when": "ecod", "promise": {"refuse_good_at_most": 0.1}}}]
    for score in config["scores"]:
        if "knn" in score:
            score["knn"]["metric"] = "euclidean"
    found = {}
    for share in (0.0, 0.2):
        ref, cal, test = (holed(part, share, seed) for seed, part in enumerate(cut))
        bundle = demur.fit(config, reference={"table": ref}, calibration={"table": cal})
        found[share] = ranked(bundle, test, holed(strange, share, 9))
        record_property(f"{name} AUROC, {share:.0%} of the cells missing", found[share])
    print(name, found)
    assert max(found[0.0].values()) > floor
    for kind in KINDS:
        assert found[0.2][kind] > found[0.0][kind] - 0.1, (kind, found)
    assert np.mean(list(found[0.2].values())) > floor - 0.1


def test_lost_steps_of_a_series_can_be_a_table():
    """The `missing` fault of `demur perturb` is what the missingness score sees."""
    rng = np.random.default_rng(0)
    series = rng.normal(size=(600, 12, 1)).astype(np.float32)
    some = find("series", "missing")(series, 1).array.reshape(600, 12)
    config = policy(12, missingness={})
    bundle = demur.fit(config, reference={"table": some[:300]}, calibration={"table": some[300:]})
    worst = find("series", "missing")(series, 5, seed=1).array.reshape(600, 12)
    assert demur.Monitor.of(bundle).assess(table=worst).accept.mean() < 0.05
