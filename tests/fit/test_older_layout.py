"""Bundles whose isolation forests an earlier version laid out otherwise: served as they are, and refused by name elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import demur
from demur.monitor.bundle import Bundle
from demur.monitor.cli.main import app
from demur.monitor.errors import BundleError
from demur.monitor.fit.scores import restore_scores
from tests.conftest import draw

GRAPH = "monitor.onnx"
NAME = "lonely"
POLICY = {
    "monitor": "older",
    "signals": {"features": 8},
    "scores": [{NAME: {"type": "isolation_forest", "trees": 3, "rows": 16}}, "knn"],
    "rules": [{"novel": {"when": NAME, "promise": {"refuse_good_at_most": 0.05}}}],
}


def features(seed: int) -> dict[str, np.ndarray]:
    return {"features": draw(200, seed)["features"]}


@pytest.fixture(scope="module")
def bundle():
    return demur.fit(POLICY, reference=features(1), calibration=features(2))


def one_after_another(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Level by level, tree beside tree, in one row, as before the trees were columns: roots from T on."""
    rows, trees = held["feature"].shape
    levels = [slice(2**level, 2 ** (level + 1)) for level in range(int(np.log2(rows)))]
    cuts = {
        n: np.concatenate([held[n][:1].ravel(), *(held[n][at].T.ravel() for at in levels)])
        for n in ("feature", "threshold")
    }
    ends = {"roots": np.arange(trees, 2 * trees, dtype=np.int32), "leaves": np.array([rows * trees], np.int32)}
    return {**cuts, "path": held["path"].T.ravel(), **ends}


def with_children(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As the first forests were: trees of nodes that name their left child, and no place where leaves begin."""
    old = one_after_another(held)
    del old["leaves"]
    return {**old, "left": np.arange(len(old["feature"]), dtype=np.int32), "roots": old["roots"].astype(np.float32)}


def rewritten(bundle: Bundle, layout) -> Bundle:
    """The bundle with its forest's weights in another layout, every digest as it should be."""
    model = onnx.load_from_string(bundle.graph)
    start = f"{NAME}."
    theirs = [i for i in model.graph.initializer if i.name.startswith(start)]
    laid = layout({i.name.removeprefix(start): numpy_helper.to_array(i) for i in theirs})
    for tensor in theirs:
        if tensor.name.removeprefix(start) in laid:
            model.graph.initializer.remove(tensor)
    model.graph.initializer.extend(numpy_helper.from_array(a, start + n) for n, a in laid.items())
    entries = [
        e.model_copy(update={"parameters": sorted(laid)}) if e.name == NAME else e for e in bundle.manifest.scores
    ]
    fields = {n: getattr(bundle.manifest, n) for n in type(bundle.manifest).model_fields}
    members = {**bundle.members, GRAPH: model.SerializeToString()}
    return Bundle.build(
        members, **{n: v for n, v in fields.items() if n not in ("members", "rules_digest", "scores")}, scores=entries
    )


@pytest.mark.parametrize(
    ("layout", "found"),
    [(one_after_another, r"field 'feature' has shape \(\d+,\), expected 2 axes"), (with_children, "field 'leaves'")],
)
def test_an_older_forest_is_refused_by_name_with_the_next_step(bundle, layout, found, tmp_path):
    old = rewritten(bundle, layout)
    message = rf"score {NAME}: .*{found}.*run `demur fit` again"
    for act in (
        lambda: restore_scores(old),
        lambda: demur.calibrate(old),
        lambda: demur.calibrate(old, calibration=features(3)),
    ):
        with pytest.raises(BundleError, match=message):
            act()
    old.save(tmp_path / "old.demur")
    words = ["calibrate", str(tmp_path / "old.demur"), "-o", str(tmp_path / "new.demur")]
    told = CliRunner().invoke(app, words)
    assert isinstance(told.exception, BundleError)  # `main` prints it and exits with 1
    assert not (tmp_path / "new.demur").exists()
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "old.demur")])
    assert shown.exit_code == 0
    assert NAME in shown.output


def test_the_layout_of_today_is_restored_and_so_are_the_other_scores_of_an_old_bundle(bundle):
    assert set(restore_scores(bundle)) == {NAME, "knn"}
    old = rewritten(bundle, one_after_another)
    assert set(restore_scores(old, "knn")) == {"knn"}
