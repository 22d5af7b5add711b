"""`demur collect` from MLServer and KServe, over both transports, beside the same model in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from demur.adapters.models.collect import collect
from demur.adapters.models.collect.model import Access
from demur.monitor.cli.main import app
from demur.monitor.errors import DemurError
from demur.monitor.fit.table import load_table
from tests.servers.runtimes.perceptron import Perceptron

pytestmark = pytest.mark.servers

MAP = {"signals": {"logits": "logits", "features": "features"}}


def address(place, transport):
    return f"grpc://{place.grpc}" if transport == "grpc" else f"http://{place.rest}"


@pytest.fixture
def place(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("place", ["mlserver", "kserve"], indirect=True)
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_real_server_gives_the_signals_of_its_model(digits, place, transport, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with np.load(digits.folder / "images.npz") as data:
        np.savez("data.npz", image=data["train"], label=data["labels"])
        wanted = Perceptron(digits.folder / "weights.npz")(data["train"])
    Path("map.yaml").write_text(yaml.safe_dump(MAP))
    words = ["collect", address(place, transport), "data.npz", "table.npz", "--model", "digits", "--map", "map.yaml"]
    # Neither server says which inputs its models have.
    answer = CliRunner().invoke(app, [*words, "--input", "image=image", "--batch", "50"])
    assert answer.exit_code == 0, f"{answer.output} {answer.exception!r}"
    table = load_table("table.npz")
    for name in ("logits", "features"):
        np.testing.assert_allclose(table.signals[name], wanted[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(table.prediction, wanted["predict"])
    assert table.loss is not None
    assert table.loss.mean() < 0.1


@pytest.mark.parametrize("place", ["mlserver"], indirect=True)
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_forest_of_scikit_learn(digits, place, transport, tmp_path):
    """float64 probabilities of a runtime that is not ours."""
    with np.load(digits.folder / "answers.npz") as answers, np.load(digits.folder / "images.npz") as data:
        wanted, images = answers["train"], data["train"]
    made = collect(
        address(place, transport), {"predict": images}, tmp_path / "t.npz", map={
            "signals": {"probabilities": "predict_proba"}, "kinds": {"probabilities": "probabilities"},
        }, inputs={"predict": "predict"}, access=Access("forest"),
    )  # fmt: skip
    table = load_table(tmp_path / "t.npz")
    np.testing.assert_allclose(table.signals["probabilities"], wanted, atol=1e-6)
    np.testing.assert_array_equal(table.prediction, wanted.argmax(axis=1))
    assert not [f for f in made.summary().findings if f.code == "kind_mismatch"]


@pytest.mark.parametrize("place", ["mlserver", "kserve"], indirect=True)
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_what_a_real_server_refuses_is_said_in_its_words(place, transport, tmp_path):
    images = {"image": np.zeros((4, 63), np.float32)}
    with pytest.raises(DemurError, match=r"expected images of shape \(N, 64\)"):
        collect(
            address(place, transport),
            images,
            tmp_path / "t.npz",
            map=MAP,
            inputs={"image": "image"},
            access=Access("digits"),
        )
    with pytest.raises(DemurError, match="nothing"):
        collect(
            address(place, transport),
            images,
            tmp_path / "t.npz",
            map=MAP,
            inputs={"image": "image"},
            access=Access("nothing"),
        )
    assert list(tmp_path.iterdir()) == []
