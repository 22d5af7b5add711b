"""`on_abstain`: what a client gets instead of refused rows, and that the verdict and its record stay what they are."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from demur.adapters.servers.oip import remedy
from demur.adapters.servers.oip.reading import UnreadableOutputError
from demur.monitor.audit import AuditLog
from demur.monitor.audit.export import read_log
from demur.monitor.audit.keys import generate
from demur.monitor.config.document import parse
from demur.monitor.config.server import MonitorAuditConfig, ProxyConfig
from demur.monitor.engine import Conduct
from demur.monitor.errors import AuditUnavailable, ConfigurationError
from demur.monitor.recorder import AuditRecorder
from demur.monitor.verdicts import Action
from tests.adapters.conftest import Stage
from tests.adapters.fake_server import FakeServer
from tests.adapters.test_oip_extras import image, read, same

BLOCK, PASS = Conduct(mode="enforce", on_failure="block"), Conduct(mode="enforce", on_failure="pass")
REPLACE = {"on_abstain": "replace", "replace": {"label": -1, "name": "unknown", "scores": 0.5}}
FALLBACK = {"on_abstain": "fallback", "fallback": {"model": "safe"}}


class Recorder:
    """Keeps what was recorded."""

    gates = True

    def __init__(self) -> None:
        self.actions: list[list[int]] = []
        self.causes: list[str] = []

    def record(self, _loaded, _observation, verdicts):
        self.causes.append(verdicts.cause)
        self.actions.append(verdicts.actions.tolist())
        return len(self.actions), True


def values(message, name):
    place = [o.name for o in message.outputs].index(name)
    output = message.outputs[place]
    if not message.raw_output_contents:
        return list(output.contents.int64_contents or output.contents.fp32_contents or output.contents.bytes_contents)
    raw = message.raw_output_contents[place]
    if output.datatype == "BYTES":
        found = []
        while raw:
            size = int.from_bytes(raw[:4], "little")
            found.append(raw[4 : 4 + size])
            raw = raw[4 + size :]
        return found
    return np.frombuffer(raw, {"INT64": "<i8", "FP32": "<f4"}[output.datatype]).tolist()


@pytest.mark.parametrize("typed", [False, True])
def test_refused_rows_are_replaced_and_the_rest_is_kept(honest, typed):
    recorder = Recorder()
    asked = image(typed=typed, rows=[1.0, -1.0, 2.0])
    got = read(honest.infer(honest.proxy(conduct=BLOCK, model=REPLACE, recorder=recorder), asked))
    direct = read(honest.direct(asked))
    assert values(got, "label") == [3, -1, 3]
    assert values(got, "name") == [b"fine", b"unknown", b"fine"]
    assert values(got, "scores") == [5, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 5, 0, 0, 0]
    assert values(got, "features") == values(direct, "features")
    assert bool(got.raw_output_contents) is not typed
    assert [(o.name, o.datatype, list(o.shape)) for o in got.outputs] == [
        (o.name, o.datatype, list(o.shape)) for o in direct.outputs
    ]
    assert got.parameters["demur.action"].string_param == "REPLACE"
    assert got.parameters["demur.verdict"].string_param == "ABSTAIN"
    assert got.parameters["demur.accept"].string_param == "[true,false,true]"
    assert honest.verdicts.accept.tolist() == [True, False, True]
    assert recorder.actions == [[0, int(Action.REPLACE), 0]]


def test_with_extras_only_what_the_client_asked_for_is_replaced_and_sent(honest):
    got = read(honest.infer(honest.proxy(conduct=BLOCK, model=REPLACE), image(("label", "features"))))
    assert [o.name for o in got.outputs] == ["label", "features"]
    assert values(got, "label") == [3, -1]


def test_accepted_answers_are_not_touched(honest):
    asked = image(rows=[1.0, 2.0])
    assert honest.infer(honest.proxy(conduct=BLOCK, model=REPLACE), asked) == honest.direct(asked)


@pytest.mark.parametrize("model", [REPLACE, FALLBACK])
def test_observe_never_replaces(honest, model):
    asked = image()
    assert honest.infer(honest.proxy(model=model), asked) == honest.direct(asked)


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        ({"absent": 0}, "`replace` names absent, the answer has label, name, scores, features"),
        ({"label": 0.5}, "output label: 0.5 is no int64"),
        ({"scores": "text"}, "output scores: 'text' is no float32"),
        ({"label": 1 << 70}, "is no int64"),
        ({"label": True, "scores": "x"}, "output scores: 'x' is no float32"),
    ],
)
def test_what_cannot_be_replaced_is_withheld_and_says_why(honest, replace, says, caplog):
    recorder = Recorder()
    model = {"on_abstain": "replace", "replace": replace}
    proxy = honest.proxy(conduct=BLOCK, model=model, recorder=recorder)
    for _ in range(3):
        error = honest.refused(proxy, image())
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        cause = dict(error.trailing_metadata())["demur-cause"]
        assert cause.startswith("on_abstain: replace was not possible: ")
        assert says in cause
    assert recorder.actions == [[0, int(Action.BLOCK)]] * 3
    assert recorder.causes == [cause] * 3
    assert len([r for r in caplog.records if says in r.getMessage()]) == 1  # a minute's worth


def test_the_audit_log_says_why_nothing_was_replaced(honest, tmp_path):
    model = {"on_abstain": "replace", "replace": {"absent": 0}}
    with AuditLog.open(tmp_path, origin="toy", signer=generate("toy")) as log:
        recorder = AuditRecorder(log, MonitorAuditConfig(ack="after_sync"))
        honest.refused(honest.proxy(conduct=BLOCK, model=model, recorder=recorder), image())
        honest.refused(honest.proxy(conduct=BLOCK, recorder=recorder), image())
    withheld = [record for record, _ in read_log(tmp_path) if record.kind == "verdict"]
    assert [(r.action, "`replace` names absent" in r.cause) for r in withheld] == [("block", True), ("block", False)]
    assert withheld[1].cause == ""


def test_rows_that_stand_in_shared_memory_are_withheld(honest):
    model = {"on_abstain": "replace", "replace": {"label": -1}}
    error = honest.refused(honest.proxy(conduct=BLOCK, model=model), image(("label:shared",)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_an_answer_that_could_not_be_judged_is_replaced_as_a_whole(honest):
    honest.upstream.without.add("scores")
    model = {"on_abstain": "replace", "replace": {"label": -1}}
    got = read(honest.infer(honest.proxy(conduct=BLOCK, model=model), image(rows=[1.0, 2.0, 3.0])))
    assert values(got, "label") == [-1, -1, -1]
    assert "scores" in got.parameters["demur.cause"].string_param
    passed = read(honest.infer(honest.proxy(conduct=PASS, model=model), image(rows=[1.0, 2.0, 3.0])))
    assert values(passed, "label") == [3, 3, 3]


def test_another_model_answers_and_says_so(honest):
    recorder = Recorder()
    proxy = honest.proxy(conduct=BLOCK, model=FALLBACK, recorder=recorder)
    got = read(honest.infer(proxy, image(("label",))))
    assert got.model_name == "safe"
    assert values(got, "label") == [3, 3]
    assert [o.name for o in got.outputs] == ["label"]
    assert got.parameters["demur.answered_by"].string_param == "safe"
    assert got.parameters["demur.action"].string_param == "ROUTE"
    assert got.parameters["demur.accept"].string_param == "[true,false]"
    assert recorder.actions == [[0, int(Action.ROUTE)]]
    first, second = honest.upstream.seen
    assert (second.model_name, second.model_version, [o.name for o in second.outputs]) == ("safe", "", ["label"])
    assert second.inputs == first.inputs
    accepted = image(("label", "scores"), rows=[1.0])
    assert honest.infer(proxy, accepted) == honest.direct(accepted)


def test_the_fallbacks_version_is_asked_for(honest):
    model = {"on_abstain": "fallback", "fallback": {"model": "safe", "version": "4"}}
    assert read(honest.infer(honest.proxy(conduct=BLOCK, model=model), image())).model_version == "4"


def test_a_fallback_that_fails_leaves_the_error(stage):
    def script(_method, raw, context):
        from demur.proto.oip.inference_pb2 import ModelInferRequest

        request = ModelInferRequest.FromString(raw)
        if request.model_name == "safe":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return FakeServer().answer(request).SerializeToString()

    stage.upstream.script = script
    recorder = Recorder()
    error = stage.refused(stage.proxy(conduct=BLOCK, model=FALLBACK, recorder=recorder), image())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert recorder.actions == [[0, int(Action.BLOCK)]]
    assert recorder.causes == ["on_abstain: fallback was not possible: the model safe gave no answer that can be sent"]


@pytest.mark.parametrize("model", [REPLACE, FALLBACK])
def test_an_audit_log_that_must_not_be_skipped_still_withholds(honest, model):
    class Full:
        gates = True

        def record(self, *_):
            raise AuditUnavailable("disk full")

    error = honest.refused(honest.proxy(conduct=BLOCK, model=model, recorder=Full()), image())
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_unmapped_models_may_be_blocked(honest):
    error = honest.refused(honest.proxy(document={"unmapped": "block"}), image(model="other"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no monitor is mapped to model 'other'" in error.details()
    assert [e.kind for e in honest.refusals] == ["unmapped"]
    assert honest.infer(honest.proxy(), image(model="other")) == honest.direct(image(model="other"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"on_abstain": "replace"}, "needs `replace"),
        ({"on_abstain": "fallback"}, "needs `fallback"),
        ({"on_abstain": "hide"}, "on_abstain"),
        ({"replace": {"label": [1]}}, "replace"),
    ],
)
def test_remedies_that_cannot_work_are_refused(model, message):
    document = {"listen": "127.0.0.1:0", "upstream": "a:1", "models": {"m": {"monitor": "toy", **model}}}
    with pytest.raises(ConfigurationError, match=message):
        parse(ProxyConfig, document, "test")


def test_a_map_without_a_decoder_cannot_empty_outputs(honest):
    with pytest.raises(ConfigurationError, match="names no decoder"):
        honest.proxy(model={"map": {"signals": {"logits": "scores"}}, "on_abstain": "replace"})


def test_filling_checks_rows_and_values():
    array, rows = np.arange(6).reshape(3, 2), np.array([True, False, True])
    assert remedy.filled(array, rows, 9, "x").tolist() == [[9, 9], [2, 3], [9, 9]]
    assert array.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert remedy.filled(array, np.array([True]), 9, "x").tolist() == [[9, 9]] * 3
    for wrong, value in ((np.array([True, False]), 9), (rows, 0.5), (rows, "9"), (rows, float("nan"))):
        with pytest.raises(UnreadableOutputError, match="x"):
            remedy.filled(array, wrong, value, "x")
    for dtype, value in (
        (np.float16, 1e6),
        (np.float32, 1e39),
        (np.float32, float("nan")),
        (np.uint8, -1),
        (np.bool_, 2),
    ):
        with pytest.raises(UnreadableOutputError, match="x"):
            remedy.filled(array.astype(dtype), rows, value, "x")
    assert remedy.filled(array.astype(np.bool_), rows, True, "x").all()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("outputs", [(), ("label",), ("label:shared", "features"), ("label:shared",)])
def test_annotations_as_outputs_follow_the_messages_form(outputs, typed, skip):
    stage = Stage(FakeServer(skip_shared=skip, unknown=True))
    try:
        asked = image(outputs, typed=typed, rows=[1.0, -1.0, 3.0])
        content, direct = stage.infer(stage.proxy(annotate="outputs"), asked), stage.direct(asked)
        got = read(content)
        names = [o.name for o in got.outputs]
        here = [n for n in names if n.startswith("demur.")]
        assert here == ["demur.accept", "demur.reasons", "demur.p_values"] == names[-3:]
        assert [(o.datatype, list(o.shape)) for o in got.outputs[-3:]] == [
            ("BOOL", [3]),
            ("INT64", [3]),
            ("FP32", [3, 1]),
        ]
        verdicts = stage.verdicts
        if got.raw_output_contents:
            accept, reasons, p = got.raw_output_contents[-3:]
            assert (accept, reasons, p) == (b"\1\0\1", verdicts.reason_bits.tobytes(), verdicts.p_values.tobytes())
            del got.raw_output_contents[-3:]
        else:
            accept, reasons, p = (o.contents for o in got.outputs[-3:])
            assert list(accept.bool_contents) == [True, False, True]
            assert list(reasons.int64_contents) == verdicts.reason_bits.tolist()
            assert list(p.fp32_contents) == verdicts.p_values[:, 0].tolist()
        assert got.parameters["demur.columns"].string_param == '["weak"]'
        assert got.parameters["demur.accept"].string_param == ""
        del got.outputs[-3:]
        for key in [k for k in got.parameters if k.startswith("demur.")]:
            del got.parameters[key]
        assert same(got.SerializeToString(), direct)
    finally:
        stage.close()


def test_an_upstream_cannot_forge_annotation_outputs(stage):
    forged = read(FakeServer().answer(read_request()).SerializeToString())
    forged.outputs[0].name = "demur.accept"
    stage.upstream.says(forged)
    got = read(stage.infer(stage.proxy(annotate="outputs"), image()))
    assert [o.name for o in got.outputs].count("demur.accept") == 1
    assert len(got.outputs) == len(got.raw_output_contents) == 6
    assert got.outputs[3].datatype == "BOOL"


def read_request():
    from demur.proto.oip.inference_pb2 import ModelInferRequest

    return ModelInferRequest.FromString(image())
