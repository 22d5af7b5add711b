from tests.contract.entries import Case, permuted

SHAPED = {"transforms": [{"react": {"quantile": 0.8}}, "linear_head"], "score": {"energy": {"temperature": 2.0}}}
CASES = {
    "mahalanobis": Case("mahalanobis"),
    "mahalanobis_fixed": Case("mahalanobis", {"shrinkage": 0.1}),
    "mahalanobis_oas": Case("mahalanobis", {"shrinkage": "oas"}),
    "mahalanobis_class": Case("mahalanobis", {"covariance": "class"}),
    "relative_mahalanobis": Case("relative_mahalanobis"),
    "vim": Case("vim", {"dim": 6}, far=permuted),
    "react_energy": Case("react_energy"),
    "shaped": Case("shaped", SHAPED, far=permuted),
    "gmm": Case("gmm", {"components": 3}),
}
