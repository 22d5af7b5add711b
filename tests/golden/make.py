"""Write the golden bundles: `python tests/golden/make.py`. Run it when the graph or the schema changes on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import demur
from demur.monitor.config.decoding import decoding_of
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.fit.origin import Origin

HERE = Path(__file__).parent
EVERY_SCORE = [
    "msp",
    "max_logit",
    "energy",
    "entropy",
    "mahalanobis",
    "relative_mahalanobis",
    {"knn": {"k": 3, "bank": 60}},
    {"vim": {"dim": 4}},
    "react_energy",
    {"gmm": {"components": 4}},
    "activation_kurtosis",
    {"fisher": {"type": "fused", "of": ["energy", "knn"], "by": "fisher"}},
    {"min_p": {"type": "fused", "of": ["energy", "knn"], "by": "min_p"}},
]


def table(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Four Gaussian classes in eight dimensions through a linear head."""
    head = np.random.default_rng(99).normal(size=(8, 4))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, rows)
    features = (2 * np.linalg.pinv(head)[label] + 0.25 * rng.normal(size=(rows, 8))).astype(np.float32)
    weights = {"head_weight": head.T.astype(np.float32), "head_bias": np.zeros(4, np.float32)}
    return {"features": features, "logits": (3 * features @ head).astype(np.float32), "label": label, **weights}


def rows() -> demur.Bundle:
    """Every score of rows, a group rule, a sliced rule."""
    policy = {
        "monitor": "golden-rows",
        "signals": {"logits": 4, "features": 8},
        "scores": EVERY_SCORE,
        "rules": [{"novel": {"when": "fisher", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    return demur.fit(policy, reference=table(240, 1), calibration=table(300, 2))


def groups() -> demur.Bundle:
    """A group rule by maximum."""
    policy = {
        "monitor": "golden-groups",
        "signals": {"logits": 4},
        "scores": ["energy"],
        "rules": [{"image": {"when": "energy", "unit": "group", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    made = [
        {k: v for k, v in table(240, s).items() if k in ("logits", "label")} | {"group_id": np.arange(240) // 4}
        for s in (1, 2)
    ]
    return demur.fit(policy, reference=made[0], calibration=made[1])


def boxes() -> demur.Bundle:
    """Boxes of a detector, decoded by a signal map; some images have none."""
    policy = {
        "monitor": "golden-boxes",
        "signals": {"logits": 4},
        "scores": ["max_logit"],
        "rules": [{"strange": {"when": "max_logit", "unit": "group", "promise": {"refuse_good_at_most": 0.1}}}],
        "empty_group": "accept",
    }
    chart = {"detection": {"layout": "yolov8", "classes": 4, "image": [64, 64], "floor": 0.3}}
    origin = Origin(decoding_of(SignalMapConfig.model_validate(chart)), "ab" * 32)
    beside = {"group_id": np.arange(240) // 3, "empty_groups": np.array([900, 901]), "_origin": origin.column()}
    made = [{k: v for k, v in table(240, s).items() if k in ("logits", "label")} | beside for s in (1, 2)]
    return demur.fit(policy, reference=made[0], calibration=made[1])


def sliced() -> demur.Bundle:
    """A promise for each predicted class."""
    policy = {
        "monitor": "golden-sliced",
        "signals": {"logits": 4},
        "scores": ["msp"],
        "rules": [{"novel": {"when": "msp", "slice": "predicted_class", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    made = [{k: v for k, v in table(240, s).items() if k in ("logits", "label")} for s in (1, 2)]
    return demur.fit(policy, reference=made[0], calibration=made[1])


def coded() -> demur.Bundle:
    """Slices by a signal of codes beside slices by class, others unavailable; a column chosen on the calibration rows."""
    policy = {
        "monitor": "golden-coded",
        "signals": {"logits": 4, "features": 8, "site": 1},
        "scores": [
            "msp",
            {"near": {"type": "knn", "k": 1, "bank": 60}},
            {"wide": {"type": "knn", "k": 9, "bank": 60}},
            {"stopped": {"type": "early_stopped", "of": ["near", "wide"]}},
        ],
        "small_slices": "refuse",
        "rules": [
            {"elsewhere": {"when": "near", "slice": "site", "promise": {"refuse_good_at_most": 0.1}}},
            {"unsure": {"when": "msp", "slice": "predicted_class", "promise": {"refuse_good_at_most": 0.1}}},
            {"novel": {"when": "stopped", "promise": {"refuse_good_at_most": 0.1}}},
        ],
    }
    sites = {s: np.random.default_rng(s).choice([1, 2, 40], 240).astype(np.float32) for s in (1, 2)}
    made = [{k: v for k, v in table(240, s).items() if not k.startswith("head")} | {"site": sites[s]} for s in (1, 2)]
    return demur.fit(policy, reference=made[0], calibration=made[1])


def stream() -> demur.Bundle:
    """Both streaming scores."""
    policy = {
        "monitor": "golden-stream",
        "signals": {"token_logprob": 1, "topk_logprobs": 5, "topk_mask": 5},
        "scores": ["mean_nll", {"entropy": {"type": "entropy_interval", "bound": "lower", "vocabulary": 1000}}],
        "rules": [{"unfamiliar": {"when": "mean_nll", "unit": "stream", "promise": {"refuse_good_at_most": 0.1}}}],
    }

    def tokens(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        top = -np.sort(rng.gamma(2, 0.8, (600, 5)).astype(np.float32) + 1.7, axis=1)
        columns = {"token_logprob": top[:, :1].copy(), "topk_logprobs": top, "topk_mask": np.ones((600, 5), np.float32)}
        return columns | {"group_id": np.arange(600) // 10}

    return demur.fit(policy, reference=tokens(1), calibration=tokens(2))


if __name__ == "__main__":
    for make in (rows, groups, boxes, sliced, coded, stream):
        make().save(HERE / f"{make.__name__}.demur")
