import numpy as np

from demur.detectors.scores.subspace import CORE
from tests.contract.entries import Case, near, permuted, reference, with_logits


def outward(count):
    return with_logits(3 * near(count)["features"])


def pointing_elsewhere(count):
    """Ordinary to the head; what it does not see is at right angles to what any class has there."""
    core = CORE.fit(reference())
    _, _, rows = np.linalg.svd(core.directions)
    elsewhere = core.unseen @ rows[-1]
    features = near(count)["features"]
    return with_logits(features - (features - core.mean) @ core.unseen @ core.unseen.T + elsewhere)


SHAPED = {"transforms": [{"react": {"quantile": 0.8}}, "linear_head"], "score": {"energy": {"temperature": 2.0}}}
CASES = {
    "mahalanobis": Case("mahalanobis"),
    "mahalanobis_fixed": Case("mahalanobis", {"shrinkage": 0.1}),
    "mahalanobis_oas": Case("mahalanobis", {"shrinkage": "oas"}),
    "mahalanobis_class": Case("mahalanobis", {"covariance": "class"}),
    "relative_mahalanobis": Case("relative_mahalanobis"),
    "vim": Case("vim", {"dim": 6}, far=permuted),
    "residual": Case("residual", {"dim": 6}, far=permuted),
    "core": Case("core", far=pointing_elsewhere),
    "react_energy": Case("react_energy"),
    "shaped": Case("shaped", SHAPED, far=permuted),
    "gmm": Case("gmm", {"components": 3}),
    "gmm_tied": Case("gmm", {"components": 3, "covariance": "tied"}),
    "class_gmm": Case("class_gmm"),
    "robust_mahalanobis": Case("robust_mahalanobis", far=outward),
    "robust_pca": Case("robust_pca", {"dim": 6}, far=permuted),
    "drpo": Case("drpo", {"directions": 40}, far=permuted),
    "drpo_max": Case("drpo", {"directions": 40, "by": "max"}, far=permuted),
    "mean_shifted": Case("mean_shifted", most_nodes=40),
    "mean_shifted_five": Case("mean_shifted", {"k": 5, "bank": 200}, most_nodes=40),
}
