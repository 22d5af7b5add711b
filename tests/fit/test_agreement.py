"""Labels in another order than their rows are noticed; those of a weak or a one-sided model are not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from demur.monitor.fit.agreement import shuffled
from demur.monitor.fit.checks import inspect_table
from demur.monitor.fit.table import SignalsTable


def noticed(logits: np.ndarray, label: np.ndarray) -> list[str]:
    found = inspect_table(SignalsTable.from_arrays(logits=logits, label=label), "reference")
    return [f.message for f in found if f.code == "labels_misaligned"]


def answers(rows: int, classes: int, right: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)).astype(np.float32)
    return logits, np.where(rng.random(rows) < right, logits.argmax(1), rng.integers(0, classes, rows))


def test_mean_and_spread_are_those_of_all_orders():
    label, prediction = np.array([0, 0, 1, 2, 1, 0, 2]), np.array([0, 1, 1, 2, 0, 0, 0])
    counts = [
        sum(int(a == b) for a, b in zip(order, prediction, strict=True)) for order in itertools.permutations(label)
    ]
    mean = sum(counts) / len(counts)
    spread = (sum((c - mean) ** 2 for c in counts) / len(counts)) ** 0.5
    assert shuffled(label, prediction) == pytest.approx((mean, spread))
    assert shuffled(np.array([3]), np.array([3])) == (1.0, 0.0)


def test_shuffled_labels_are_noticed_and_true_ones_are_not():
    told = 0
    for seed in range(40):
        logits, label = answers(1500, 6, 0.85, seed)
        assert noticed(logits, label) == []
        told += len(noticed(logits, np.random.default_rng(100 + seed).permutation(label)))
    assert told >= 36  # 39 of 40 on average


def test_a_weak_model_and_a_rare_class_are_no_mistake():
    assert noticed(*answers(1000, 6, 0.1, 0)) == []  # right in a quarter of rows
    logits = np.zeros((2000, 2), np.float32)
    logits[:, 0] = 1
    label = np.zeros(2000, np.int64)
    logits[:8, 1], label[4:12] = 2, 1  # four of eight rare rows are found, and four others are called so
    assert noticed(logits, label) == []
    assert len(noticed(logits, np.roll(label, 500))) == 1


def test_rows_of_one_class_say_nothing():
    logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    logits[:, 1] += 20
    assert noticed(logits, np.ones(60, np.int64)) == []
    assert len(noticed(logits, np.zeros(60, np.int64))) == 1
