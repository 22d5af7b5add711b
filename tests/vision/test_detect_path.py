"""From an exported detector to filtered boxes: instrument, collect, fit, count, serve. The committed detector was trained by
`tests/vision/tiny_detector.py`; `test_detect_trained.py` trains it anew where PyTorch is."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

import demur
from demur.adapters.models.adapters_of import output_adapter
from demur.adapters.models.detection.tensors import from_oip_json
from demur.detectors.reason import Reason
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.engine import Conduct
from demur.monitor.evaluate.hallucination import hallucinations
from demur.monitor.session import Session
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.adapters.conftest import MODEL, Stage
from tests.adapters.fake_server import FakeServer
from tests.rest import conftest as rest
from tests.vision import clients, tiny_monitor
from tests.vision.scenes import known, unknown

TINY = Path(__file__).with_name("tiny_detector.onnx")
SIZES = {"reference": 700, "calibration": 400, "test": 200, "unknown": 200}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_monitor.world(TINY, tmp_path_factory.mktemp("tiny"), SIZES)


@pytest.fixture(scope="module")
def session(made):
    return Session(made["model"].read_bytes(), whole=True)


@pytest.fixture(scope="module")
def detect(made):
    return output_adapter(parse(SignalMapConfig, made["map"], "map"))


def test_the_detector_finds_what_it_knows_and_invents_what_it_does_not(made):
    """What is filtered must be worth filtering: nearly all known objects found, more than one invention an image."""
    found = made["tables"]["test"]
    objects = sum(len(o.labels) for o in made["scenes"]["test"].objects)
    assert (found["loss"] == 0).sum() > 0.9 * objects
    assert len(made["tables"]["unknown"]["loss"]) > SIZES["unknown"]
    assert (made["tables"]["unknown"]["loss"] == 1).all()


def test_hallucinations_fall_at_95_percent_of_true_detections(made):
    found = hallucinations(made["bundle"], made["tables"]["test"], made["tables"]["unknown"], bootstrap=300)
    by_name = {one.name: one for one in found.filters}
    print(*found.filters, sep="\n")
    fused = by_name["untrusted"]
    assert fused.kept_true.value >= 0.95
    assert fused.reduction.low > 0.5
    assert by_name["policy"].reduction.low > 0.5
    assert by_name["policy"].kept_true.value > 0.9


def test_known_objects_among_the_unknown_are_taken_out_first(made, tmp_path):
    """Thirty images of known objects were mixed in: labels find those with a true detection, and a person the others."""
    strays = known("test", 30, 300)
    table = tiny_monitor.boxes_of(made["model"], made["map"], strays, tmp_path / "strays.npz")
    mixed = {**table, **{name: table[name] + 10_000 for name in ("group_id", "empty_groups")}}
    whole = {
        name: np.concatenate([array, mixed[name]]) for name, array in made["tables"]["unknown"].items() if name in mixed
    }
    clean = hallucinations(made["bundle"], made["tables"]["test"], made["tables"]["unknown"], bootstrap=0)
    by_label = set(mixed["group_id"][mixed["loss"] == 0].tolist())
    by_person = sorted(set(mixed["group_id"].tolist()) - by_label)
    found = hallucinations(made["bundle"], made["tables"]["test"], whole, confirmed=by_person, bootstrap=0)
    assert found.images_removed == len(by_label) + len(by_person) == found.removed_by_label + found.removed_by_person
    assert len(by_label) > 20
    assert found.before == clean.before
    assert found.filters == clean.filters


def shown(output):
    """What a client that decodes by itself shows of each image: (class, box)."""
    return [[(one[1], one[2]) for one in clients.yolov8(image, 0.3, 0.5)] for image in output]


def same_boxes(seen, images):
    assert seen.images == len(images)
    for number, kept in enumerate(images):
        mine = seen.image == number
        assert seen.labels[mine].tolist() == [label for label, _ in kept]
        np.testing.assert_allclose(
            seen.boxes[mine], np.array([box for _, box in kept]).reshape(-1, 4), rtol=1e-5, atol=1e-4
        )


def test_boxes_are_filtered_in_process_and_in_the_tensors_alike(made, session, detect):
    pixels = np.concatenate([known("test", 8, 401).pixels, unknown("test", 8, 402).pixels])
    tensors = session.run({"images": pixels})
    seen = detect(tensors)
    verdicts = demur.Monitor.of(made["bundle"]).assess(**seen.arguments())
    kept = seen.keep(verdicts)
    assert 0 < len(kept) < len(seen)
    assert (kept.image < 8).mean() > (seen.image < 8).mean()
    same_boxes(seen, shown(tensors["output0"]))
    same_boxes(kept, shown(detect.without(tensors, ~verdicts.accept)["output0"]))
    assert detect.without(tensors, ~verdicts.accept)["feature_map_1"] is tensors["feature_map_1"]


def test_images_are_judged_too(made):
    """An image is accepted when its worst box, and its boxes on average, are like those of calibration images."""
    monitor = demur.Monitor.of(made["bundle"])
    signals = ("logits", "box", "box_features")
    share = {}
    for part in ("test", "unknown"):
        table = made["tables"][part]
        verdicts = monitor.assess(**{n: table[n] for n in signals}, group_id=table["group_id"])
        share[part] = float(verdicts.groups.accept.mean())
    assert share["unknown"] < 0.5
    assert share["test"] > 0.8


def test_an_image_without_boxes_is_accepted_by_its_policy_and_a_broken_one_is_invalid(made, session, detect):
    dark = np.zeros((2, 3, 96, 96), np.float32)
    tensors = session.run({"images": dark})
    tensors["output0"][1, 6, 3] = np.nan
    seen = detect(tensors)
    verdicts = demur.Monitor.of(made["bundle"]).assess(**seen.arguments())
    assert seen.labels.tolist() == [-1]
    assert verdicts.reason_bits[0] & Reason.INVALID
    assert verdicts.groups.accept.tolist() == [True, False]
    assert verdicts.groups.kinds(1) & Reason.INVALID


class TinyServer(FakeServer):
    """Serves the detector over the Open Inference Protocol."""

    def __init__(self, session) -> None:
        super().__init__()
        self.session = session

    def _tensors(self, request):
        shape = list(request.inputs[0].shape)
        return self.session.run({"images": np.frombuffer(request.raw_input_contents[0], "<f4").reshape(shape)})


@pytest.fixture
def stage(session):
    with_server = Stage(TinyServer(session))
    yield with_server
    with_server.close()


def ask(pixels):
    message = ModelInferRequest(model_name=MODEL, id="r-1")
    message.inputs.add(name="images", datatype="FP32", shape=pixels.shape)
    message.raw_input_contents.append(pixels.tobytes())
    message.outputs.add(name="output0")
    return message.SerializeToString()


def output0(raw):
    answer = ModelInferResponse.FromString(raw)
    assert [o.name for o in answer.outputs] == ["output0"]
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(list(answer.outputs[0].shape))


def test_an_unmodified_client_of_a_server_sees_accepted_boxes_alone(made, session, detect, stage):
    pixels = np.concatenate([known("test", 6, 501).pixels, unknown("test", 6, 502).pixels])
    model = {"signals": {}, "map": made["map"], "on_abstain": "replace"}
    proxy = stage.proxy(bundle=made["bundle"], model=model, conduct=Conduct("enforce"))
    through, direct = output0(stage.infer(proxy, ask(pixels))), output0(stage.direct(ask(pixels)))
    tensors = session.run({"images": pixels})
    seen = detect(tensors)
    verdicts = demur.Monitor.of(made["bundle"]).assess(**seen.arguments())
    accept = verdicts.accept & verdicts.groups.accept[seen.image]  # of a refused image, no box
    same_boxes(seen, shown(direct))
    same_boxes(seen.take(accept), shown(through))
    assert accept.any()
    assert not accept.all()


def test_in_observe_mode_the_client_gets_the_servers_bytes_and_verdicts_are_told(made, stage):
    pixels = unknown("test", 4, 503).pixels
    proxy = stage.proxy(bundle=made["bundle"], model={"signals": {}, "map": made["map"]})
    np.testing.assert_array_equal(output0(stage.infer(proxy, ask(pixels))), output0(stage.direct(ask(pixels))))
    assert len(stage.decisions[-1].verdicts.groups.accept) == 4


def test_without_a_way_to_replace_a_refused_image_is_an_error(made, stage):
    proxy = stage.proxy(bundle=made["bundle"], model={"signals": {}, "map": made["map"]}, conduct=Conduct("enforce"))
    with pytest.raises(grpc.RpcError):
        stage.infer(proxy, ask(unknown("test", 6, 502).pixels))


def test_over_http_too_a_client_that_reads_lists_sees_accepted_boxes_alone(made, session, detect):
    """JSON as MLServer writes it; the client asks for the boxes alone, and gets them alone."""
    pixels = np.concatenate([known("test", 2, 504).pixels, unknown("test", 3, 505).pixels])

    async def answers(asked):
        tensors = session.run({"images": np.array(asked.json["inputs"][0]["data"], np.float32).reshape(pixels.shape)})
        outputs = [
            {"name": n, "datatype": "FP32", "shape": list(tensors[n].shape), "data": tensors[n].ravel().tolist()}
            for n in (o["name"] for o in asked.json["outputs"])
        ]
        return rest.said({"model_name": rest.MODEL, "id": "r-1", "outputs": outputs})

    model = {"signals": {}, "map": made["map"], "on_abstain": "replace"}
    stage = rest.Stage()
    try:
        stage.upstream.script = answers
        proxy = stage.proxy(bundle=made["bundle"], model=model, conduct=Conduct("enforce"))
        tensor = {"name": "images", "shape": list(pixels.shape), "datatype": "FP32", "data": pixels.ravel().tolist()}
        direct, through = stage.both(proxy, json={"inputs": [tensor], "outputs": [{"name": "output0"}]})
    finally:
        stage.close()
    seen = detect(session.run({"images": pixels}))
    verdicts = demur.Monitor.of(made["bundle"]).assess(**seen.arguments())
    accept = verdicts.accept & verdicts.groups.accept[seen.image]
    same_boxes(seen, shown(from_oip_json(direct.json())["output0"]))
    assert list(from_oip_json(through.json())) == ["output0"]
    same_boxes(seen.take(accept), shown(from_oip_json(through.json())["output0"]))
    assert accept.any()
    assert not accept.all()
