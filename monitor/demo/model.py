"""A small classifier of handwritten digits 0-7, trained here and exported to ONNX with its features and logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Images = NDArray[np.float32]  # (N, 64), 8 x 8 grey values in [0, 1]

KNOWN = 8
HIDDEN = 64


@dataclass(frozen=True, eq=False)
class Digits:
    """Disjoint splits of scikit-learn's handwritten digits; `novel` holds the 8s and 9s that the model never sees."""

    train: tuple[Images, NDArray[np.int64]]
    calibration: tuple[Images, NDArray[np.int64]]
    test: tuple[Images, NDArray[np.int64]]
    novel: tuple[Images, NDArray[np.int64]]


def load_digits(seed: int = 0) -> Digits:
    """1,797 real 8 x 8 scans shipped with scikit-learn: about 500 to train on, 640 to calibrate, 290 to test, 350 novel."""
    from sklearn.datasets import load_digits as bunch

    data = bunch()
    images, labels = (data.data / 16.0).astype(np.float32), data.target.astype(np.int64)
    known = np.flatnonzero(labels < KNOWN)
    np.random.default_rng(seed).shuffle(known)
    parts = np.split(known, [int(0.35 * len(known)), int(0.8 * len(known))])
    novel = np.flatnonzero(labels >= KNOWN)
    train, calibration, test, unseen = ((images[rows], labels[rows]) for rows in (*parts, novel))
    return Digits(train, calibration, test, unseen)


def train(images: Images, labels: NDArray[np.int64], seed: int = 0) -> bytes:
    """A two-layer perceptron as ONNX: input `image` (N, 64), outputs `features` (N, 64) and `logits` (N, 8)."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        (HIDDEN,), alpha=1e-3, max_iter=400, tol=1e-5, random_state=seed, early_stopping=False, n_iter_no_change=400
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops at max_iter by design
        model.fit(images, labels)
    return export(model.coefs_, model.intercepts_)


def export(weights: list[NDArray[np.float64]], biases: list[NDArray[np.float64]]) -> bytes:
    """The perceptron's weights as an ONNX graph."""
    arrays = {"w1": weights[0], "b1": biases[0], "w2": weights[1], "b2": biases[1]}
    nodes = [
        helper.make_node("Gemm", ["image", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["features"]),
        helper.make_node("Gemm", ["features", "w2", "b2"], ["logits"]),
    ]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w])
        for n, w in (("features", HIDDEN), ("logits", KNOWN))
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", weights[0].shape[0]])],
        outputs,
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
