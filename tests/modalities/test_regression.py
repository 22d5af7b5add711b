"""Regressions: calibrated intervals, errors beyond a tolerance, numbers that come later."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.neighbors import KNeighborsRegressor
from typer.testing import CliRunner

import demur
from demur.detectors.promises import CalibrationSample, ErrorWhenAcceptedAtMost, RuleSpec, calibrate
from demur.detectors.reason import Reason
from demur.detectors.score import Reference
from demur.detectors.scores.regression import IntervalWidth, conformal_quantile
from demur.monitor.cli.main import app
from demur.monitor.errors import ConfigurationError
from demur.monitor.evaluate.notes import known_rows
from demur.monitor.fit.checks import ContractViolation
from demur.monitor.fit.intervals import intervals
from demur.monitor.fit.pipeline import calibrate as recalibrate
from demur.monitor.fit.sources import as_config, as_reference, as_table
from demur.monitor.fit.table import SignalsTable, TableError, load_table

DRAWS, ROWS, COVERAGE = 1500, 20, 0.9
TOLERANCE = 2.0


def world(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """target = estimate + spread * N(0, 1); quantiles that are too narrow by far."""
    estimate, spread = 100 * rng.normal(size=count), rng.uniform(0.5, 3.0, count)
    found = {"estimate": estimate, "spread": spread, "low": estimate - 0.3, "high": estimate + 0.3}
    table = {name: column[:, None].astype(np.float32) for name, column in found.items()}
    noise = rng.normal(size=count)
    return {**table, "target": table["estimate"][:, 0] + table["spread"][:, 0].astype(np.float64) * noise}


def reference(table: dict[str, np.ndarray]) -> Reference:
    return Reference({n: a for n, a in table.items() if n != "target"}, target=table["target"])


def coverage_of_spread(q: float) -> float:
    return float(2 * norm.cdf(q) - 1)


def coverage_of_quantiles(q: float) -> float:
    """Over spreads uniform on [0.5, 3]."""
    spreads = np.linspace(0.5, 3, 400)
    return float(np.mean(2 * norm.cdf(max(0.3 + q, 0.0) / spreads) - 1))


NAIVE = {
    "spread": lambda t: np.abs(t["target"] - t["estimate"][:, 0]) / t["spread"][:, 0],
    "quantiles": lambda t: np.maximum(t["low"][:, 0] - t["target"], t["target"] - t["high"][:, 0]),
}


@pytest.mark.parametrize(("by", "covered"), [("spread", coverage_of_spread), ("quantiles", coverage_of_quantiles)])
def test_the_interval_covers_on_average_and_the_empirical_quantile_does_not(by, covered):
    rng = np.random.default_rng(11)
    ours, naive = [], []
    for _ in range(DRAWS):
        table = world(rng, ROWS)
        ours.append(covered(float(IntervalWidth.fit(reference(table), by=by, coverage=COVERAGE).quantile[0])))
        naive.append(covered(float(np.quantile(NAIVE[by](table), COVERAGE, method="inverted_cdf"))))
    error = 3 * np.std(ours) / math.sqrt(DRAWS)
    assert np.mean(ours) >= COVERAGE - error
    assert np.mean(ours) <= COVERAGE + 1 / (ROWS + 1) + error
    assert np.mean(naive) < COVERAGE - error


def test_rows_inside_their_interval_are_counted_on_real_draws():
    rng = np.random.default_rng(0)
    score = IntervalWidth.fit(reference(world(rng, 2000)), coverage=0.8)
    table = world(rng, 20_000)
    low, high = score.interval(table)
    assert np.mean((table["target"] >= low) & (table["target"] <= high)) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("coverage", "rows", "least"), [(0.9, 8, 9), (0.95, 18, 19), (0.99, 98, 99)])
def test_too_few_rows_cannot_carry_a_coverage(coverage, rows, least):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=f"coverage {coverage:g} needs at least {least} rows with targets, got {rows}"):
        IntervalWidth.fit(reference(world(rng, rows)), coverage=coverage)
    IntervalWidth.fit(reference(world(rng, least)), coverage=coverage)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.pop("target"), "expected `target`"),
        (lambda t: t["spread"].__setitem__(3, 0.0), "expected spread above 0 in every reference row"),
        (lambda t: t["estimate"].__setitem__(3, np.inf), "1 reference rows are not finite"),
        (lambda t: t.update(spread=np.full((50, 1), 1e-45, np.float32)), "check the spread's unit"),
        (lambda t: t.update(spread=np.ones((50, 2), np.float32)), r"expected spread \(N, 1\), got \(50, 2\)"),
    ],
)
def test_references_that_give_no_interval(spoil, words):
    table = world(np.random.default_rng(0), 50)
    spoil(table)
    given = Reference({n: a for n, a in table.items() if n != "target"}, target=table.get("target"))
    with pytest.raises(ValueError, match=words):
        IntervalWidth.fit(given)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 1.5, float("nan"), "0.9"])
def test_coverages_that_are_none(coverage):
    with pytest.raises(ValueError, match="coverage"):
        IntervalWidth.fit(reference(world(np.random.default_rng(0), 50)), coverage=coverage)


def test_the_half_width_of_a_constant_interval():
    assert conformal_quantile(np.arange(1.0, 100.0), 0.9) == 90
    assert conformal_quantile(np.arange(1.0, 10.0), 0.9) == 9


POLICY = {
    "monitor": "prices",
    "signals": {"estimate": 1, "spread": 1},
    "tolerance": TOLERANCE,
    "scores": [{"interval_width": {"coverage": 0.9}}],
    "rules": [
        {"ambiguous": {"when": "interval_width", "promise": {"error_when_accepted_at_most": 0.1, "confidence": 0.9}}}
    ],
}


@pytest.fixture(scope="module")
def bundle() -> demur.Bundle:
    rng = np.random.default_rng(3)
    return demur.fit(POLICY, reference=world(rng, 500), calibration=world(rng, 1500))


def test_errors_beyond_the_tolerance_are_what_is_promised(bundle):
    table = world(np.random.default_rng(4), 20_000)
    verdicts = demur.Monitor.of(bundle).assess(estimate=table["estimate"], spread=table["spread"])
    wrong = np.abs(table["target"] - table["estimate"][:, 0]) > TOLERANCE
    assert wrong.mean() > 0.2
    assert wrong[verdicts.accept].mean() <= 0.1
    assert 0.3 < verdicts.accept.mean() < 0.9
    assert "at most 10.0 % are wrong" in bundle.manifest.statements[0]
    assert "an answer is wrong when `estimate` is off `target` by more than 2" in bundle.manifest.findings


def test_evaluation_uses_the_same_tolerance(bundle):
    table = world(np.random.default_rng(5), 3000)
    found = demur.evaluate(bundle, table, bootstrap=0)
    wrong = np.abs(table["target"] - table["estimate"][:, 0]) > TOLERANCE
    labelled = demur.evaluate(bundle, {n: table[n] for n in ("estimate", "spread")} | {"loss": wrong}, bootstrap=0)
    assert found.rankings == labelled.rankings
    assert found.rankings


def test_another_tolerance_needs_the_targets_again(bundle):
    changed = {**POLICY, "tolerance": 3.0}
    with pytest.raises(ConfigurationError, match=r"wrong than the bundle's 2\.0; give calibration data"):
        recalibrate(bundle, config=changed)
    again = recalibrate(bundle, config=changed, calibration=world(np.random.default_rng(6), 1500))
    assert [f for f in again.manifest.findings if "an answer is wrong" in f] == [
        "an answer is wrong when `estimate` is off `target` by more than 3"
    ]
    table = world(np.random.default_rng(4), 4000)
    accepted = [
        demur.Monitor.of(b).assess(estimate=table["estimate"], spread=table["spread"]).accept for b in (bundle, again)
    ]
    assert accepted[1].mean() > accepted[0].mean() + 0.1


def test_a_promise_over_many_draws_with_losses_from_the_tolerance():
    """P(wrong | spread) = 2 (1 - Phi(tolerance / spread)) rises with the spread: the risk below a width is known."""
    rng = np.random.default_rng(7)
    rule = RuleSpec("ambiguous", "w", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(0.2, 0.9))
    grid = np.linspace(0.5, 3.0, 2001)
    risk_below = np.cumsum(2 * norm.sf(TOLERANCE / grid)) / np.arange(1, len(grid) + 1)
    broken, naive_broken = [], []
    for _ in range(1000):
        columns = world(rng, 400)
        table = SignalsTable(
            {n: columns[n] for n in ("estimate", "spread")}, {"target": columns["target"]}, tolerance=TOLERANCE
        )
        score, loss = columns["spread"][:, 0], table.loss.astype(np.float64)
        found = calibrate([rule], CalibrationSample({"w": score}, loss=loss))
        order = np.argsort(score)
        rates = np.cumsum(loss[order]) / np.arange(1, len(order) + 1)
        empirical = score[order][np.flatnonzero(rates <= 0.2)[-1]]
        for into, threshold in ((broken, float(found.rules[0].threshold[0])), (naive_broken, float(empirical))):
            into.append(risk_below[min(np.searchsorted(grid, threshold), len(grid) - 1)] > 0.2)
    assert np.mean(broken) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 1000)
    assert np.mean(naive_broken) > 0.25


def test_losses_from_a_tolerance():
    estimate = np.array([[1.0], [1.0], [np.nan], [np.inf], [3.0]], np.float32)
    table = SignalsTable.from_arrays(estimate=estimate, target=[1.0, 2.5, 1.0, 1.0, 1.0])
    assert table.loss is None
    tolerant = SignalsTable(table.signals, table.given, tolerance=1.5)
    np.testing.assert_array_equal(tolerant.loss, [0, 0, 1, 1, 1])
    given = SignalsTable(table.signals, {**table.given, "loss": np.array([1, 1, 0, 0, 0])}, tolerance=1.5)
    np.testing.assert_array_equal(given.loss, [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(tolerant.take([1, 4]).loss, [0, 1])
    assert tolerant.digest() == table.digest()


@pytest.mark.parametrize("target", [[1.0, np.nan], [1.0, np.inf], ["a", "b"], [[1.0, 2.0]] * 2])
def test_targets_are_finite_numbers(target):
    with pytest.raises(TableError, match="target"):
        SignalsTable.from_arrays(estimate=np.zeros((2, 1), np.float32), target=target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signals": {"spread": 1}}, "`tolerance` compares the signal `estimate`"),
        ({"signals": {"estimate": 2, "spread": 1}}, "add `estimate: 1` under signals"),
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"signals": {"estimate": 1, "target": 1}}, "target means something else beside signals"),
    ],
)
def test_policies_that_make_no_sense(change, words):
    table = world(np.random.default_rng(0), 100)
    with pytest.raises(ConfigurationError, match=words):
        demur.fit({**POLICY, **change}, reference=table, calibration=table)


def test_equal_numbers_with_other_targets_are_other_rows():
    """Trees and neighbours give many inputs the same few numbers."""
    rng = np.random.default_rng(0)
    ours, theirs = world(rng, 300), world(rng, 400)
    for name in ("estimate", "spread"):
        theirs[name][:5] = ours[name][:5]
    demur.fit(POLICY, reference=ours, calibration=theirs)
    theirs["target"][:5] = ours["target"][:5]
    with pytest.raises(ContractViolation, match="5 rows are in the reference set too"):
        demur.fit(POLICY, reference=ours, calibration=theirs)
    with pytest.raises(ContractViolation, match="rows are in the reference set too"):
        demur.fit(
            POLICY,
            reference={n: a for n, a in ours.items() if n != "target"} | {"loss": np.zeros(300)},
            calibration=theirs,
        )


@pytest.mark.parametrize("reference_knows", [True, False])
@pytest.mark.parametrize("calibration_knows", [True, False])
def test_rows_fitted_on_never_return_as_calibration(reference_knows, calibration_knows):
    """Whichever side knows the targets: nor at once, nor when a bundle is calibrated again, nor unsaid in an evaluation."""
    policy = {
        "monitor": "plain",
        "signals": {"estimate": 1, "spread": 1},
        "scores": [{"given": {"signal": "spread"}}],
        "rules": [{"novel": {"when": "given", "promise": {"refuse_good_at_most": 0.1}}}],
    }

    def known(seed: int, knows: bool) -> dict[str, np.ndarray]:
        table = world(np.random.default_rng(seed), 200)
        return {n: a for n, a in table.items() if n in ("estimate", "spread", *(["target"] if knows else []))}

    first = known(0, reference_knows)
    with pytest.raises(ContractViolation, match="200 rows are in the reference set too"):
        demur.fit(policy, reference=first, calibration=known(0, calibration_knows))
    made = demur.fit(policy, reference=first, calibration=known(1, calibration_knows))
    with pytest.raises(ContractViolation, match="200 rows are in the reference set too"):
        recalibrate(made, calibration=known(0, calibration_knows))
    assert recalibrate(made, calibration=known(2, calibration_knows))
    table = as_table(known(0, calibration_knows), as_config(policy))
    assert known_rows(table, made) == [
        "200 of 200 rows were in the reference set that the scores were fitted on; figures are optimistic"
    ]


def test_a_table_without_targets_cannot_carry_the_promise():
    rng = np.random.default_rng(0)
    calibration = {n: a for n, a in world(rng, 300).items() if n != "target"}
    with pytest.raises(ValueError, match=r"expected loss or label|label"):
        demur.fit(POLICY, reference=world(rng, 300), calibration=calibration)


@pytest.mark.parametrize("spread", [0.0, -1.0, np.nan, np.inf])
def test_a_spread_that_is_none_is_invalid(bundle, spread):
    rows = np.float32([[1.0], [1.0]])
    verdicts = demur.Monitor.of(bundle).assess(estimate=rows, spread=np.float32([[1.0], [spread]]))
    assert np.isfinite(verdicts.scores[0]).all()
    assert not verdicts.accept[1]
    assert "INVALID" in str(verdicts.reasons[1])


def test_intervals_in_the_library(bundle):
    table = world(np.random.default_rng(8), 5000)
    table["spread"][0], table["estimate"][1] = -1.0, np.nan
    found = intervals(bundle, table)
    held, usable = found.held(table["target"])
    assert usable == 4998
    assert np.isnan(found.low[:2]).all()
    assert held / usable == pytest.approx(0.9, abs=0.04)
    assert "with probability at least 90 %" in found.statement
    with pytest.raises(ConfigurationError, match="missing: spread"):
        intervals(bundle, {"estimate": table["estimate"]})
    with pytest.raises(ConfigurationError, match="the bundle has interval_width; name one"):
        intervals(bundle, table, score="other")


def test_intervals_on_the_command_line(bundle, tmp_path):
    table = world(np.random.default_rng(9), 400)
    np.savez(tmp_path / "rows.npz", id=np.arange(400), **table)
    bundle.save(tmp_path / "prices.demur")
    answer = CliRunner().invoke(
        app, ["interval", str(tmp_path / "prices.demur"), str(tmp_path / "rows.npz"), "-o", str(tmp_path / "out.npz")]
    )
    assert answer.exit_code == 0, answer.output
    want = intervals(bundle, table)
    with np.load(tmp_path / "out.npz") as written:
        np.testing.assert_array_equal(written["interval_low"], want.low)
        np.testing.assert_array_equal(written["interval_high"], want.high)
    assert f"{want.held(table['target'])[0]} of 400 targets are inside" in " ".join(answer.output.split())
    assert len(load_table(tmp_path / "rows.npz").target) == 400


def test_intervals_read_numbers_as_the_graph_does():
    """float64 numbers that float32 cannot hold: the reference rows were rounded, so rows asked about are."""
    score = IntervalWidth.fit(reference(world(np.random.default_rng(0), 200)))
    exact = {"estimate": np.array([[16_777_217.0]]), "spread": np.array([[1.0 + 2.0**-30]])}
    rounded = {name: column.astype(np.float32) for name, column in exact.items()}
    assert [end.tolist() for end in score.interval(exact)] == [end.tolist() for end in score.interval(rounded)]
    assert np.isnan(score.interval({"estimate": np.array([[1e300]]), "spread": np.ones((1, 1))})[0]).all()


def test_rows_of_one_group_count_once():
    """Groups of one to 40 rows that err alike, large groups more: pooled rows would promise too much of a new group's row."""
    policy = {
        "monitor": "grouped",
        "signals": {"estimate": 1, "spread": 1},
        "scores": [{"interval_width": {"coverage": 0.9}}],
        "rules": [{"wide": {"when": "interval_width", "promise": {"refuse_good_at_most": 0.2}}}],
    }
    rng = np.random.default_rng(3)
    parsed = as_config(policy)

    def draw(groups: int) -> SignalsTable:
        sizes = np.where(rng.random(groups) < 0.5, 1, 40)
        error = rng.normal(size=groups) * np.where(sizes == 1, 4.0, 1.0)
        estimate = rng.normal(size=(sizes.sum(), 1)).astype(np.float32)
        ids = np.repeat(np.arange(groups), sizes)
        return as_table(
            {
                "estimate": estimate,
                "spread": np.ones_like(estimate),
                "target": estimate[:, 0] + np.repeat(error, sizes),
                "group_id": ids,
            },
            parsed,
        )

    def covered(q: float) -> float:
        """Of a row of a new group, every group as likely."""
        return float((coverage_of_spread(q / 4) + coverage_of_spread(q)) / 2)

    ours, pooled = [], []
    for _ in range(200):
        table = draw(30)
        score = IntervalWidth.fit(as_reference(table))
        assert score.rows == 30
        ours.append(covered(float(score.quantile[0])))
        alone = replace(table, given={n: a for n, a in table.given.items() if n != "group_id"})
        pooled.append(covered(float(IntervalWidth.fit(as_reference(alone)).quantile[0])))
    slack = 3 * np.std(ours) / math.sqrt(len(ours))
    assert 0.9 - slack <= np.mean(ours) <= 0.9 + 1 / 31 + slack
    assert np.mean(pooled) < 0.85
    with pytest.raises(ValueError, match="needs at least 9 rows with targets, got 5"):
        IntervalWidth.fit(as_reference(draw(5)))


def test_numbers_that_come_later():
    """One in twenty delayed truths is a wrong reading: veracity sees them, and rows the model knows badly it forgives."""
    rng = np.random.default_rng(0)

    def rows(count: int) -> dict[str, np.ndarray]:
        table = world(rng, count)
        return {n: table[n] for n in ("estimate", "spread")} | {"truth": table["target"][:, None].astype(np.float32)}

    config = {
        "monitor": "readings",
        "signals": {"estimate": 1, "spread": 1, "truth": 1},
        "scores": ["veracity"],
        "rules": [{"off": {"when": "veracity", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    monitor = demur.Monitor.of(demur.fit(config, reference=rows(500), calibration=rows(800)))
    asked = rows(4000)
    wrong = np.arange(4000) % 20 == 0
    asked["truth"][wrong] += 15
    accepted = monitor.assess(**asked).accept
    assert accepted[wrong].mean() < 0.15
    assert accepted[~wrong].mean() > 0.93
    absent = monitor.assess(estimate=asked["estimate"][:2], spread=asked["spread"][:2])
    assert not absent.accept.any()
    assert "missing signal: truth" in str(absent.reasons[0])


def test_a_real_regression(record_property):
    """Disease progression a year after baseline: nearest neighbours, spread by the neighbours' own disagreement."""
    data = load_diabetes()
    order = np.random.default_rng(1).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    model = KNeighborsRegressor(15).fit(x[:140], y[:140])
    spread = y[:140][model.kneighbors(x)[1]].std(axis=1) + 10
    table = {
        "estimate": model.predict(x)[:, None].astype(np.float32),
        "spread": spread[:, None].astype(np.float32),
        "target": y,
    }
    parts = [{n: a[part] for n, a in table.items()} for part in (slice(140, 240), slice(240, 340), slice(340, None))]
    policy = {**POLICY, "tolerance": 100.0}
    policy["rules"] = [{"wide": {"when": "interval_width", "promise": {"refuse_good_at_most": 0.2}}}]
    bundle = demur.fit(policy, reference=parts[0], calibration=parts[1])
    held, usable = intervals(bundle, parts[2]).held(parts[2]["target"])
    record_property("diabetes, 90 % intervals hold", f"{held} of {usable}")
    assert held / usable > 0.8
    verdicts = demur.Monitor.of(bundle).assess(estimate=parts[2]["estimate"], spread=parts[2]["spread"])
    assert verdicts.accept.mean() > 0.6
