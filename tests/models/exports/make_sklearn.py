"""Tiny scikit-learn exports with what scikit-learn computed: run with scikit-learn 1.9 and skl2onnx 1.20 in a scratch environment.

python make_sklearn.py [FOLDER]
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent


def mlp_features(fitted, x):
    for weight, bias in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
        x = np.maximum(x @ weight + bias, 0)
    return x


def mlp():
    return MLPClassifier((6,), max_iter=60, random_state=0)


def main() -> None:
    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    two = y < 2
    cases = {
        "skl_mlp": (make_pipeline(StandardScaler(), mlp()), x, y, {}),
        "skl_mlp_binary": (mlp(), x[two], y[two], {"zipmap": False}),
        "skl_logistic": (LogisticRegression(), x, y, {}),
        "skl_logistic_binary": (LogisticRegression(), x[two], y[two], {"zipmap": False}),
        "skl_forest": (RandomForestClassifier(3, max_depth=2, random_state=0), x, y, {}),
    }
    for name, (model, rows, labels, options) in cases.items():
        model.fit(rows, labels)
        last = model[-1] if name == "skl_mlp" else model
        proto = to_onnx(
            model, rows[:1], options={id(last): options} if options else None, target_opset={"": 18, "ai.onnx.ml": 3}
        )
        (OUT / f"{name}.onnx").write_bytes(proto.SerializeToString())
        shown = rows[::20]
        kept = {"in.X": shown, "probabilities": model.predict_proba(shown)}
        if "mlp" in name:
            inner = model[0].transform(shown) if name == "skl_mlp" else shown
            features = mlp_features(last, inner)
            kept |= {"features": features, "weight": last.coefs_[-1].T, "bias": last.intercepts_[-1]}
        if "logistic" in name:
            kept |= {"features": shown, "weight": model.coef_, "bias": model.intercept_}
        if "features" in kept:
            kept["logits"] = kept["features"] @ kept["weight"].T + kept["bias"]
        np.savez_compressed(OUT / f"{name}.npz", **kept)


if __name__ == "__main__":
    main()
