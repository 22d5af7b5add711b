"""The contract checks: each defect is found under its code, and clean tables have no findings."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.monitor.fit.checks import ContractViolation, check_tables, inspect_table, inspect_tables
from demur.monitor.fit.pipeline import calibrate
from demur.monitor.fit.profile import profiles
from demur.monitor.fit.table import SignalsTable, TableError


def arrays(rows: int = 400, seed: int = 0, classes: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)).astype(np.float32) * 3
    label = np.where(rng.random(rows) < 0.8, logits.argmax(1), rng.integers(0, classes, rows))
    return {"logits": logits, "features": rng.normal(size=(rows, 8)).astype(np.float32), "label": label}


def table(seed: int = 0, **changes) -> SignalsTable:
    return SignalsTable.from_arrays(**arrays(seed=seed) | changes)


def codes(one: SignalsTable, kinds=None) -> dict[str, str]:
    return {finding.code: finding.level for finding in inspect_tables(one, None, kinds)}


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_clean_tables_have_no_findings():
    assert check_tables(table(0), table(1)) == []
    assert check_tables(None, table(1)) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_as_logits(dtype):
    logits = arrays()["logits"]
    p = softmax(logits.astype(np.float64)).astype(dtype)
    assert codes(table(logits=p)) == {"probabilities_as_logits": "error"}
    assert codes(table(logits=p), {"logits": "probabilities"}) == {}
    assert codes(table(logits=p), {"logits": "log_probabilities"}) == {"kind_mismatch": "error"}
    with np.errstate(divide="ignore"):
        log_p = np.log(softmax(logits.astype(np.float64))).astype(dtype)
    assert codes(table(logits=log_p)) == {"log_probabilities_as_logits": "error"}
    assert codes(table(logits=log_p), {"logits": "log_probabilities"}) == {}
    assert codes(table(), {"logits": "probabilities"}) == {"kind_mismatch": "error"}


def test_one_odd_row_breaks_a_declared_kind():
    p = softmax(arrays()["logits"])
    p[17] *= 1.5
    [finding] = inspect_table(table(logits=p), "reference", {"logits": "probabilities"})
    assert finding.code == "kind_mismatch"
    assert "1 of 400 rows" in finding.message


def test_sigmoids_are_noticed():
    assert codes(table(logits=1 / (1 + np.exp(-arrays()["logits"])))) == {"unit_interval": "warning"}


def test_non_finite_rows_are_named():
    features = arrays()["features"]
    features[[3, 71]] = [[np.nan], [np.inf]]
    with pytest.raises(ContractViolation, match=r"reference: features: 2 rows .* \(rows 3, 71\)"):
        check_tables(table(features=features))


def test_constant_and_duplicated_columns():
    features = arrays()["features"]
    features[:, 2] = 0
    features[:, 5] = features[:, 1]
    found = inspect_table(table(features=features), "reference")
    assert {(f.level, f.code) for f in found} == {("warning", "constant_columns"), ("warning", "duplicated_columns")}
    assert "1 of 8 columns are constant (columns 2)" in found[0].message
    assert "(columns 5)" in found[1].message
    assert codes(table(features=np.ones((400, 8), np.float32))) == {"constant_signal": "error"}
    assert codes(table(features=arrays()["logits"])) == {"duplicated_signal": "error"}


def test_column_keys_equal_exactly_for_equal_columns():
    rng = np.random.default_rng(5)
    features = rng.integers(0, 3, (60, 40)).astype(np.float32)  # many near twins, one true one
    features[:, 39] = features[:, 0]
    keys = profiles(SignalsTable.from_arrays(features=features))["features"].keys
    expected = (features[:, :, None] == features[:, None, :]).all(axis=0)
    np.testing.assert_array_equal(keys[:, None] == keys[None, :], expected)


def test_labels_out_of_range():
    label = arrays()["label"]
    [finding] = inspect_table(table(label=label + 1), "reference")[:1]
    assert finding.code == "label_out_of_range"
    assert "expected 0..4, got 5" in finding.message
    assert "one-based" in finding.message
    label[9] = -1
    assert codes(table(label=label))["label_out_of_range"] == "error"
    label[9] = 10**15
    assert codes(table(label=label))["label_out_of_range"] == "error"


def test_shared_rows_and_groups():
    mixed = arrays(seed=1)
    for name in ("logits", "features"):
        mixed[name][[0, 4]] = arrays()[name][[100, 7]]
    with pytest.raises(ContractViolation, match=r"shared_rows: calibration: 2 rows .*\(calibration rows 0, 4\)"):
        check_tables(table(), SignalsTable.from_arrays(**mixed))
    named = np.array([f"patient {i // 4}" for i in range(400)])
    assert {f.code: f.level for f in inspect_tables(table(group_id=named), table(1, group_id=named))} == {
        "shared_groups": "error"
    }
    numbers = np.arange(400) // 4
    assert [f.level for f in check_tables(table(group_id=numbers), table(1, group_id=numbers))] == ["warning"]


def boxes(seed: int, **changes) -> dict[str, np.ndarray]:
    """400 boxes of 130 images, from one to five each."""
    group = np.sort(np.append(np.arange(130), np.random.default_rng(9).integers(0, 130, 270))) + 1000 * seed
    return {"logits": arrays(seed=seed)["logits"], "group_id": group, **changes}


def shared(reference, calibration) -> list[tuple[str, str]]:
    tables = [SignalsTable.from_arrays(**columns) for columns in (reference, calibration)]
    return [(f.level, f.message) for f in inspect_tables(*tables) if f.code == "shared_rows"]


def test_one_box_that_two_images_share_by_chance_is_told_and_no_reason_to_refuse():
    ours, theirs = boxes(0), boxes(1)
    theirs["logits"][17] = ours["logits"][200]
    ((level, said),) = shared(ours, theirs)
    assert level == "warning"
    assert "calibration: 1 rows are in the reference set too (calibration rows 17), in 1 of 130 groups" in said
    assert "none of which is there as a whole" in said


def test_boxes_at_the_limit_of_their_logits_are_equal_in_many_images():
    """Half of all boxes say 17.33 for one class and -17.33 for the others: nothing is known of their images."""
    ours, theirs = boxes(0), boxes(1)
    for columns in (ours, theirs):
        columns["logits"][::2] = np.float32(-17.33)
        columns["logits"][::2, 0] = np.float32(17.33)
    ((level, said),) = shared(ours, theirs)
    assert level == "warning"
    assert "200 rows" in said


def test_an_image_that_is_in_both_sets_is_refused_and_so_are_many_shared_boxes():
    ours, theirs = boxes(0), boxes(1)
    group, counts = np.unique(theirs["group_id"], return_counts=True)
    leaked = theirs["group_id"] == group[counts == 3][0]
    theirs["logits"][leaked] = ours["logits"][:3]
    ((level, said),) = shared(ours, theirs)
    assert (level, "3 rows" in said, "1 of 130 groups are there as a whole" in said) == ("error", True, True)
    many = boxes(2)
    firsts = np.unique(many["group_id"], return_index=True)[1][:3]
    many["logits"][firsts] = ours["logits"][10:13]
    assert [level for level, _ in shared(ours, many)] == ["error"]
    alone = boxes(3, group_id=np.arange(400))
    alone["logits"][5] = ours["logits"][5]
    assert [level for level, _ in shared(ours, alone)] == ["error"]


def test_a_set_that_was_joined_with_itself_still_tells_its_images():
    theirs = boxes(1)
    order = np.random.default_rng(3).permutation(800)
    twice = {
        "logits": np.concatenate([theirs["logits"]] * 2)[order],
        "group_id": np.concatenate([theirs["group_id"] + 5000, theirs["group_id"] + 9000])[order],
    }
    for ours, other in ((twice, theirs), (theirs, twice)):
        ((level, said),) = shared(ours, other)
        assert level == "error"
        assert "groups are there as a whole" in said


def test_calibrate_takes_for_chance_what_fit_took_for_chance():
    """Each class stands at its limit five times in the reference set, once in the calibration set."""
    ours, theirs = boxes(0), boxes(1)
    for columns, times in ((ours, 5), (theirs, 1)):
        for place in range(5 * times):
            columns["logits"][place * 7] = np.float32(-17.33)
            columns["logits"][place * 7, place % 5] = np.float32(17.33)
    rule = {"unknown": {"when": "max_logit", "unit": "group", "promise": {"refuse_good_at_most": 0.1}}}
    policy = {"monitor": "boxes", "signals": {"logits": 5}, "scores": ["max_logit"], "rules": [rule]}
    bundle = demur.fit(policy, reference=ours, calibration=theirs)
    again = calibrate(bundle, calibration=theirs)
    said = [f for f in again.manifest.findings if "rows are in the reference set too" in f]
    assert len(said) == 1
    assert again.manifest.findings == bundle.manifest.findings
    fresh = calibrate(bundle, calibration=boxes(2))
    assert not [f for f in fresh.manifest.findings if f.startswith("calibration")]
    with pytest.raises(ContractViolation, match="groups are there as a whole"):
        calibrate(bundle, calibration={**ours, "group_id": ours["group_id"] + 7000})


def test_sorted_rows():
    made = arrays()
    order = np.argsort(made["label"], kind="stable")
    sorted_rows = {name: array[order] for name, array in made.items()}
    assert codes(SignalsTable.from_arrays(**sorted_rows)) == {"sorted_rows": "warning"}
    assert codes(SignalsTable.from_arrays(**sorted_rows, group_id=np.arange(400))) == {}


def test_grouped_rows():
    rng = np.random.default_rng(2)
    scenes = np.repeat(rng.normal(size=(80, 8)), 5, axis=0) + rng.normal(size=(400, 8)) * 0.01
    frames = scenes.astype(np.float32)
    assert codes(SignalsTable.from_arrays(features=frames)) == {"grouped_rows": "warning"}
    assert codes(SignalsTable.from_arrays(features=frames, group_id=np.arange(400) // 5)) == {}
    assert codes(SignalsTable.from_arrays(features=frames[rng.permutation(400)])) == {}


def test_predictions():
    made = arrays()
    prediction = made["logits"].argmax(1)
    assert codes(table(prediction=prediction)) == {}
    prediction[3] = (prediction[3] + 1) % 5
    assert codes(table(prediction=prediction)) == {"prediction_not_argmax": "warning"}
    assert codes(table(prediction=(prediction + 1) % 5))["prediction_not_argmax"] == "error"
    assert codes(table(label=(made["logits"].argmax(1) + 1) % 5)) == {"labels_misaligned": "warning"}


def test_few_rows_per_class():
    made = arrays()
    keep = (made["label"] != 2) | (np.cumsum(made["label"] == 2) <= 2)
    few = SignalsTable.from_arrays(**made).take(keep)
    [finding] = inspect_tables(few)
    assert finding.code == "few_rows_per_class"
    assert "1 of 5 classes have fewer than 5 rows (classes 2)" in finding.message


def test_errors_come_together():
    features = arrays()["features"]
    features[0] = np.nan
    bad = table(features=features, logits=softmax(arrays()["logits"]))
    with pytest.raises(TableError, match=r"5 reasons:") as caught:
        check_tables(bad, bad)
    assert caught.value.findings
    text = str(caught.value)
    assert text.count("\n") == 5
    assert "not_finite" in text
    assert "probabilities_as_logits" in text
