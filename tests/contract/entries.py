"""Every score of the table, fitted on one small world, with three ways to run it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from demur.detectors.build import build_score
from demur.detectors.compile import compile_monitor, compile_scores, serialize
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.policy import Column
from demur.detectors.score import Reference, Score
from demur.detectors.scores import SCORES
from demur.detectors.scores.onnx_score import OnnxScore
from demur.detectors.scores.reconstruction import Reconstruction
from demur.detectors.tensor import derived
from tests.contract.world import (
    TURNS,
    VIEWS,
    WIDTHS,
    C,
    D,
    M,
    P,
    Signals,
    between_classes,
    healthy,
    near,
    outliers,
    permuted,
    reference,
    spiked,
    wild,
    with_logits,
    world,
)

__all__ = (
    "TURNS",
    "VIEWS",
    "WIDTHS",
    "C",
    "D",
    "M",
    "P",
    "Signals",
    "between_classes",
    "healthy",
    "near",
    "outliers",
    "permuted",
    "reference",
    "spiked",
    "wild",
    "with_logits",
    "world",
)


def small_network(opset: int = 17) -> bytes:
    """A network of somebody else's: features -> relu layer -> minus the largest class score, (N, 1)."""
    _, weight, bias = world()
    weights = {"fc1": np.eye(D, dtype=np.float32), "fc2": weight, "bias2": bias}
    nodes = [
        helper.make_node("Gemm", ["features", "fc1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "fc2", "bias2"], ["z"], transB=1),
        helper.make_node("ReduceMax", ["z"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Neg", ["m"], ["risk"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", D])],
        [helper.make_tensor_value_info("risk", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model.SerializeToString()


def small_auto_encoder() -> bytes:
    """features -> their projection on the space of the class centres, (N, D)."""
    centres = world()[0].astype(np.float64)
    middle = centres.mean(axis=0)
    basis = np.linalg.svd(centres - middle, full_matrices=False)[2][: C - 1]
    onto = basis.T @ basis
    weights = {"onto": onto.astype(np.float32), "off": (middle - onto @ middle).astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["features", "onto", "off"], ["rebuilt"], transB=1)],
        "ae",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", D])],
        [helper.make_tensor_value_info("rebuilt", TensorProto.FLOAT, ["batch", D])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


class GatherElements(OpRun):
    """In the place of the evaluator's own, which is wrong for more than 32 entries (onnx 1.23): it uses np.choose."""

    def _run(self, data, indices, axis):
        return (np.take_along_axis(data, indices.astype(np.int64), axis),)


@dataclass(frozen=True, eq=False)
class Entry:
    """A fitted score and how to run it: alone, or behind the calibrated columns whose p-values it reads."""

    name: str
    kind: str
    score: Score
    needs: Mapping[str, Score] = field(default_factory=dict)
    ordinary: Any = near
    far: Any = between_classes
    most_nodes: int = 30
    tolerance: float = 2e-5

    @functools.cached_property
    def columns(self) -> list[Column]:
        calibration = near(200, seed=8)
        tables = evaluate(self.needs, calibration)
        members = [Column(n, n, calibration=(np.sort(tables[n]),)) for n in self.needs]
        return [*members, Column(self.name, self.name)]

    @property
    def signals_read(self) -> tuple[str, ...]:
        every = [s for score in (*self.needs.values(), self.score) for s in score.inputs if not derived(s)]
        return tuple(dict.fromkeys(every))

    @property
    def held(self) -> dict[str, Score]:
        return {**self.needs, self.name: self.score}

    @functools.cached_property
    def model(self) -> onnx.ModelProto:
        return self.compiled(self.score)

    def compiled(self, score: Score) -> onnx.ModelProto:
        if self.needs:
            return compile_monitor({**self.needs, self.name: score}, self.columns, [], WIDTHS)
        return compile_scores({self.name: score}, WIDTHS)

    def feed(self, signals: Signals) -> Signals:
        return {i.name: signals[i.name] for i in self.model.graph.input}

    def numpy(self, signals: Signals) -> np.ndarray:
        if self.needs:
            return evaluate_monitor(self.held, self.columns, [], signals)["scores"][:, -1]
        return evaluate({self.name: self.score}, signals)[self.name]

    def runtime(self, signals: Signals) -> np.ndarray:
        return self.session.run(["scores"], self.feed(signals))[0][:, -1]

    def evaluator(self, signals: Signals) -> np.ndarray:
        with np.errstate(all="ignore"):
            return ReferenceEvaluator(self.model, new_ops=[GatherElements]).run(["scores"], self.feed(signals))[0][
                :, -1
            ]

    @functools.cached_property
    def session(self) -> ort.InferenceSession:
        return session(self.model)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Case:
    """A score under contract: its kind, hyper-parameters, rows it must find ordinary and rows it must find strange."""

    kind: str
    hyper: Mapping[str, Any] = field(default_factory=dict)
    ordinary: Any = near
    far: Any = between_classes
    most_nodes: int = 30
    tolerance: float = 2e-5

    def entry(self, name: str) -> Entry:
        score = build_score(self.kind, self.hyper, reference())
        return Entry(name, self.kind, score, {}, self.ordinary, self.far, self.most_nodes, self.tolerance)


@functools.cache
def entries() -> dict[str, Entry]:
    from tests.contract.families import CASES

    found = {name: case.entry(name) for name, case in CASES.items()}
    found["onnx_score"] = Entry("onnx_score", "onnx_score", OnnxScore.of(small_network(), reference()))
    rebuilt = Reconstruction.of(small_auto_encoder(), reference(), channels=4)
    found["reconstruction"] = Entry("reconstruction", "reconstruction", rebuilt, far=permuted)
    members = {n: found[n].score for n in ("energy", "mahalanobis", "knn")}
    for by in ("fisher", "min_p", "cauchy", "weighted_min_p"):
        weights = {"weights": [1, 2, 0.5]} if by == "weighted_min_p" else {}
        fused = build_score("fused", {"of": list(members), "by": by, **weights}, reference())
        found[f"fused_{by}"] = Entry(f"fused_{by}", "fused", fused, needs=members)
    alone = {"energy": members["energy"]}
    found["two_sided"] = Entry(
        "two_sided", "two_sided", build_score("two_sided", {"of": ["energy"]}, reference()), alone
    )
    flagged = build_score("flagged", {"of": list(members), "level": 0.05}, reference())
    found["flagged"] = Entry("flagged", "flagged", flagged, needs=members)
    stopped = early_stopped(("energy", "knn"), found)
    found["early_stopped"] = Entry(
        "early_stopped", "early_stopped", stopped, {n: found[n].score for n in ("energy", "knn")}
    )
    found["failure"] = Entry("failure", "failure", failure_predictor(tuple(members)), members)
    return found


def early_stopped(names: tuple[str, ...], found: Mapping[str, Entry]) -> Score:
    """Calibrated on rows that are near, and choosing among columns of which neither is always the lower."""
    scores = evaluate({n: found[n].score for n in names}, near(150, seed=9))
    return build_score(
        "early_stopped", {"of": list(names)}, Reference({f"s:{n}": a[:, None] for n, a in scores.items()})
    )


def failure_predictor(members: tuple[str, ...]) -> Score:
    """Learnt from p-values that are small, of every member, where the model was wrong."""
    rng = np.random.default_rng(23)
    wrong = np.arange(400) % 4 == 0
    p = {f"p:{name}": rng.uniform(size=(400, 1)) ** np.where(wrong, 4, 1)[:, None] for name in members}
    return build_score("failure", {"of": list(members)}, Reference(p, correct=~wrong))


def test_every_score_of_the_table_is_under_contract():
    assert {e.kind for e in entries().values()} == set(SCORES)
