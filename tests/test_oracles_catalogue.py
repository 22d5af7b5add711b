"""No score and no transform without an oracle."""

from __future__ import annotations

import inspect

from demur.detectors.scores import SCORES, STREAM_SCORES
from demur.detectors.scores.fusion import WAYS
from demur.detectors.transforms import TRANSFORMS
from tests import (
    test_oracles,
    test_oracles_banks,
    test_oracles_boxes,
    test_oracles_composed,
    test_oracles_cost,
    test_oracles_coverage,
    test_oracles_features,
    test_oracles_learned,
    test_oracles_logits,
    test_oracles_modalities,
    test_oracles_pixels,
    test_oracles_sigmoid,
    test_oracles_tabular,
    test_oracles_transforms,
    test_oracles_views,
    test_promises_stopping,
)
from tests.oracles.table import FUSION, ROW, STREAM

FAMILIES = (
    test_oracles_banks,
    test_oracles_cost,
    test_oracles_features,
    test_oracles_logits,
    test_oracles_tabular,
    test_oracles_transforms,
    test_oracles_views,
)
ALONE = {  # whose fit is random, foreign or made of parts, or which read other signals: they have tests of their own
    test_oracles_banks: {"cider", "cfood", "contrastive_banks"},
    test_oracles_boxes: {"box"},
    test_oracles_composed: {"shaped", "gmm", "onnx_score", "fused", "two_sided", "flagged", "react", "linear_head"},
    test_oracles_coverage: {"nac", "nac_layers"},
    test_oracles_learned: {"outlier_head", "sal", "flow", "auto_encoder", "failure"},
    test_oracles_modalities: {
        "missing",
        "impute",
        "missingness",
        "interval_width",
        "veracity",
        "self_similarity",
        "reconstruction",
        "photometric",
    },
    test_oracles_sigmoid: {"sigmoid_energy", "objectness_gap"},
    test_oracles_pixels: {"rba", "standardised_max_logit", "given"},
    test_oracles_tabular: {"isolation_forest", "magnitude"},
    test_promises_stopping: {"early_stopped"},
    test_oracles_views: {
        "cover",
        "predictive_entropy",
        "bald",
        "variation_ratio",
        "disagreement",
        "rotation",
        "attention_sink",
    },
}


def judged() -> set[str]:
    return {case.kind for family in FAMILIES for case in family.CASES.values()}


def test_every_score_has_an_oracle():
    assert set(ROW) | judged() | set().union(*ALONE.values()) - set(TRANSFORMS) == set(SCORES)
    assert set(ROW) == {kind for kind, _ in test_oracles.CASES.values()}
    assert set(STREAM) == set(STREAM_SCORES)
    assert set(FUSION) == set(WAYS)


def test_every_transform_has_an_oracle():
    chains = [case.entry["shaped"]["transforms"] for case in test_oracles_transforms.CASES.values()]
    used = {entry if isinstance(entry, str) else next(iter(entry)) for chain in chains for entry in chain}
    assert used | (ALONE[test_oracles_composed] | ALONE[test_oracles_modalities]) & set(TRANSFORMS) | {"select"} == set(
        TRANSFORMS
    )


def test_scores_with_tests_of_their_own_are_in_them():
    for module, kinds in ALONE.items():
        source = inspect.getsource(module)
        assert {kind for kind in kinds if f'"{kind}"' not in source} == set()
