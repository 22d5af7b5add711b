"""Arrays and group ids at the edge: taken, or refused in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import demur
from demur.monitor.errors import InvalidObservation
from demur.monitor.observation import group_rows, observe

COLUMNS = ("scores", "p_values", "rule_hits", "reason_bits", "accept")


@pytest.fixture(scope="module")
def monitor(bundle):
    return demur.Monitor.of(bundle)


def equal(one, other):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


WRONG = {
    "unknown name": ({"logit": np.zeros((1, 4), np.float32)}, "no such signal; expected features, logits"),
    "width": ({"logits": np.zeros((2, 5), np.float32)}, r"expected \(N, 4\) float32, got \(2, 5\)"),
    "one dimension": ({"logits": np.zeros(4, np.float32)}, "a single input is one row"),
    "integers": ({"logits": np.zeros((1, 4), np.int64)}, "got int64"),
    "no rows": ({"logits": np.zeros((0, 4), np.float32)}, "at least one row"),
    "unequal": ({"logits": np.zeros((1, 4), np.float32), "features": np.zeros((2, 8), np.float32)}, "expected 1 rows"),
    "masked": (
        {"logits": np.ma.masked_greater(np.eye(2, 4, dtype=np.float32), 0.5)},
        "2 of them are masked; fill them",
    ),
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


def test_a_masked_array_without_masked_values_is_an_array(monitor, signals):
    plain = monitor.assess(**signals)
    equal(plain, monitor.assess(**{name: np.ma.masked_invalid(array) for name, array in signals.items()}))


def test_masked_group_ids_are_refused():
    with pytest.raises(InvalidObservation, match="group_id: expected numbers, 1 of them are masked"):
        group_rows(np.ma.masked_equal([1, 2, 2, 1, 3], 3), None, 5)
