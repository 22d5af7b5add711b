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

from demur.detectors.build import build_score
from demur.detectors.compile import compile_monitor, compile_scores, serialize
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.policy import Column
from demur.detectors.score import Reference, Score
from demur.detectors.scores import SCORES
from demur.detectors.scores.onnx_score import OnnxScore

C, D, M, P = 7, 16, 420, 8
VIEWS, TURNS = 3, 4
WIDTHS = {
    "features": D,
    "logits": C,
    "features_grad": D,
    "projection": P,
    "view_logits": VIEWS * C,
    "rotation_logits": TURNS**2,
    "attention": D,
    "activations": D,
}
Signals = dict[str, np.ndarray]


@functools.cache
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class centres (C, D) and the head (C, D), (C,) that is optimal for them."""
    centres = np.abs(np.random.default_rng(5).normal(size=(C, D))) * 2
    return centres.astype(np.float32), centres.astype(np.float32), (-(centres**2).sum(axis=1) / 2).astype(np.float32)


def with_logits(features: np.ndarray) -> Signals:
    _, weight, bias = world()
    features = np.ascontiguousarray(features, np.float32)
    with np.errstate(all="ignore"):
        logits = (features @ weight.T + bias).astype(np.float32)
        projection = (features @ mixing()).astype(np.float32)
    known = {"features": features, "logits": logits, "features_grad": gradient(logits), "projection": projection}
    return {**known, **views(features), **health(features)}


def views(features: np.ndarray) -> Signals:
    """Logits of views that turn some activations up and others down; a rotation head that knows the class centres."""
    centres, weight, bias = world()
    rows = np.clip(np.nan_to_num(features.astype(np.float64)), -1e30, 1e30)
    gains = 1 + 0.3 * np.random.default_rng(19).normal(size=(VIEWS, 1, D))
    of_views = (rows * gains) @ weight.T + bias
    apart = np.sqrt(((rows[:, None] - centres) ** 2).sum(axis=2)).min(axis=1)
    turns = np.tile(0.1 * rows[:, :TURNS], TURNS) + np.eye(TURNS).ravel() * (5 - apart[:, None])
    found = {"view_logits": np.concatenate(list(of_views), axis=1), "rotation_logits": turns}
    return {name: array.astype(np.float32) for name, array in found.items()}


def health(features: np.ndarray) -> Signals:
    """Activations, and attention that goes where they are large: column sums over D queries."""
    size = np.abs(np.clip(np.nan_to_num(features.astype(np.float64)), -1e30, 1e30))
    attention = D * size / np.maximum(size.sum(axis=1, keepdims=True), 1e-300)
    return {"attention": attention.astype(np.float32), "activations": features.copy()}


@functools.cache
def mixing() -> np.ndarray:
    """Weights (D, P) of a projection head."""
    return np.random.default_rng(13).normal(size=(D, P)).astype(np.float32)


def gradient(logits: np.ndarray) -> np.ndarray:
    """Of KL(uniform | softmax) with respect to the features, (N, D)."""
    shifted = np.clip(np.nan_to_num(logits), -1e38, 1e38).astype(np.float64)
    p = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return ((p / p.sum(axis=1, keepdims=True) - 1 / C) @ world()[1]).astype(np.float32)


def near(count: int, seed: int = 1) -> Signals:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % C
    return with_logits(np.abs(world()[0][labels] + 0.3 * rng.normal(size=(count, D))))


def between_classes(count: int) -> Signals:
    """Halfway between two centres: ambiguous to the head, and off the data."""
    centres = world()[0]
    noise = 0.1 * np.random.default_rng(3).normal(size=(count, D))
    i = np.arange(count)
    return with_logits(np.abs((centres[i % C] + centres[(i + 3) % C]) / 2 + noise))


def permuted(count: int) -> Signals:
    """Ordinary activations in the wrong places."""
    return with_logits(np.random.default_rng(9).permuted(near(count)["features"], axis=1))


def healthy(count: int) -> Signals:
    return with_logits(np.random.default_rng(11).normal(size=(count, D)))


def spiked(count: int) -> Signals:
    """One activation carries everything."""
    features = healthy(count)["features"].copy()
    features[:, 4] = 80
    return with_logits(features)


@functools.cache
def reference() -> Reference:
    signals = near(M, seed=0)
    labels = np.arange(M) % C
    correct = signals["logits"].argmax(axis=1) == labels
    sides = {"outliers": Reference(outliers(300)), "wild": Reference(wild(400))}
    return Reference(signals, labels, world()[1], world()[2], correct, sides=sides)


def outliers(count: int) -> Signals:
    """Rows known to be foreign: permuted activations, like those of `permuted` but others."""
    return with_logits(np.random.default_rng(17).permuted(near(count, seed=4)["features"], axis=1))


def wild(count: int) -> Signals:
    """Unlabelled traffic: three rows in ten are foreign."""
    foreign = 3 * count // 10
    rows = (near(count - foreign, seed=6)["features"], outliers(foreign)["features"])
    return with_logits(np.concatenate(rows))


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
        every = [s for score in (*self.needs.values(), self.score) for s in score.inputs if not s.startswith("p:")]
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
            return ReferenceEvaluator(self.model).run(["scores"], self.feed(signals))[0][:, -1]

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
    members = {n: found[n].score for n in ("energy", "mahalanobis", "knn")}
    for by in ("fisher", "min_p", "cauchy", "weighted_min_p"):
        weights = {"weights": [1, 2, 0.5]} if by == "weighted_min_p" else {}
        fused = build_score("fused", {"of": list(members), "by": by, **weights}, reference())
        found[f"fused_{by}"] = Entry(f"fused_{by}", "fused", fused, needs=members)
    alone = {"energy": members["energy"]}
    found["two_sided"] = Entry(
        "two_sided", "two_sided", build_score("two_sided", {"of": ["energy"]}, reference()), alone
    )
    found["failure"] = Entry("failure", "failure", failure_predictor(tuple(members)), members)
    return found


def failure_predictor(members: tuple[str, ...]) -> Score:
    """Learnt from p-values that are small, of every member, where the model was wrong."""
    rng = np.random.default_rng(23)
    wrong = np.arange(400) % 4 == 0
    p = {f"p:{name}": rng.uniform(size=(400, 1)) ** np.where(wrong, 4, 1)[:, None] for name in members}
    return build_score("failure", {"of": list(members)}, Reference(p, correct=~wrong))


def test_every_score_of_the_table_is_under_contract():
    assert {e.kind for e in entries().values()} == set(SCORES)
