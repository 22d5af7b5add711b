"""The whole path with a detector trained here: real digits on real photographs, 8 and 9 and pieces of photographs unknown."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

import demur
from demur.adapters.models.adapters_of import output_adapter
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.evaluate.hallucination import hallucinations
from demur.monitor.session import Session
from tests.vision import clients, tiny_monitor

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

SIZES = {"reference": 1500, "calibration": 800, "test": 400, "unknown": 400}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch = pytest.importorskip("torch")

    from tests.vision.tiny_detector import exported, train

    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)  # on a busy machine, two wait for each other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter's own, of its other exporter
        (folder / "detector.onnx").write_bytes(exported(train(seed=1)))
    return tiny_monitor.world(folder / "detector.onnx", folder, SIZES)


def test_hallucinations_before_and_after(made, capsys):
    found = hallucinations(made["bundle"], made["tables"]["test"], made["tables"]["unknown"])
    table = made["tables"]["test"]
    objects = sum(len(o.labels) for o in made["scenes"]["test"].objects)
    with capsys.disabled():
        print(
            f"\n{found.true_detections} of {objects} known objects found, {int((table['loss'] == 1).sum())} boxes false"
        )
        print(f"{found.before.value:.0f} hallucinations on {SIZES['unknown']} images without known objects, before")
        for one in found.filters:
            span = f"{one.reduction.low:.0%} to {one.reduction.high:.0%}"
            print(
                f"  {one.name:10s} after {one.after.value:4.0f}  -{one.reduction.value:.0%} ({span})  true kept {one.kept_true.value:.1%}"
            )
    by_name = {one.name: one for one in found.filters}
    assert found.true_detections > 0.9 * objects
    assert found.before.value > SIZES["unknown"]
    assert by_name["untrusted"].kept_true.value >= 0.95
    assert by_name["untrusted"].reduction.low > 0.5
    assert by_name["untrusted"].reduction.value > by_name["max_logit"].reduction.value


def test_a_client_of_the_filtered_tensors_sees_what_is_kept(made):
    detect = output_adapter(parse(SignalMapConfig, made["map"], "map"))
    tensors = Session(made["model"].read_bytes(), whole=True).run({"images": made["scenes"]["unknown"].pixels[:40]})
    seen = detect(tensors)
    verdicts = demur.Monitor.of(made["bundle"]).assess(**seen.arguments())
    kept = seen.keep(verdicts)
    assert len(kept) < 0.6 * len(seen)
    images = [clients.yolov8(image, 0.3, 0.5) for image in detect.without(tensors, ~verdicts.accept)["output0"]]
    counts = Counter(kept.image.tolist())
    assert [len(found) for found in images] == [counts[number] for number in range(40)]
    rows = np.array([one[2] for found in images for one in found])
    np.testing.assert_allclose(kept.boxes, rows, rtol=1e-5, atol=1e-4)
