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


def detector(end_to_end):
    """A detector as YOLO exports are laid out: three scales, distributions of distances, boxes decoded in the graph."""
    import torch
    from torch import nn

    def block(i, o, k=3, stride=1, groups=1):
        return nn.Sequential(
            nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.SiLU()
        )

    class Detector(nn.Module):
        def __init__(self, classes=4, bins=8):
            super().__init__()
            self.classes, self.bins = classes, bins
            self.stem = nn.Sequential(block(3, 8, stride=2), block(8, 8, stride=2))
            self.downs = nn.ModuleList(block(8, 8, stride=2) for _ in range(3))
            self.joins, self.up = nn.ModuleList(block(16, 8) for _ in range(2)), nn.Upsample(scale_factor=2)
            self.boxes = nn.ModuleList(nn.Sequential(block(8, 16), nn.Conv2d(16, 4 * bins, 1)) for _ in range(3))
            self.kinds = nn.ModuleList(
                nn.Sequential(block(8, 8, groups=8), block(8, 8, 1), nn.Conv2d(8, classes, 1)) for _ in range(3)
            )
            self.register_buffer("anchors", torch.rand(1, 2, 336))
            self.register_buffer("distances", torch.arange(bins).float().view(1, bins, 1, 1))

        def maps(self, x):
            x, found = self.stem(x), []
            for down in self.downs:
                x = down(x)
                found.append(x)
            middle = self.joins[0](torch.cat([self.up(found[2]), found[1]], 1))
            return [self.joins[1](torch.cat([self.up(middle), found[0]], 1)), middle, found[2]]

        def forward(self, x):
            scales = [
                torch.cat([b(m), k(m)], 1).flatten(2)
                for b, k, m in zip(self.boxes, self.kinds, self.maps(x), strict=True)
            ]
            box, kind = torch.cat(scales, 2).split([4 * self.bins, self.classes], 1)
            spread = box.view(len(box), 4, self.bins, -1).transpose(1, 2).softmax(1)
            near, far = nn.functional.conv2d(spread, self.distances)[:, 0].chunk(2, 1)
            low, high = self.anchors - near, self.anchors + far
            rows = torch.cat([(low + high) / 2, high - low, kind.sigmoid()], 1)
            if not end_to_end:
                return rows
            rows = rows.transpose(1, 2)
            score, label = rows[..., 4:].max(-1)
            best, place = score.topk(20)
            chosen = rows[..., :4].gather(1, place[..., None].expand(-1, -1, 4))
            return torch.cat([chosen, best[..., None], label.gather(1, place)[..., None].float()], -1)

    return Detector().eval()


@pytest.mark.parametrize("end_to_end", [False, True])
def test_a_detectors_maps_are_what_its_branches_read_however_boxes_are_decoded(tmp_path, end_to_end):
    import torch

    torch.manual_seed(1)
    model, x = detector(end_to_end), torch.rand(1, 3, 128, 128)
    torch.onnx.export(
        model,
        (x,),
        str(tmp_path / "d.onnx"),
        input_names=["images"],
        output_names=["output0"],
        dynamo=False,
        opset_version=17,
    )
    made = instrument(tmp_path / "d.onnx")
    assert dict(made.maps) == {"feature_map_1": 8, "feature_map_2": 16, "feature_map_3": 32}
    found = made.file.session().run({"images": x.numpy()})
    with torch.no_grad():
        for i, expected in enumerate(model.maps(x)):
            np.testing.assert_allclose(found[f"feature_map_{i + 1}"], expected.numpy(), rtol=1e-3, atol=1e-5)
