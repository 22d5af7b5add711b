"""The contract: plain functions of one entry, each one law. Third parties can run them on their own scores."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

from demur.detectors.compile import serialize
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.score import absent, carried
from demur.detectors.scores import SCORES
from demur.detectors.storage import attachments, parameters, restore, settings
from tests.contract.entries import WIDTHS, D, Entry, Signals, near, reference, with_logits

LARGEST = float(np.finfo(np.float32).max)


def yield_checks() -> Iterator[Callable[[Entry], None]]:
    yield check_one_float32_per_row
    yield check_backends_agree
    yield check_rows_are_independent
    yield check_batch_size_changes_no_bit
    yield check_corrupt_row_is_not_finite
    yield check_what_a_score_carries_needs_no_poison
    yield check_hostile_rows_are_right_or_not_finite
    yield check_inputs_and_parameters_are_left_alone
    yield check_far_is_less_trustworthy_than_near
    yield check_graph_is_small_static_and_plain
    yield check_every_parameter_is_a_named_initializer
    yield check_compiling_is_reproducible
    yield check_restored_score_compiles_to_the_same_bytes
    yield check_fit_is_reproducible
    yield check_documented


def backends(entry: Entry) -> list[Callable[[Signals], np.ndarray]]:
    return [entry.numpy, entry.runtime, entry.evaluator]


def check_one_float32_per_row(entry: Entry) -> None:
    for count in (1, 5):
        for run in backends(entry):
            result = run(near(count))
            assert result.shape == (count,)
            assert result.dtype == np.float32
            assert np.isfinite(result).all()


def check_backends_agree(entry: Entry) -> None:
    signals = near(40)
    expected = entry.numpy(signals)
    for run in backends(entry)[1:]:
        np.testing.assert_allclose(run(signals), expected, rtol=entry.tolerance, atol=entry.tolerance)


def check_rows_are_independent(entry: Entry) -> None:
    signals = near(8)
    whole = entry.numpy(signals)
    alone = [entry.numpy({s: x[i : i + 1] for s, x in signals.items()})[0] for i in range(8)]
    np.testing.assert_allclose(whole, alone, rtol=1e-5, atol=1e-5)
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    shuffled = entry.runtime({s: x[order] for s, x in signals.items()})
    np.testing.assert_array_equal(shuffled, entry.runtime(signals)[order])


def check_batch_size_changes_no_bit(entry: Entry) -> None:
    signals = near(32)
    whole = entry.runtime(signals)
    for size in (1, 3, 16):
        parts = [entry.runtime({s: x[i : i + size] for s, x in signals.items()}) for i in range(0, 32, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def check_corrupt_row_is_not_finite(entry: Entry) -> None:
    check_corrupt_rows(entry, backends(entry), 1e-6)


def check_corrupt_rows(entry: Entry, runs: list[Callable[[Signals], np.ndarray]], tolerance: float) -> None:
    """A number that is not finite makes its own row not finite, and no other, in every run."""
    clean = near(3)
    expected = [run(clean) for run in runs]
    for signal in entry.signals_read:
        missing = signal in absent(entry.score)  # there, a NaN is a missing cell
        for value in (np.inf, -np.inf) if missing else (np.nan, np.inf, -np.inf):
            for place in {0, 3 % clean[signal].shape[1], -1}:
                signals = {s: x.copy() for s, x in clean.items()}
                signals[signal][1, place] = value
                for run, before in zip(runs, expected, strict=True):
                    result = run(signals)
                    assert np.isnan(result[1]), (signal, value, place, run)
                    np.testing.assert_allclose(result[[0, 2]], before[[0, 2]], rtol=tolerance, atol=tolerance)


def check_what_a_score_carries_needs_no_poison(entry: Entry) -> None:
    """At every place, in its own operators alone: compile_scores adds nothing for a signal that is carried."""
    for signal in carried(entry.score):
        width = near(1)[signal].shape[1]
        rows = {s: x.copy() for s, x in near(4 * width).items()}
        for row, value in enumerate((np.nan, np.inf, -np.inf, np.nan) * width):
            rows[signal][row, row // 4] = value
        rows[signal][3::4, -1] = np.inf
        with np.errstate(all="ignore"):
            found = [entry.score(NumpyOps(), rows), entry.runtime(rows), entry.evaluator(rows)]
        for result in found:
            assert not np.isfinite(result).any()


def hostile() -> Signals:
    """Finite rows that overflow, underflow or cancel."""
    rows = near(12)["features"].copy()
    rows[0] = 0
    rows[1] = 1e-40
    rows[2] *= np.float32(1e20)
    rows[3] *= np.float32(-1e20)
    rows[4, 2] = 1e20
    rows[5, 2] = -1e20
    rows[6] = LARGEST
    rows[7] = -LARGEST
    rows[8, 5] = LARGEST
    rows[9] = np.where(np.arange(D) % 2, LARGEST, -LARGEST)
    rows[10] *= np.float32(1e12)
    rows[11] *= np.float32(1e-30)
    signals = with_logits(rows)
    signals["logits"] = np.clip(signals["logits"], -LARGEST, LARGEST)
    return signals


class Float64Ops(NumpyOps):
    """The vocabulary without rounding or overflow: what a score would be on exact numbers."""

    def linear(self, x, weight, bias=None, *, scale=1.0):
        return scale * (x @ weight.T) + (0 if bias is None else bias)

    def greater(self, a, b):
        return np.greater(a, b)

    def where(self, condition, a, b):
        return np.where(condition, a, b)

    def wide(self, stored):
        return stored.astype(np.float64)

    def minimum(self, a, b):
        return np.minimum(a, b)

    def maximum(self, a, b):
        return np.maximum(a, b)


def in_float64(value):
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype.kind == "f" else value
    if isinstance(value, tuple):
        return tuple(map(in_float64, value))
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(
            value, **{f.name: in_float64(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    return value


def check_hostile_rows_are_right_or_not_finite(entry: Entry) -> None:
    signals = hostile()
    results = [run(signals) for run in backends(entry)]
    if entry.needs or attachments(entry.score):
        for result in results:
            assert result.shape == (12,)
        return
    with np.errstate(all="ignore"):
        exact = in_float64(entry.score)(Float64Ops(), {s: x.astype(np.float64) for s, x in signals.items()})
    for result in results:
        for row in np.flatnonzero(np.isfinite(result)):
            assert result[row] == pytest.approx(exact[row], rel=1e-3, abs=1e-3), row


def check_inputs_and_parameters_are_left_alone(entry: Entry) -> None:
    signals = near(6)
    for array in (*signals.values(), *parameters(entry.score).values()):
        array.flags.writeable = False
    before = {s: x.copy() for s, x in signals.items()}
    try:
        entry.numpy(signals)
    finally:
        for array in parameters(entry.score).values():
            array.flags.writeable = True
    for signal, array in signals.items():
        np.testing.assert_array_equal(array, before[signal])
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.score.anything = 1


def check_far_is_less_trustworthy_than_near(entry: Entry) -> None:
    ordinary, strange = entry.runtime(entry.ordinary(60)), entry.runtime(entry.far(60))
    assert np.mean(strange[:, None] > ordinary) > 0.75


def check_graph_is_small_static_and_plain(entry: Entry) -> None:
    graph = entry.model.graph
    if not entry.needs:
        assert len(graph.node) <= entry.most_nodes
    assert not {n.op_type for n in graph.node} & {"If", "Loop", "Scan"}
    assert {n.domain for n in graph.node} == {""}
    assert [(o.domain, o.version) for o in entry.model.opset_import] == [("", 18)]
    assert entry.model.ir_version == 9
    assert not entry.model.metadata_props
    assert not entry.model.producer_name
    inferred = onnx.shape_inference.infer_shapes(entry.model, strict_mode=True).graph
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        shape = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        assert all(isinstance(d, int) and d > 0 for d in shape[1:]), (value.name, shape)


def check_every_parameter_is_a_named_initializer(entry: Entry) -> None:
    held = {i.name: onnx.numpy_helper.to_array(i) for i in entry.model.graph.initializer}
    for field, value in parameters(entry.score).items():
        np.testing.assert_array_equal(held[f"{entry.name}.{field}"], value)


def check_compiling_is_reproducible(entry: Entry) -> None:
    assert serialize(entry.compiled(entry.score)) == serialize(entry.compiled(entry.score))


def check_restored_score_compiles_to_the_same_bytes(entry: Entry) -> None:
    stored = json.loads(json.dumps(settings(entry.score)))
    held = {i.name: onnx.numpy_helper.to_array(i) for i in entry.model.graph.initializer}
    arrays = {f: held[f"{entry.name}.{f}"] for f in parameters(entry.score)}
    again = restore(entry.kind, stored, arrays, attachments(entry.score))
    assert serialize(entry.compiled(again)) == serialize(entry.model)


def check_fit_is_reproducible(entry: Entry) -> None:
    if not parameters(entry.score) or entry.kind in ("shaped", "fused", "reconstruction", "early_stopped"):
        return
    kept = {k: v for k, v in settings(entry.score).items() if k in inspect.signature(SCORES[entry.kind].fit).parameters}
    one, two = (parameters(SCORES[entry.kind].fit(reference(), **kept)) for _ in range(2))
    for field, value in one.items():
        np.testing.assert_array_equal(value, two[field])


def check_documented(entry: Entry) -> None:
    doc = inspect.getdoc(SCORES[entry.kind]) or ""
    flat = " ".join(doc.split())
    for part in ("Shapes:", "Range:", "Source:", "Higher is less trustworthy"):
        assert part in flat, part
    assert entry.score.source
    assert entry.score.scales.kind in {"exact_merge", "sketch", "k_pass", "sample"}
    assert set(entry.signals_read) <= set(WIDTHS)
