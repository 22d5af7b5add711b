"""Groups without rows (images in which nothing was found) in calibration and evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import demur
from demur.detectors.reason import Reason
from demur.monitor.bundle.manifest import EMPTY
from demur.monitor.evaluate.hallucination import hallucinations
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.pipeline import calibrate
from demur.monitor.fit.table import SignalsTable


def policy(empty_group: str = "abstain", unit: str = "group") -> dict:
    return {
        "monitor": "boxes",
        "signals": {"logits": 3},
        "scores": ["max_logit"],
        "rules": [{"unknown": {"when": "max_logit", "unit": unit, "promise": {"refuse_good_at_most": 0.1}}}],
        "empty_group": empty_group,
    }


def boxes(seed: int, groups: int = 120, empty: int = 0, **more: object) -> dict:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 5, groups)) + 1000 * seed
    logits = rng.normal(5, 1, (len(group), 3)).astype(np.float32)
    beside = {"empty_groups": np.arange(empty) + 1000 * seed + 500} if empty else {}
    return {"logits": logits, "group_id": group, **beside, **more}


@pytest.mark.parametrize("empty_group", ["abstain", "accept"])
def test_promises_count_groups_with_rows_only_and_say_so(empty_group):
    bare = demur.fit(policy(empty_group), reference=boxes(1), calibration=boxes(2))
    bundle = demur.fit(policy(empty_group), reference=boxes(1), calibration=boxes(2, empty=40))
    assert bundle.manifest.rules == bare.manifest.rules
    assert bundle.manifest.columns == bare.manifest.columns
    assert next(c for c in bundle.manifest.columns if c.unit == "group").units == [120]
    assert bundle.manifest.counts[EMPTY] == 40
    (said,) = (f for f in bundle.manifest.findings if "40 groups have no rows" in f)
    assert "promises about groups count the others only" in said
    assert ("never refused" if empty_group == "accept" else "UNAVAILABLE, no rows") in said
    assert EMPTY not in bare.manifest.counts


def test_what_is_said_follows_the_policy_and_the_data():
    bundle = demur.fit(policy(), reference=boxes(1), calibration=boxes(2, empty=40))
    other = calibrate(bundle, config=policy("accept"))
    (said,) = (f for f in other.manifest.findings if "groups have no rows" in f)
    assert "accepted in service without a score" in said
    anew = calibrate(bundle, calibration=boxes(3))
    assert not [f for f in anew.manifest.findings if "groups have no rows" in f]
    assert EMPTY not in anew.manifest.counts
    rows = demur.fit(policy(unit="row"), reference=boxes(1), calibration=boxes(2, empty=40))
    assert not [f for f in rows.manifest.findings if "groups have no rows" in f]


@pytest.mark.parametrize("empty_group", ["abstain", "accept"])
def test_groups_without_rows_get_verdicts_of_their_own(empty_group):
    bundle = demur.fit(policy(empty_group), reference=boxes(1), calibration=boxes(2))
    table = SignalsTable.from_columns(boxes(3, groups=30, empty=5))
    found = assess_table(demur.Monitor.of(bundle), table)
    assert len(found) == len(table)
    assert found.group_ids.tolist() == [*range(3000, 3030), *range(3500, 3505)]
    last = slice(30, 35)
    assert found.groups.accept[last].tolist() == [empty_group == "accept"] * 5
    assert (found.groups.reason_bits[last] == (0 if empty_group == "accept" else Reason.UNAVAILABLE)).all()
    alone = assess_table(demur.Monitor.of(bundle), SignalsTable.from_columns(boxes(3, groups=30)))
    np.testing.assert_array_equal(found.groups.scores[:30], alone.groups.scores)


def test_string_ids_become_numbers():
    bundle = demur.fit(policy(), reference=boxes(1), calibration=boxes(2))
    words = {**boxes(3, groups=4), "empty_groups": np.array(["x", "y"])}
    words["group_id"] = words["group_id"].astype(str)
    found = assess_table(demur.Monitor.of(bundle), SignalsTable.from_columns(words))
    assert found.group_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert not found.groups.accept[4:].any()


@pytest.mark.parametrize("empty_group", ["abstain", "accept"])
def test_an_evaluation_counts_them_apart(empty_group):
    bundle = demur.fit(policy(empty_group), reference=boxes(1), calibration=boxes(2))
    loss = {"loss": np.zeros(len(boxes(3)["group_id"]), np.int64)}
    bare = demur.evaluate(bundle, boxes(3, **loss), bootstrap=0)
    found = demur.evaluate(bundle, boxes(3, empty=30, **loss), bootstrap=0)
    assert [s.accepted for s in found.sets] == [s.accepted for s in bare.sets]
    assert found.promises == bare.promises
    accepted = bare.sets[0].accepted + 30 * (empty_group == "accept")
    (said,) = (n for n in found.notes if "have no rows" in n)
    assert said.startswith("id: 30 of 150 groups have no rows")
    assert said.endswith(f"of all groups, {accepted / 150:.1%} are accepted")


def test_images_without_detections_are_drawn_too():
    """Ten images with one invention each among ninety without any: resamples vary as a binomial count does."""
    bundle = demur.fit(policy(unit="row"), reference=boxes(1), calibration=boxes(2))
    known = boxes(3, loss=np.zeros(len(boxes(3)["group_id"]), np.int64))
    logits = np.full((10, 3), 5, np.float32)
    unknown = {"logits": logits, "group_id": np.arange(10)}
    sure = hallucinations(bundle, known, unknown, bootstrap=500)
    assert (sure.before.low, sure.before.value, sure.before.high) == (10, 10, 10)
    found = hallucinations(bundle, known, {**unknown, "empty_groups": np.arange(10, 100)}, bootstrap=500)
    assert (found.images_given, found.images_removed, found.images_empty) == (10, 0, 90)
    assert found.before.value == 10
    assert 4 <= found.before.low <= 6  # the 2.5 % point of Bin(100, 0.1) is 5, the 97.5 % point 16
    assert 15 <= found.before.high <= 17
    gone = hallucinations(
        bundle, known, {**unknown, "empty_groups": np.arange(10, 100)}, confirmed=range(10), bootstrap=0
    )
    assert (gone.images_removed, gone.before.value) == (10, 0)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20).filter(any), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_parts_of_a_table_have_rows_in_every_group(counts, seed):
    group = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(seed)
    empty = np.flatnonzero(np.array(counts) == 0)
    table = SignalsTable.from_columns(
        {"logits": rng.normal(size=(len(group), 2)).astype(np.float32), "group_id": group, "empty_groups": empty}
    )
    assert table.empty == len(empty)
    assert table.grouping.count + table.empty == len(counts)
    assert table.take(slice(0, 1)).empty == 0
    assert all(part.empty == 0 for part in table.batches(2))
