"""Real signals to judge on, from the folder that DEMUR_BENCHMARK_DATA names (default: ../shared/data beside the repository)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from demur.detectors.score import Reference

FOLDER = Path(os.environ.get("DEMUR_BENCHMARK_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
PROMPT_DEMONSTRATIONS = (1, 3, 5, 7, 9)  # questions shown to the models as examples
LARGEST_ANOMALY_SET, LARGEST_ANOMALY_TASK = 6_000, 3_000


@dataclass(frozen=True, eq=False)
class Task:
    """What is fitted on, what is chosen on, and the test axes: name -> (ordinary, strange) signals.

    All disjoint; nothing of the axes is seen before judging. A family of sets counts as one kind of data.
    """

    name: str
    family: str
    reference: Reference
    selection: Reference
    axes: dict[str, tuple[dict, dict]]


def stored(name: str) -> np.lib.npyio.NpzFile:
    """An archive of the folder, read without pickle."""
    return np.load(FOLDER / name, allow_pickle=False)


def cifar() -> tuple[dict[str, dict], dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Signals and labels of each split of the CNN, and its head."""
    data = stored("vision/cifar6.npz")
    parts = ("train", "cal", "test", "near", "mnist")
    signals = {p: {s: data[f"{s}_{p}"] for s in ("features", "logits")} for p in parts}
    labels = {p: data[f"labels_{p}"] for p in ("train", "cal", "test")}
    return signals, labels, (data["head_weight"], data["head_bias"])


def options() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Option logits and right answers of each LLM, without the questions that were in their prompts."""
    data = stored("llm/cosmosqa_option_logits.npz")
    asked = np.setdiff1d(np.arange(len(data["labels"])), PROMPT_DEMONSTRATIONS)
    labels = data["labels"].astype(np.int64)[asked]
    models = [n.removeprefix("logits_") for n in data.files if n.startswith("logits_")]
    return {m: (data[f"logits_{m}"][asked], labels) for m in models}


def anomalies(seed: int, most: int = LARGEST_ANOMALY_SET) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, half of the normal rows, the other half, the anomalies; columns standardised by the first half.

    Of sets above `most` rows a seeded sample of so many; constant columns are only centred.
    """
    for path in sorted((FOLDER / "tabular").glob("*.npz")):
        data = np.load(path, allow_pickle=False)
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(data["y"]))[:most]
        if data["y"][rows].sum() < 20:  # so rare that the sample would lose them
            rows = np.union1d(rows, np.flatnonzero(data["y"]))
            rng.shuffle(rows)
        features, foreign = data["X"][rows].astype(np.float64), data["y"][rows] == 1
        normal = features[~foreign]
        yield (
            path.stem.split("_", 2)[2],
            *standardised(normal[: len(normal) // 2], normal[len(normal) // 2 :], features[foreign]),
        )
    prompts = stored("llm/prompt_embeddings_minilm.npz")
    kept = np.random.default_rng(seed).permutation(3000)
    benign = prompts["benign_train"][kept]
    yield "prompts: harmful", *standardised(benign[:1500], benign[1500:], prompts["harm_test"])
    yield (
        "prompts: jailbreaks",
        *standardised(benign[:1500], benign[1500:], np.concatenate([prompts["GCG"], prompts["JBC"]])),
    )


def standardised(first: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Every part less the mean, over the standard deviation, of the first; float32."""
    mean, spread = first.mean(axis=0, dtype=np.float64), first.std(axis=0, dtype=np.float64)
    return [((a - mean) / np.where(spread > 0, spread, 1)).astype(np.float32) for a in (first, *others)]


def answered(logits: np.ndarray, labels: np.ndarray, features: np.ndarray | None = None) -> Reference:
    """A labelled reference that knows which answers were right."""
    signals = {"logits": logits} | ({} if features is None else {"features": features})
    return Reference(signals, labels, correct=logits.argmax(axis=1) == labels)


def cut(signals: dict, rows: np.ndarray) -> dict:
    return {n: np.ascontiguousarray(a[rows]) for n, a in signals.items()}


def tasks(seed: int, quick: bool = False) -> Iterator[Task]:
    """Every task of the choice, drawn again for each seed."""
    yield cifar_task(seed)
    yield digits_task(seed)
    for model in list(options())[: 2 if quick else None]:
        yield option_task(model, seed)
    for number, found in enumerate(anomalies(seed, LARGEST_ANOMALY_TASK)):
        if not quick or number % 5 == 0:
            yield anomaly_task(*found, seed=seed)


def cifar_task(seed: int) -> Task:
    signals, labels, (weight, bias) = cifar()
    rng = np.random.default_rng(seed)
    rows, chosen = rng.permutation(27_000)[:10_000], rng.permutation(3000)[:2400]
    reference = answered(signals["train"]["logits"][rows], labels["train"][rows], signals["train"]["features"][rows])
    selection = answered(signals["cal"]["logits"][chosen], labels["cal"][chosen], signals["cal"]["features"][chosen])
    tested = signals["test"]
    right = tested["logits"].argmax(axis=1) == labels["test"]
    axes = {
        "near": (tested, signals["near"]),
        "far": (tested, signals["mnist"]),
        "errors": (cut(tested, right), cut(tested, ~right)),
    }
    head = {"head_weight": weight, "head_bias": bias}
    return Task("cifar6", "images", replace(reference, **head), replace(selection, **head), axes)


def digits_task(seed: int) -> Task:
    import onnx
    from onnx.numpy_helper import to_array

    from demur.monitor.demo.model import load_digits, train

    digits = load_digits(seed)
    held = {t.name: to_array(t) for t in onnx.load_from_string(train(*digits.train, seed)).graph.initializer}

    def signals(images: np.ndarray) -> dict:
        features = np.maximum(images @ held["w1"] + held["b1"], 0)
        return {"features": features, "logits": features @ held["w2"] + held["b2"]}

    def fitted(images: np.ndarray, labels: np.ndarray) -> Reference:
        seen = signals(images)
        head = {"head_weight": np.ascontiguousarray(held["w2"].T), "head_bias": held["b2"]}
        return replace(answered(seen["logits"], labels, seen["features"]), **head)

    (images, labels), half = digits.calibration, len(digits.calibration[1]) // 2
    reference, selection = fitted(*digits.train), fitted(images[:half], labels[:half])
    tested = signals(np.concatenate([images[half:], digits.test[0]]))
    right = tested["logits"].argmax(axis=1) == np.concatenate([labels[half:], digits.test[1]])
    axes = {"near": (tested, signals(digits.novel[0])), "errors": (cut(tested, right), cut(tested, ~right))}
    return Task("digits", "digits", reference, selection, axes)


def option_task(model: str, seed: int) -> Task:
    logits, labels = options()[model]
    rows = np.random.default_rng(seed).permutation(len(labels))
    first, second, third = np.split(rows, [4000, 7000])
    right = logits[third].argmax(axis=1) == labels[third]
    axes = {"errors": ({"logits": logits[third][right]}, {"logits": logits[third][~right]})}
    return Task(
        model, "LLM options", answered(logits[first], labels[first]), answered(logits[second], labels[second]), axes
    )


def anomaly_task(name: str, first: np.ndarray, second: np.ndarray, strange: np.ndarray, seed: int) -> Task:
    half = len(second) // 2
    axes = {"novel": ({"features": second[half:]}, {"features": strange})}
    return Task(name, "anomalies", Reference({"features": first}), Reference({"features": second[:half]}), axes)
