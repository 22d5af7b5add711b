import numpy as np

from tests.contract.entries import Case, near, spiked
from tests.contract.families.tabular import TAIL_NODES
from tests.contract.world import PATCH


def another_last_patch(count):
    """The newest patch at right angles to the others."""
    signals = near(count)
    first = signals["window_embeddings"][:, :PATCH]
    signals["window_embeddings"][:, -PATCH:] = first[:, [1, 0, 3, 2]] * np.array([1, -1, 1, -1], np.float32)
    return signals


def rarely_missing(count):
    signals = near(count)
    signals["features_missing"] = 1 - signals["features_missing"]
    return signals


def half_empty(count):
    signals = near(count)
    signals["table"][:, ::2] = np.nan
    return signals


def something_moves(count):
    signals = near(count)
    signals["photometric_error"][:, :5] += 9
    return signals


def imputed(score, **limits):
    return Case("shaped", {"transforms": [{"impute": {"signal": "table"}}], "score": score}, **limits)


CASES = {
    "missingness": Case("missingness", far=rarely_missing),
    "imputed_knn": imputed("knn"),
    "imputed_ecod": imputed("ecod", far=spiked, most_nodes=TAIL_NODES),
    "table_missingness": Case(
        "shaped", {"transforms": [{"missing": {"signal": "table"}}], "score": "missingness"}, far=half_empty
    ),
    "interval_width": Case("interval_width"),
    "interval_width_quantiles": Case("interval_width", {"by": "quantiles", "coverage": 0.8}),
    "veracity": Case("veracity"),
    "veracity_two": Case("veracity", {"uncertainty": ["spread", "high"]}),
    "self_similarity": Case("self_similarity", {"patches": 4}, far=another_last_patch),
    "self_similarity_any": Case(
        "self_similarity", {"patches": 4, "by": "top", "of": "any", "k": 2}, far=another_last_patch
    ),
    "photometric": Case("photometric", far=something_moves),
}
