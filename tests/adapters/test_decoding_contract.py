"""Every front refuses, at start, a signal map that decodes otherwise than the bundle's tables were."""

from __future__ import annotations

import pytest

from demur.adapters.servers.ext_proc.service import Service
from demur.adapters.servers.oip import OipProxy
from demur.adapters.servers.oip.rest import RestProxy
from demur.monitor.bundle import Bundle
from demur.monitor.config.document import parse
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import LimitsConfig, ProxyConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError
from demur.monitor.loaded import Loaded
from tests.test_golden import GOLDEN

BOXES = {"layout": "yolov8", "classes": 4, "image": [64, 64], "floor": 0.3}


def grpc(engines, model):
    document = {"listen": "127.0.0.1:0", "upstream": "127.0.0.1:9", "models": {"det": model}}
    return OipProxy(parse(ProxyConfig, document, "proxy"), engines)


def rest(engines, model):
    document = {"rest": {"listen": "127.0.0.1:0", "upstream": "http://127.0.0.1:9"}, "models": {"det": model}}
    return RestProxy(parse(ProxyConfig, document, "proxy"), engines)


def ext_proc(engines, model):
    document = {"listen": "127.0.0.1:0", "infer": {"det": model}}
    return Service(parse(ExtProcConfig, document, "ext_proc"), engines, LimitsConfig(), lambda _: None)


@pytest.fixture(scope="module")
def engines():
    """The golden bundle of boxes, whose tables were collected with BOXES."""
    (place,) = (path for path in GOLDEN if path.stem == "boxes")
    return {"golden-boxes": Engine(Loaded.open(Bundle.load(place)))}


@pytest.mark.parametrize("front", [grpc, rest, ext_proc])
@pytest.mark.parametrize(
    ("chart", "said"),
    [
        (
            {"detection": {**BOXES, "floor": 0.25}},
            r"detection\.floor: expected 0\.3, got 0\.25; correct the signal map",
        ),
        ({"detection": {**BOXES, "class_wise": False}}, r"detection\.class_wise: expected true, got false"),
        ({"detection": {**BOXES, "max_boxes": 5, "iou": 0.5, "floor": 0.1, "image": [8, 8]}}, r"got \[8, 8\].*1 more"),
        ({"segmentation": {"logits": "x", "score": "energy"}}, "detection: expected a section of that name"),
        (None, "detection: expected a section of that name"),
    ],
)
def test_another_decoding_is_refused_at_start_and_the_key_is_named(front, engines, chart, said):
    model = {"monitor": "golden-boxes", **({"signals": {"logits": "x"}} if chart is None else {"map": chart})}
    with pytest.raises(ConfigurationError, match=f"proxy model det, monitor golden-boxes: contract: .*{said}"):
        front(engines, model)


@pytest.mark.parametrize("front", [grpc, rest, ext_proc])
def test_the_same_decoding_is_served_whatever_the_tensors_are_called(front, engines):
    chart = {"detection": {**BOXES, "outputs": {"predictions": "boxes"}}}
    assert front(engines, {"monitor": "golden-boxes", "map": chart}) is not None
