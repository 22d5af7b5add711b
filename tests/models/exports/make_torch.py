"""Tiny PyTorch exports with what PyTorch itself computed: run with torch 2.13 and onnxscript 0.7 in a scratch environment.

    python make_torch.py [FOLDER]

Each model gives NAME.onnx and NAME.npz: its inputs (`in.NAME`), and the features, logits, head weight and bias that
PyTorch had.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

warnings.filterwarnings("ignore")
OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
CLASSES, BATCH = 5, 4


class Classifier(nn.Module):
    """`body` to features, `head` to logits, `end` to what is returned."""

    def __init__(self, body, head, end=None):
        super().__init__()
        self.body, self.head, self.end = body, head, end or nn.Identity()

    def features(self, *inputs):
        return self.body(*inputs)

    def logits(self, features):
        return self.head(features)

    def forward(self, *inputs):
        return self.end(self.logits(self.features(*inputs)))


class ConvHead(Classifier):
    """A 1x1 convolution, then the mean over the picture; features are the mean of what the convolution reads."""

    def logits(self, features):
        return functional.conv2d(features[:, :, None, None], self.head.weight, self.head.bias).flatten(1)

    def features(self, *inputs):
        return self.body(*inputs).mean((2, 3))

    def forward(self, x):
        return self.end(functional.adaptive_avg_pool2d(self.head(self.body(x)), 1).flatten(1))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask=None):
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
        if mask is not None:
            weights = weights.masked_fill(mask[:, None, None, :] == 0, -1e4)
        return self.out((weights.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, mask=None):
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, a class token, two blocks; the class token's row goes on."""

    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, 5, width))
        self.blocks = nn.ModuleList([Block(width, 2) for _ in range(2)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class Bert(nn.Module):
    """Token ids and a mask, two blocks, a pooler on the first token."""

    def __init__(self, width=16, words=40):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(12, width)
        self.blocks = nn.ModuleList([Block(width, 2) for _ in range(2)])
        self.pooler = nn.Linear(width, width)

    def forward(self, ids, mask):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, mask)
        return torch.tanh(self.pooler(x[:, 0]))


class LastToken(nn.Module):
    def __init__(self, width=16, words=40):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.block, self.norm = Block(width, 2), nn.LayerNorm(width)

    def forward(self, ids):
        return self.norm(self.block(self.words(ids)))


class LogitsOfLastToken(Classifier):
    """The head runs on every token, the last token's logits are returned."""

    def features(self, ids):
        return self.body(ids)[:, -1]

    def forward(self, ids):
        return self.head(self.body(ids))[:, -1]


class Yolo(nn.Module):
    """Three scales; a box and a class branch on each, as detectors of the YOLO family have, all boxes in one tensor."""

    def __init__(self, classes=3, split=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.downs = nn.ModuleList([nn.Conv2d(4, 4, 3, 2, 1) for _ in range(4)])
        self.split, self.classes = split, classes
        outs = [4, classes] if split else [3 * (5 + classes)]
        self.heads = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.SiLU(), nn.Conv2d(4, o, 1))
                    if split
                    else nn.Conv2d(4, o, 1)
                    for o in outs
                ]
            )
            for _ in range(3)
        )

    def maps(self, x):
        x = functional.silu(self.stem(x))
        found = []
        for down in self.downs:
            x = functional.silu(down(x))
            found.append(x)
        return found[-3:]

    def forward(self, x):
        parts = []
        for heads, seen in zip(self.heads, self.maps(x), strict=True):
            if self.split:
                parts.append(torch.cat([h(seen) for h in heads], 1).flatten(2))
            else:
                n, _, h, w = seen.shape
                parts.append(
                    heads[0](seen)
                    .view(n, 3, 5 + self.classes, h, w)
                    .permute(0, 1, 3, 4, 2)
                    .reshape(n, -1, 5 + self.classes)
                    .sigmoid()
                )
        if not self.split:
            return torch.cat(parts, 1)
        boxes, scores = torch.cat(parts, 2).split([4, self.classes], 1)
        return torch.cat([boxes, scores.sigmoid()], 1)


def mlp():
    return nn.Sequential(nn.Linear(7, 12), nn.ReLU())


def picture(n=BATCH, size=8, channels=1):
    return (torch.randn(n, channels, size, size),)


def ids(n=BATCH, length=6):
    return torch.randint(0, 40, (n, length))


def cnn(*tail):
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), *tail)


def models():
    """name: model, inputs, input names, dynamic axes beyond the batch, opset, by the newer exporter."""
    row = (torch.randn(BATCH, 7),)
    yield "mlp_logits", Classifier(mlp(), nn.Linear(12, CLASSES)), row, ["x"], 11, False
    yield "mlp_no_bias", Classifier(mlp(), nn.Linear(12, CLASSES, bias=False), nn.LogSoftmax(-1)), row, ["x"], 17, True
    yield "mlp_opset21", Classifier(mlp(), nn.Linear(12, CLASSES), nn.Softmax(-1)), row, ["x"], 21, True
    yield (
        "cnn_softmax",
        Classifier(
            cnn(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 10), nn.ReLU()), nn.Linear(10, CLASSES), nn.Softmax(-1)
        ),
        picture(),
        ["image"],
        13,
        False,
    )
    yield (
        "cnn_logits",
        Classifier(cnn(nn.Flatten(), nn.Linear(384, 9), nn.Tanh()), nn.Linear(9, CLASSES)),
        picture(),
        ["image"],
        17,
        True,
    )
    yield (
        "cnn_gap",
        Classifier(cnn(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(6, CLASSES)),
        picture(),
        ["image"],
        18,
        True,
    )
    yield "conv_head", ConvHead(cnn(), nn.Conv2d(6, CLASSES, 1)), picture(), ["image"], 17, False
    yield "vit", Classifier(Vit(), nn.Linear(16, CLASSES)), picture(), ["pixels"], 18, True
    yield "vit_legacy", Classifier(Vit(), nn.Linear(16, CLASSES), nn.Softmax(-1)), picture(), ["pixels"], 14, False
    yield (
        "bert",
        Classifier(Bert(), nn.Linear(16, CLASSES)),
        (ids(), torch.tensor([[1] * 6, [1] * 4 + [0] * 2] * 2)),
        ["input_ids", "attention_mask"],
        17,
        False,
    )
    yield "last_token", LogitsOfLastToken(LastToken(), nn.Linear(16, CLASSES)), (ids(),), ["input_ids"], 17, False


def plain():
    """Models without a row of logits: name, model, inputs, names, opset, by the newer exporter."""
    pixels = (torch.rand(1, 3, 64, 64),)
    yield "yolo_split", Yolo(), pixels, ["images"], 17, False
    yield "yolo_anchors", Yolo(split=False), pixels, ["images"], 12, False
    yield (
        "squeeze",
        nn.Sequential(
            cnn(), nn.Conv2d(6, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(-1)
        ),
        picture(),
        ["image"],
        17,
        False,
    )
    yield (
        "autoencoder",
        nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 1, 2, 2), nn.Tanh()),
        picture(),
        ["image"],
        17,
        False,
    )
    yield "tokens", nn.Sequential(LastToken(), nn.Linear(16, CLASSES)), (ids(),), ["input_ids"], 17, False


def export(name, model, inputs, names, opset, newer):
    where = str(OUT / f"{name}.onnx")
    if newer:
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} for _ in inputs)
        kept = {"dynamic_shapes": (shapes,) if isinstance(model, Classifier) else shapes}
        torch.onnx.export(
            model,
            inputs,
            where,
            input_names=names,
            output_names=["output"],
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
            **kept,
        )
        return
    length = {1: "length"} if inputs[0].dtype == torch.int64 else {}
    axes = {n: {0: "batch", **length} for n in [*names, "output"]}
    if name.startswith("yolo"):
        axes = {}
    if not isinstance(model, nn.Sequential):
        axes["output"] = {0: "batch"}
    torch.onnx.export(
        model,
        inputs,
        where,
        input_names=names,
        output_names=["output"],
        opset_version=opset,
        dynamo=False,
        dynamic_axes=axes if not name.startswith("yolo") else None,
    )


def strip(where):
    """Stack traces out of the file: they name this machine's folders, and are most of its bytes."""
    proto = onnx.load(where)
    for part in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.value_info,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(proto, where)


def main() -> None:
    torch.manual_seed(0)
    for name, model, inputs, names, opset, newer in models():
        model = model.eval()
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        export(name, model, inputs, names, opset, newer)
        strip(OUT / f"{name}.onnx")
        with torch.no_grad():
            features = model.features(*inputs)
            kept = {"features": features, "logits": model.logits(features), "output": model(*inputs)}
            weight = model.head.weight.flatten(1)
            bias = torch.zeros(len(weight)) if model.head.bias is None else model.head.bias
            kept |= {"weight": weight, "bias": bias, **{f"in.{n}": v for n, v in zip(names, inputs, strict=True)}}
        np.savez_compressed(OUT / f"{name}.npz", **{n: v.detach().numpy() for n, v in kept.items()})
    for name, model, inputs, names, opset, newer in plain():
        export(name, model.eval(), inputs, names, opset, newer)
        strip(OUT / f"{name}.onnx")
        with torch.no_grad():
            kept = {"output": model(*inputs), **{f"in.{n}": v for n, v in zip(names, inputs, strict=True)}}
            if name.startswith("yolo"):
                kept |= {f"map{i}": m for i, m in enumerate(model.maps(*inputs))}
        np.savez_compressed(OUT / f"{name}.npz", **{n: v.numpy() for n, v in kept.items()})


if __name__ == "__main__":
    main()
