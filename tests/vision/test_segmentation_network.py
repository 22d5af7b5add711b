"""A small convolutional network trained on the spot, exported to ONNX with both layouts, and monitored from its file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import yaml

import demur
from demur.adapters.models.adapters_of import output_adapter
from demur.adapters.models.segmentation import Segmenter
from demur.detectors.promises import binomial
from demur.monitor.config.document import load
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.session import Session
from tests.oracles import logit, pixel
from tests.vision.street import CLASSES, UNKNOWN, scene

pytestmark = pytest.mark.torch
STEPS, BATCH, ALPHA, LEVEL, CALIBRATION, GOOD, STRANGE = 100, 8, 0.1, 59, 99, 100, 40
DENSE = ("energy", "max_logit", "entropy", "msp", "standardised_max_logit")


def exported(network):
    import torch

    file = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, 64, 96),),
        file,
        input_names=["image"],
        output_names=["logits", "class_logits", "mask_logits"],
        dynamic_axes={n: {0: "B"} for n in ("image", "logits", "class_logits", "mask_logits")},
        opset_version=18,
        dynamo=False,
    )
    return file.getvalue()


def trained():
    """Softmax logits by cross-entropy, and a query a class by one-against-rest, from shared layers."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(2)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [(3, 24, 1), (24, 24, 1), (24, 24, 2), (24, 24, 4)]
            layers = [(nn.Conv2d(i, o, 3, padding=d, dilation=d), nn.BatchNorm2d(o), nn.ReLU()) for i, o, d in widths]
            self.body = nn.Sequential(*(part for layer in layers for part in layer))
            self.dense, self.masks = nn.Conv2d(24, CLASSES, 1), nn.Conv2d(24, CLASSES, 1)
            self.register_buffer("sure", torch.where(torch.eye(CLASSES, CLASSES + 1) > 0, 4.0, -4.0)[None])

        def forward(self, image):
            held = self.body(image)
            return self.dense(held), self.sure.expand(image.shape[0], -1, -1), self.masks(held)

    network, rng = Network(), np.random.default_rng(0)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    weight = torch.tensor([1.0, 2.0, 2.0])
    pool = [scene(rng) for _ in range(160)]
    for _ in range(STEPS):
        chosen = [pool[i] for i in rng.integers(len(pool), size=BATCH)]
        image = torch.from_numpy(np.stack([s.image.transpose(2, 0, 1) for s in chosen]))
        labels = torch.from_numpy(np.stack([s.labels for s in chosen]))
        dense, _, masks = network(image)
        own = nn.functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
        loss = nn.functional.cross_entropy(dense, labels, weight)
        loss = loss + 3 * nn.functional.binary_cross_entropy_with_logits(masks, own)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def answers():
    session, found = Session(exported(trained()), whole=True), {}
    sets = {"reference": (20, 1, 0), "level": (LEVEL, 2, 0), "calibration": (CALIBRATION, 3, 0), "good": (GOOD, 4, 0), "strange": (STRANGE, 5, 2)}  # fmt: skip
    for name, (count, seed, unknown) in sets.items():
        rng = np.random.default_rng(seed)
        scenes = [scene(rng, unknown) for _ in range(count)]
        found[name] = [(s.labels, session.run({"image": s.image.transpose(2, 0, 1)[None]})) for s in scenes]
    return found


def config(score, **rest):
    queries = {"kind": "queries", "class_logits": "class_logits", "mask_logits": "mask_logits"}
    layout = queries if score == "rba" else {"logits": "logits"}
    return SegmentationConfig(**layout, score=score, least_area=12, share=ALPHA, **rest)


def fitted(answers, score, **rest):
    sets = {name: [a for _, a in answers[name]] for name in ("reference", "level")}
    return Segmenter.fit(config(score, **rest), **sets)


def figures(segmenter, strange):
    from sklearn.metrics import average_precision_score, roc_auc_score

    risk = np.concatenate([segmenter(a).map.ravel() for _, a in strange])
    unknown = np.concatenate([labels.ravel() == UNKNOWN for labels, _ in strange])
    fpr = np.mean(risk[~unknown] >= np.quantile(risk[unknown], 0.05))
    return roc_auc_score(unknown, risk), average_precision_score(unknown, risk), fpr


def test_the_network_knows_its_classes(answers):
    right = np.mean([np.mean(a["logits"][0].argmax(axis=0) == labels) for labels, a in answers["good"]])
    print(f"right pixels: {right:.3f}")
    assert right > 0.8


def test_maps_of_exported_outputs_are_their_formulas(answers):
    rng, segmenters = np.random.default_rng(9), {s: fitted(answers, s) for s in (*DENSE, "rba")}
    for _, answer in answers["strange"][:5]:
        maps = {name: segmenter(answer).map for name, segmenter in segmenters.items()}
        for i, j in zip(rng.integers(64, size=20), rng.integers(96, size=20), strict=True):
            z = answer["logits"][:, :, i, j].astype(np.float64)
            evidence = pixel.evidence(answer["class_logits"][0].astype(np.float64), answer["mask_logits"][0, :, i, j])
            assert maps["rba"][i, j] == pytest.approx(pixel.rba(evidence), rel=1e-4)
            for name, of in (("energy", logit.energy), ("max_logit", logit.max_logit), ("entropy", logit.entropy)):
                assert maps[name][i, j] == pytest.approx(of(z)[0], rel=1e-4, abs=1e-5)


def test_good_frames_show_regions_as_seldom_as_promised(answers):
    """How well unknown objects are found is the network's matter, and printed: this one, taught by cross-entropy to know digits
    by their shape, is as sure of a digit in an ink that it never saw.
    """
    for score in (*DENSE, "rba"):
        segmenter = fitted(answers, score)
        auroc, precision, fpr = figures(segmenter, answers["strange"])
        shown = {n: sum(bool(segmenter(a).regions) for _, a in answers[n]) for n in ("good", "strange")}
        print(f"{score}: AUROC {auroc:.3f}, AP {precision:.3f}, fpr_ood95 {fpr:.3f}; frames with a region {shown}")
        assert binomial.lower(shown["good"], GOOD, 0.01) <= binomial.upper(int(ALPHA * LEVEL), LEVEL, 0.01)


def test_from_the_signal_map_to_verdicts(answers, tmp_path):
    placed = fitted(answers, "rba", signals=["peak", "largest_region"]).save(tmp_path / "street.onnx")
    document = placed.model_copy(update={"fitted": "street.onnx"}).model_dump(mode="json", exclude_none=True)
    (tmp_path / "street.signals.yaml").write_text(yaml.safe_dump({"segmentation": document}))
    adapter = output_adapter(load(SignalMapConfig, tmp_path / "street.signals.yaml", {}), tmp_path)

    def table(name):
        rows = [adapter.observe(a).signals for _, a in answers[name]]
        return {n: np.concatenate([r[n] for r in rows]) for n in rows[0]}

    policy = {
        "monitor": "street",
        "signals": {"peak": 1, "largest_region": 1},
        "scores": [{"peak": {"type": "given", "signal": "peak"}}],
        "rules": [{"novel": {"when": "peak", "promise": {"refuse_good_at_most": ALPHA}}}],
    }
    monitor = demur.Monitor.of(demur.fit(policy, reference=table("level"), calibration=table("calibration")))
    refused = {n: int((~monitor.assess(**table(n)).accept).sum()) for n in ("good", "strange")}
    print(f"refuses {refused['good']}/{GOOD} good, {refused['strange']}/{STRANGE} strange")
    assert binomial.lower(refused["good"], GOOD, 0.01) <= binomial.upper(int(ALPHA * CALIBRATION), CALIBRATION, 0.01)
