"""Models exported on the spot by both of PyTorch's exporters that are here, instrumented beside PyTorch's own numbers."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from demur.adapters.models.instrument import instrument

pytestmark = pytest.mark.torch

EXPORTERS = [
    "legacy",
    pytest.param(
        "dynamo", marks=pytest.mark.skipif(not importlib.util.find_spec("onnxscript"), reason="needs onnxscript")
    ),
]


def networks():
    from torch import nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            return (x + self.norm(self.second(self.first(x).relu()))).relu()

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Conv2d(3, 24, 8, 8)
            layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, dropout=0.0)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            return self.layers(self.cut(x).flatten(2).transpose(1, 2)).mean(1)

    yield "mlp", nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 32), nn.GELU()), nn.Linear(32, 7)
    yield (
        "residual",
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, 7),
    )
    yield "encoder", Encoder(), nn.Linear(24, 7, bias=False)
    yield (
        "weight_norm",
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 16), nn.SiLU()),
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 7)),
    )


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("end", ["logits", "softmax", "log_softmax"])
@pytest.mark.parametrize("name", ["mlp", "residual", "encoder", "weight_norm"])
def test_fresh_exports_show_pytorchs_features_logits_and_head(tmp_path, name, end, exporter):
    import torch
    from torch import nn

    torch.manual_seed(len(name))
    body, head = {n: (b, h) for n, b, h in networks()}[name]
    tail = {"logits": nn.Identity(), "softmax": nn.Softmax(-1), "log_softmax": nn.LogSoftmax(-1)}[end]
    model = nn.Sequential(body, head, tail).eval()
    x = torch.randn(5, 3, 16, 16)
    settings = {"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}, "dynamo": False, "opset_version": 17}
    if exporter == "dynamo":
        settings = {
            "dynamo": True,
            "dynamic_shapes": ({0: torch.export.Dim("batch")},),
            "external_data": False,
            "opset_version": 18,
        }
    torch.onnx.export(model, (x,), str(tmp_path / "m.onnx"), input_names=["x"], output_names=["y"], **settings)
    made = instrument(tmp_path / "m.onnx", layers=["1"] if name in ("residual", "encoder") else ())
    assert made.moved == 0
    found = made.file.session().run({"x": x.numpy()})
    with torch.no_grad():
        features = body(x)
        logits = head(features)
        np.testing.assert_allclose(found[made.signals.signals["features"]], features.numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found[made.signals.signals["logits"]], logits.numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["y"], model(x).numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(made.head_weight, head.weight.numpy(), rtol=1e-5, atol=1e-6)
        bias = np.zeros(7) if head.bias is None else head.bias.numpy()
        np.testing.assert_allclose(made.head_bias, bias, rtol=1e-5, atol=1e-6)


def test_a_half_precision_model_keeps_its_dtype_and_its_bits(tmp_path):
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).half().eval()
    x = torch.randn(4, 6).half()
    torch.onnx.export(
        model, (x,), str(tmp_path / "m.onnx"), input_names=["x"], output_names=["y"], dynamo=False, opset_version=17
    )
    made = instrument(tmp_path / "m.onnx")
    assert made.moved == 0
    np.testing.assert_array_equal(made.head_weight, model[2].weight.detach().float().numpy())
