"""Rows that a caller decodes itself say by which settings, and a bundle of other rows abstains."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.adapters.models.detection import Detector
from demur.detectors.reason import Reason
from demur.monitor.bundle import Bundle
from demur.monitor.config.detection import DetectionConfig
from tests.service.bundles import GOOD, group_bundle
from tests.test_golden import GOLDEN

OURS = {"layout": "yolov8", "classes": 4, "image": [64, 64], "floor": 0.3}
(PLACE,) = (path for path in GOLDEN if path.stem == "boxes")


def boxes(**changed):
    """Two images; a box in the first of them."""
    output = np.zeros((2, 8, 64), np.float32)
    output[0, :4, 5], output[0, 6, 5] = (30, 30, 10, 10), 0.9
    return Detector(DetectionConfig(**{**OURS, **changed}))({"output0": output})


def test_in_process_another_decoding_is_unavailable():
    monitor = demur.Monitor.load(PLACE)
    assert not monitor.assess(**boxes().arguments()).cause
    found = monitor.assess(**boxes(iou=0.7).arguments())
    assert not found.accept.any()
    assert (found.groups.reason_bits == Reason.UNAVAILABLE).all()
    assert found.cause.startswith("contract: rows were decoded otherwise")
    assert "decode with the signal map that its tables were collected with" in found.cause
    silent = {name: value for name, value in boxes(iou=0.7).arguments().items() if name != "model"}
    assert not monitor.assess(**silent).cause, "nothing is compared of who says nothing"


@pytest.mark.parametrize(("changed", "refused"), [({}, False), ({"floor": 0.2}, True)])
def test_over_the_wire_as_in_process(start, changed, refused):
    address = start({"golden-boxes": Bundle.load(PLACE)}).addresses[0]
    with demur.Client(address, timeout_seconds=5) as client:
        found = client.assess(**boxes(**changed).arguments(version="7"))
    assert (found.cause.startswith("contract: ")) == refused
    assert not (refused and found.groups.accept.any())
    assert found.groups.accept[1] != refused, (
        "the image without boxes is accepted by this policy, once it may be judged"
    )


def test_a_monitor_says_by_which_settings_and_older_bundles_say_nothing(start, connect):
    from demur.proto.v1 import monitor_pb2 as pb

    stub = connect(start({"golden-boxes": Bundle.load(PLACE), "toy": group_bundle()}).addresses[0])
    known = stub.GetMonitor(pb.GetMonitorRequest(monitor="golden-boxes"), timeout=5).model.decoding
    assert known == boxes().decoding.digest
    assert stub.GetMonitor(pb.GetMonitorRequest(monitor="toy"), timeout=5).model.decoding == ""
    monitor = demur.Monitor.of(group_bundle())
    given = {"logits": np.array([GOOD], np.float32), "group_id": np.array([1]), "model": {"decoding": known}}
    assert not monitor.assess(**given).cause
