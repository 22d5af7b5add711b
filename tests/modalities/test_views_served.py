"""Views behind the proxy: the model is asked again over real gRPC, in time or not at all."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import demur
from demur.adapters.models.views import Views, gathered
from demur.detectors.reason import Reason
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.adapters.conftest import MODEL, Stage, stage  # noqa: F401 - a fixture
from tests.modalities.test_views import linear, pictures

CORRUPTIONS = ["brightness:2", "gaussian_noise"]
VIEWS = {"input": "image", "output": "scores", "corruptions": CORRUPTIONS, "layout": "NHWC"}


@pytest.fixture(scope="module")
def bundle() -> demur.Bundle:
    config = {
        "monitor": "toy",
        "signals": {"view_logits": 12},
        "scores": [{"cover": {"views": 3}}],
        "rules": [{"novel": {"when": "cover", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    views = Views(CORRUPTIONS, layout="NHWC")
    tables = [{"view_logits": gathered(views, linear, pictures(200, seed))} for seed in (1, 2)]
    return demur.fit(config, reference=tables[0], calibration=tables[1])


def asked(images: np.ndarray) -> bytes:
    message = ModelInferRequest(model_name=MODEL, id="r-1")
    message.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    message.inputs.add(name="gain", datatype="FP32", shape=[1])
    message.raw_input_contents.extend([images.tobytes(), np.float32([1]).tobytes()])
    return message.SerializeToString()


class Model:
    """The linear model as a server: it needs both of its inputs, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.left = seconds, list[float]()

    def __call__(self, _method: str, raw: bytes, context: Any) -> bytes:
        self.left.append(context.time_remaining())
        time.sleep(self.seconds)
        request = ModelInferRequest.FromString(raw)
        held = {t.name: content for t, content in zip(request.inputs, request.raw_input_contents, strict=True)}
        shape = next(t.shape for t in request.inputs if t.name == "image")
        images = np.frombuffer(held["image"], np.uint8).reshape(shape)
        logits = linear(images) * np.frombuffer(held["gain"], np.float32)
        answer = ModelInferResponse(model_name=MODEL, id=request.id)
        answer.outputs.add(name="scores", datatype="FP32", shape=logits.shape)
        answer.raw_output_contents.append(logits.astype(np.float32).tobytes())
        return answer.SerializeToString()


def behind(stage: Stage, bundle: demur.Bundle, **views: Any) -> Any:  # noqa: F811 - the fixture
    return stage.proxy(bundle=bundle, model={"signals": {}, "map": {"views": {**VIEWS, **views}}})


def test_the_verdict_is_the_one_of_views_gathered_in_process(stage, bundle):  # noqa: F811
    stage.upstream.script = model = Model()
    images = pictures(4, 5)
    answer = stage.infer(behind(stage, bundle), asked(images))
    assert answer == stage.direct(asked(images))
    assert len(model.left) == 2 + len(CORRUPTIONS)  # the client's own call, once more directly, and two views
    want = demur.Monitor.of(bundle).assess(view_logits=gathered(Views(CORRUPTIONS, layout="NHWC"), linear, images))
    np.testing.assert_array_equal(stage.verdicts.scores, want.scores)
    np.testing.assert_array_equal(stage.verdicts.accept, want.accept)


def test_a_spent_budget_is_unavailable_and_the_answer_goes_through(stage, bundle):  # noqa: F811
    stage.upstream.script = model = Model(0.15)
    images = pictures(2, 5)
    proxy = behind(stage, bundle, budget_ms=100)
    began = time.perf_counter()
    answer = ModelInferResponse.FromString(stage.infer(proxy, asked(images)))
    assert time.perf_counter() - began < 1.5
    assert answer.outputs[0].name == "scores"
    assert stage.verdicts.reason_bits.tolist() == [int(Reason.UNAVAILABLE)] * 2
    assert not stage.verdicts.accept.any()
    assert "call" in stage.verdicts.cause or "views" in stage.verdicts.cause
    assert max(model.left[1:]) <= 0.11  # every further call carries what is left


def test_an_input_that_is_not_there_is_unavailable(stage, bundle):  # noqa: F811
    stage.upstream.script = Model()
    stage.infer(behind(stage, bundle, input="picture"), asked(pictures(1, 5)))
    assert "the request has no input picture; correct `views.input`" in stage.verdicts.cause
    assert not stage.verdicts.accept.any()
