"""Outputs that signals need and the client did not ask for: requested, used, and taken out of the answer again."""

from __future__ import annotations

import itertools
import time

import grpc
import numpy as np
import pytest

from demur.adapters.servers.oip import splice
from demur.adapters.servers.oip.plan import Experience
from demur.adapters.servers.oip.refusal import names, rejected
from demur.monitor.config.server import LimitsConfig
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.adapters.conftest import Stage
from tests.adapters.fake_server import SHARED, UNKNOWN, FakeServer


def image(
    outputs=(), *, typed: bool = False, rows=(1.0, -1.0), model: str = "digits", ident: str = "r", **parameters
) -> bytes:
    """A request of rows whose first value is given: negative ones are refused."""
    message = ModelInferRequest(model_name=model, id=ident)
    values = np.zeros((len(rows), 3), np.float32)
    values[:, 0] = rows
    tensor = message.inputs.add(name="image", datatype="FP32", shape=values.shape)
    if typed:
        tensor.contents.fp32_contents.extend(values.ravel().tolist())
    else:
        message.raw_input_contents.append(values.tobytes())
    for output in outputs:
        name, _, how = output.partition(":")
        asked = message.outputs.add(name=name)
        if how == "shared":
            asked.parameters[SHARED].string_param = "region"
            asked.parameters["shared_memory_byte_size"].int64_param = 64
        elif how == "classes":
            asked.parameters["classification"].int64_param = 1
        elif how == "binary":
            asked.parameters["binary_data"].bool_param = True
    for key, value in parameters.items():
        message.parameters[key].int64_param = value
    return message.SerializeToString()


def read(content: bytes) -> ModelInferResponse:
    return ModelInferResponse.FromString(content)


def same(left: bytes, right: bytes) -> bool:
    """Equal as messages, unknown fields included."""
    one, other = read(left), read(right)
    return one == other and one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


OUTPUTS = [
    ("label",), ("label", "features"), ("features", "label", "label"), ("label:shared",), ("label:shared", "features:shared"),
    ("features:shared", "label"), ("label:binary",), ("label:classes",), ("name",), ("name", "label:shared", "features"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("outputs", "typed", "skip", "unknown"),
    list(itertools.product(OUTPUTS, [False, True], [False, True], [False, True])),
)
def test_the_answer_equals_a_direct_call_and_is_judged(outputs, typed, skip, unknown):
    stage = Stage(FakeServer(skip_shared=skip, unknown=unknown))
    try:
        asked = image(outputs, typed=typed, priority=1)
        assert same(stage.infer(stage.proxy(), asked), stage.direct(asked))
        assert stage.verdicts.accept.tolist() == [True, False]
        asked_for = [o.name for o in stage.upstream.seen[0].outputs]
        assert asked_for == [o.partition(":")[0] for o in outputs] + ["scores"]
    finally:
        stage.close()


@pytest.mark.parametrize("outputs", [(), ("scores",), ("label", "scores"), ("scores", "scores")])
def test_outputs_that_suffice_leave_the_bytes_alone(honest, outputs):
    honest.upstream.unknown = True
    asked = UNKNOWN + image(outputs)
    assert honest.infer(honest.proxy(), asked) == honest.direct(asked)
    through, direct = honest.upstream.seen
    assert through.SerializeToString() == direct.SerializeToString()


@pytest.mark.parametrize(("how", "why"), [("scores:shared", "shared memory"), ("scores:classes", "classification")])
def test_a_signal_asked_for_in_another_form_abstains_and_is_not_asked_for_twice(honest, how, why):
    asked = image(("label", how))
    assert honest.infer(honest.proxy(), asked) == honest.direct(asked)
    assert [o.name for o in honest.upstream.seen[0].outputs] == ["label", "scores"]
    assert not honest.verdicts.accept.any()
    assert why in honest.verdicts.cause


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "[request id: r] unexpected inference output 'scores' for model 'digits'"),
        (grpc.StatusCode.INVALID_ARGUMENT, "SKLearnModel only supports 'predict' and 'transform' as outputs (scores was received)"),
        (grpc.StatusCode.NOT_FOUND, "no output scores"),
        (grpc.StatusCode.INTERNAL, "KeyError: 'scores'"),
        (grpc.StatusCode.UNKNOWN, "Exception calling application: 'scores'"),
    ],
)  # fmt: skip
def test_a_rejected_extra_is_tried_once_more_without_it_and_remembered(honest, status, text):
    honest.upstream.fails["scores"] = status, text
    proxy, asked = honest.proxy(), image(("label",))
    for _ in range(3):
        assert same(honest.infer(proxy, asked), honest.direct(asked))
    through = [[o.name for o in m.outputs] for m in honest.upstream.seen]
    assert through.count(["label", "scores"]) == 1
    assert [e.verdicts.accept.any() for e in honest.decisions] == [False] * 3
    assert all("rejected output scores" in e.verdicts.cause for e in honest.decisions)


def test_what_is_remembered_belongs_to_one_version(honest):
    honest.upstream.fails["scores"] = grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference output 'scores'"
    proxy = honest.proxy()
    honest.infer(proxy, image(("label",)))
    honest.upstream.fails.clear()
    other = ModelInferRequest.FromString(image(("label",)))
    other.model_version = "2"
    honest.infer(proxy, other.SerializeToString())
    assert [e.verdicts.accept.any() for e in honest.decisions] == [False, True]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "input image is too small"),
        (grpc.StatusCode.INVALID_ARGUMENT, "unknown output 'scores_2'"),
        (grpc.StatusCode.UNAVAILABLE, "scores cannot be had now"),
        (grpc.StatusCode.PERMISSION_DENIED, "no access to scores"),
    ],
)
def test_other_errors_are_passed_on_and_not_tried_again(honest, status, text):
    honest.upstream.fails["scores"] = status, text
    error = honest.refused(honest.proxy(), image(("label",)))
    assert (error.code(), error.details()) == (status, text)
    assert len(honest.upstream.seen) == 1
    assert honest.decisions == []


def test_an_error_that_stays_after_the_retry_teaches_nothing(honest):
    honest.upstream.fails["scores"] = grpc.StatusCode.INTERNAL, "scores: out of memory"
    honest.upstream.fails["label"] = grpc.StatusCode.INTERNAL, "out of memory"
    proxy = honest.proxy()
    honest.upstream.fails["label"], kept = (grpc.StatusCode.INTERNAL, "scores: still"), honest.upstream.fails["label"]
    assert kept
    assert honest.refused(proxy, image(("label",))).code() is grpc.StatusCode.INTERNAL
    honest.upstream.fails.clear()
    honest.infer(proxy, image(("label",)))
    assert honest.verdicts.accept.tolist() == [True, False]


def test_a_server_that_sends_everything_whatever_is_asked_keeps_its_answer():
    stage = Stage(FakeServer(filtering=False))
    try:
        proxy, asked = stage.proxy(), image(("label",))
        for _ in range(2):
            assert same(stage.infer(proxy, asked), stage.direct(asked))
        assert [e.verdicts.accept.tolist() for e in stage.decisions] == [[True, False]] * 2
        assert [[o.name for o in m.outputs] for m in stage.upstream.seen][2] == ["label"]
    finally:
        stage.close()


def test_an_answer_that_the_extra_makes_too_large_is_asked_for_again_without_it(honest):
    rows = [1.0] * 60
    asked = image(("label",), rows=rows)
    limit = max(len(honest.direct(asked)), len(asked)) + 400
    assert len(honest.direct(image(("label", "scores"), rows=rows))) > limit
    proxy = honest.proxy(limits=LimitsConfig(message_bytes=limit))
    assert same(honest.infer(proxy, asked), honest.direct(asked))
    assert "too large" in honest.verdicts.cause


def test_an_answer_whose_entries_cannot_be_told_apart_is_asked_for_again(stage):
    good = read(FakeServer().answer(ModelInferRequest.FromString(image(("label",)))).SerializeToString())
    broken = read(good.SerializeToString())
    broken.outputs.add(name="scores", datatype="FP32", shape=[2, 4])
    broken.raw_output_contents.extend([b"", b"\0" * 32])
    stage.upstream.script = lambda _m, raw, _c: (
        broken if len(ModelInferRequest.FromString(raw).outputs) > 1 else good
    ).SerializeToString()
    assert same(stage.infer(stage.proxy(), image(("label",))), good.SerializeToString())
    assert "cannot be told" in stage.verdicts.cause


@pytest.mark.parametrize("name", ["sequence_id", "priority"])
def test_a_sequence_is_not_run_a_second_time(honest, name):
    """Triton's stateful models: an error that may have come after the model ran is passed on, and nothing is added next time."""
    honest.upstream.fails["scores"] = grpc.StatusCode.INTERNAL, "scores: buffer"
    proxy, asked = honest.proxy(), image(("label",), **{name: 7})
    if name == "sequence_id":
        assert honest.refused(proxy, asked).code() is grpc.StatusCode.INTERNAL
        assert len(honest.upstream.seen) == 1
    assert same(honest.infer(proxy, asked), honest.direct(asked))
    assert "scores: buffer" in honest.verdicts.cause
    honest.upstream.fails["scores"] = grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference output 'scores'"
    assert same(honest.infer(honest.proxy(), asked), honest.direct(asked))


def test_a_sequences_answer_that_cannot_be_taken_apart_goes_out_whole(stage):
    broken = FakeServer().answer(ModelInferRequest.FromString(image(("label", "scores"))))
    broken.raw_output_contents.append(b"")
    said = stage.upstream.says(broken)
    assert stage.infer(stage.proxy(), image(("label",), sequence_id=7)) == said
    assert len(stage.upstream.seen) == 1
    assert "cannot be told" in stage.verdicts.cause


def test_default_outputs_are_named_and_kept_where_no_names_do_not_mean_all(honest):
    proxy = honest.proxy(model={"default_outputs": ["label"]})
    assert same(honest.infer(proxy, image()), honest.direct(image(("label",))))
    assert honest.verdicts.accept.tolist() == [True, False]
    assert [o.name for o in honest.upstream.seen[0].outputs] == ["label", "scores"]


def test_a_request_is_extended_by_appending():
    asked = image(("label",))
    longer = splice.asking_for(asked, ("a", "ü" * 100))
    assert longer.startswith(asked)
    assert [o.name for o in ModelInferRequest.FromString(longer).outputs] == ["label", "a", "ü" * 100]


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("unexpected inference output 'a' for model 'm'", "a", True),
        ("as outputs (features was received)", "features", True),
        ("output features_2", "features", False),
        ("output my-features", "features", False),
        ("output x/features", "features", False),
        ("output features:0 missing", "features:0", True),
        ("output features:0 missing", "features", False),
        ("no output features.", "features", True),
        ("no output features.1", "features", False),
        ("a+b is unknown", "a+b", True),
        ("features: no such output", "features", True),
        ("x.features", "features", False),
        ("Invalid output name:nope", "nope", True),
        ("Invalid output name:nope_2", "nope", False),
    ],
)
def test_names_are_words_of_their_own(text, name, found):
    assert names(text, name) is found
    assert bool(rejected(grpc.StatusCode.INVALID_ARGUMENT, text, [name])) is found


def test_what_was_learnt_is_forgotten_and_bounded():
    short = Experience(seconds=0.02)
    short.learn("1", "why")
    assert short.of("1") == "why"
    time.sleep(0.03)
    assert short.of("1") == ""
    few = Experience(versions=3)
    for number in range(10):
        few.learn(str(number), "why")
    assert [few.of(str(n)) for n in range(10)] == [""] * 7 + ["why"] * 3
