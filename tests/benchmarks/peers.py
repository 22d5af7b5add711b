"""Other people's scores on the same rows, where they are installed (`make .venv-differential/.installed`)."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.differential.absent import without_torchvision

if TYPE_CHECKING:
    from tests.benchmarks.vision import World

Given = dict[str, Any]
DIM = 64  # of ViM in pytorch-ood, which wants one; ours takes half of the rank

# our name: their class, how its test scores are had ("logits", "features", "maps"), its arguments, whether it is fitted.
PYTORCH_OOD: dict[str, tuple[str, str, tuple[str | float, ...], Given, bool]] = {
    "msp": ("MaxSoftmax", "logits", (), {}, False),
    "max_logit": ("MaxLogit", "logits", (), {}, False),
    "energy": ("EnergyBased", "logits", (), {}, False),
    "entropy": ("Entropy", "logits", (), {}, False),
    "gen": ("GEN", "logits", (), {}, False),
    "kl_matching": ("KLMatching", "logits", (), {}, True),
    "open_max": ("OpenMax", "logits", (), {}, True),
    "mahalanobis": ("Mahalanobis", "features", (), {}, True),
    "relative_mahalanobis": ("RMD", "features", (), {}, True),
    "she": ("SHE", "features", ("head",), {}, True),
    "nci, alpha .001": ("NCI", "features", ("head",), {"alpha": 1e-3}, True),
    "fdbd": ("fDBD", "features", ("head",), {}, True),
    "knn, cosine": ("KNN", "features", (), {"k": 50}, True),
    "knn, euclidean": ("KNN", "features", (), {"k": 50, "normalize": False}, True),
    "nnguide": ("NNGuide", "features", ("head",), {}, True),
    "vim": ("ViM", "features", (DIM, "weight", "bias"), {}, True),
    "pnml": ("PNML", "features", ("head",), {}, True),
    "react_energy": ("ReAct", "maps", (), {}, True),
    "dice, energy": ("DICE", "features", ("weight", "bias", 0.9), {}, True),
    "ash_p 65, energy": ("ASH", "maps", (), {"variant": "ash-p"}, False),
    "ash_b 65, energy": ("ASH", "maps", (), {"variant": "ash-b"}, False),
    "ash_s 65, energy": ("ASH", "maps", (), {"variant": "ash-s"}, False),
    "scale 65, energy": ("SCALE", "maps", (), {}, False),
    "lts, energy": ("LTS", "features", ("head",), {}, True),
}

# our name: their module and class, its arguments.
PYOD: dict[str, tuple[str, Given]] = {
    "knn, euclidean, k 5": ("knn.KNN", {"n_neighbors": 5}),
    "knn, euclidean, mean of 5": ("knn.KNN", {"n_neighbors": 5, "method": "mean"}),
    "lof": ("lof.LOF", {"n_neighbors": 20}),
    "isolation_forest": ("iforest.IForest", {"n_estimators": 100, "random_state": 0}),
    "ecod": ("ecod.ECOD", {}),
    "copod": ("copod.COPOD", {}),
    "hbos": ("hbos.HBOS", {}),
    "pca": ("pca.PCA", {}),
    "gmm": ("gmm.GMM", {"n_components": 8, "random_state": 0}),
    "robust_mahalanobis": ("mcd.MCD", {"random_state": 0}),
    "(none) OCSVM": ("ocsvm.OCSVM", {}),
    "(none) INNE": ("inne.INNE", {"random_state": 0}),
    "(none) KDE": ("kde.KDE", {}),
    "(none) LODA": ("loda.LODA", {}),
}


def present(package: str) -> str:
    """Name and version of an installed package, or "" without it."""
    return f"{package} {version(package)}" if importlib.util.find_spec(package) else ""


def pytorch_ood(world: World) -> dict[str, dict[str, float]]:
    """AUROC of each axis by our name for the score; {} where pytorch-ood is not installed."""
    if not (present("pytorch_ood") and present("torch")):
        return {}
    without_torchvision()
    found = {}
    for name, how in PYTORCH_OOD.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = _scores(world, *how)
        except Exception as error:  # a peer that fails is a row less, and is said
            sys.stderr.write(f"pytorch-ood {how[0]}: {type(error).__name__}: {error}\n")
            continue
        found[name] = {"peer": how[0], **world.areas(np.nan_to_num(scores, nan=np.inf))}
        sys.stderr.write(f"pytorch-ood {how[0]}\n")
    return found


def _scores(world: World, name: str, by: str, args: tuple[str | float, ...], given: Given, fitted: bool) -> np.ndarray:
    import torch
    from pytorch_ood import detector

    reference = world.reference
    weight, bias = (torch.tensor(np.asarray(a, np.float32)) for a in reference.head("benchmarks"))
    head = torch.nn.Linear(*weight.shape[::-1])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    known = {"head": head, "weight": weight, "bias": bias}
    signal = "logits" if by == "logits" else "features"
    seen, tested = (torch.tensor(np.asarray(s[signal])) for s in (reference.signals, world.tested))
    model = (lambda maps: head(maps.flatten(1))) if by == "maps" else None
    if by == "maps":
        seen, tested = seen[:, :, None, None], tested[:, :, None, None]
    made = getattr(detector, name)(None, *([model] if model else []), *(known.get(a, a) for a in args), **given)
    kind = {"logits": "logits", "features": "features", "maps": "feature_maps"}[by]
    if fitted:
        getattr(made, f"fit_{kind}")(seen, torch.tensor(reference.labels))
    with torch.no_grad():
        return np.asarray(getattr(made, f"predict_{kind}")(tested), np.float64)


def pyod(first: np.ndarray, tested: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Our name for the score and PyOD's scores of the tested rows, fitted on the first; nothing where it is not installed."""
    if not present("pyod"):
        return
    for name, (place, given) in PYOD.items():
        module, kind = place.split(".")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = _class(module, kind)(**given)
                model.fit(first.astype(np.float64))
                yield name, np.nan_to_num(model.decision_function(tested.astype(np.float64)), nan=np.inf)
        except Exception as error:
            sys.stderr.write(f"PyOD {kind}: {type(error).__name__}: {error}\n")


def _class(module: str, kind: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(f"pyod.models.{module}"), kind)
    return found


def versions() -> Mapping[str, str]:
    """Of everything whose numbers are in the tables."""
    names = ("numpy", "scikit-learn", "onnxruntime", "onnxruntime-gpu", "pyod", "pytorch_ood", "torch")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
