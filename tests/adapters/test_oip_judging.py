"""What is judged, what cannot be judged and why, and that neither touches the answer."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.config.server import LimitsConfig
from demur.monitor.errors import AuditUnavailable
from demur.proto.oip.inference_pb2 import ModelInferResponse
from tests.adapters.conftest import answer, request
from tests.service.bundles import BAD, GOOD, row_bundle

UNAVAILABLE, INVALID = int(Reason.UNAVAILABLE), int(Reason.INVALID)


def cause_of(stage, said: ModelInferResponse | bytes, asked: bytes | None = None, rows: int = 2, **options) -> str:
    """Send one exchange, check that it is forwarded untouched and abstained, and return the cause."""
    content = stage.upstream.says(said)
    assert stage.infer(stage.proxy(**options), asked or request()) == content
    verdicts = stage.verdicts
    assert not verdicts.accept.any()
    assert verdicts.reason_bits.tolist() == [UNAVAILABLE] * rows
    return verdicts.cause


@pytest.mark.parametrize(
    ("form", "datatype"),
    [("raw", "FP32"), ("raw", "FP64"), ("raw", "FP16"), ("raw", "BF16"), ("typed", "FP32"), ("typed", "FP64")],
)
def test_every_float_form_gives_the_same_verdicts(stage, form, datatype):
    stage.upstream.says(answer([GOOD, BAD, [2.5, 0, 0, 0]], form=form, datatype=datatype))
    stage.infer(stage.proxy(), request(rows=3))
    assert stage.verdicts.accept.tolist() == [True, False, True]
    assert stage.verdicts.scores[:, 0].tolist() == [-5.0, -1.0, -2.5]


@pytest.mark.parametrize("shape", [[2, 4], [2, 1, 1, 4], [2, 4, 1, 1], [2, 1, 4]])
def test_ones_are_flattened(stage, shape):
    stage.upstream.says(answer(shape=shape))
    stage.infer(stage.proxy(), request())
    assert stage.verdicts.accept.tolist() == [True, False]


@pytest.mark.parametrize(
    "shape",
    [[8], [2, 2, 2], [1, 2, 4], [4, 2], [2, 4, 2], [], [0, 4], [-2, 4], [-2, -4], [1 << 40, 4], [1 << 62, 4, 4]],
)
def test_other_shapes_are_unavailable_and_name_what_came(stage, shape):
    cause = cause_of(stage, answer(shape=shape))
    assert "output scores" in cause
    assert "shape" in cause or "bytes" in cause


def test_a_claimed_size_is_checked_before_anything_is_allocated(stage):
    assert "tensor_bytes" in cause_of(stage, answer(shape=[1 << 40, 4]), limits=LimitsConfig())


def test_more_rows_than_the_limit_are_unavailable(stage):
    assert "rows = 1" in cause_of(stage, answer(), request(rows=1), rows=1, limits=LimitsConfig(rows=1))


@pytest.mark.parametrize("extra", [b"", b"\0", b"\0" * 4])
def test_raw_bytes_of_the_wrong_size_are_unavailable(stage, extra):
    said = answer()
    said.raw_output_contents[1] = (said.raw_output_contents[1] + extra) if extra else said.raw_output_contents[1][:-1]
    cause = cause_of(stage, said)
    assert "expected 32 bytes" in cause


def test_typed_contents_of_the_wrong_size_are_unavailable(stage):
    said = answer(form="typed")
    said.outputs[1].contents.fp32_contents.append(1.0)
    assert "got 9" in cause_of(stage, said)


def test_raw_and_typed_together_are_unavailable(stage):
    said = answer()
    said.outputs[1].contents.fp32_contents.extend([5.0] * 8)
    assert "both raw and typed" in cause_of(stage, said)


def test_raw_entries_that_do_not_match_the_outputs_are_unavailable(stage):
    said = answer()
    del said.raw_output_contents[1]
    assert "1 raw entries for 2 outputs" in cause_of(stage, said)


def test_contents_in_another_field_than_the_datatype_says_are_unavailable(stage):
    said = answer(form="typed")
    said.outputs[1].datatype = "FP64"
    assert "fp64_contents" in cause_of(stage, said)


@pytest.mark.parametrize(("datatype", "form"), [("INT64", "raw"), ("BYTES", "raw"), ("", "raw"), ("BF16", "typed")])
def test_datatypes_that_are_no_floats_here_are_unavailable(stage, datatype, form):
    said = answer(form=form)
    said.outputs[1].datatype = datatype
    assert "output scores" in cause_of(stage, said)


def test_two_outputs_of_the_same_name_are_unavailable(stage):
    said = answer(form="typed")
    said.outputs.add().CopyFrom(said.outputs[1])
    assert "2 outputs named scores" in cause_of(stage, said)


@pytest.mark.parametrize("left_empty", [True, False])
def test_outputs_in_shared_memory_are_unavailable_and_others_keep_their_raw_entry(stage, left_empty):
    said = answer()
    said.outputs[0].parameters["shared_memory_region"].string_param = "r0"
    if left_empty:
        said.raw_output_contents[0] = b""
    else:
        del said.raw_output_contents[0]
    stage.upstream.says(said)
    stage.infer(stage.proxy(), request())
    assert stage.verdicts.accept.tolist() == [True, False]
    stage.decisions.clear()
    said.outputs[1].parameters["shared_memory_region"].string_param = "r1"
    assert "shared memory" in cause_of(stage, said)


def test_an_answer_that_does_not_parse_is_forwarded_and_unavailable(stage):
    cut = answer().SerializeToString()[:-3]
    assert "not a readable ModelInferResponse" in cause_of(stage, cut)


def test_non_finite_rows_are_invalid_and_only_they(stage):
    said = stage.upstream.says(answer([GOOD, [5, np.nan, 0, 0], [np.inf, 0, 0, 0], [1e20, 0, 0, 0]]))
    assert stage.infer(stage.proxy(), request(rows=4)) == said
    assert (stage.verdicts.reason_bits & INVALID).tolist() == [0, INVALID, INVALID, 0]
    assert stage.verdicts.accept.tolist() == [True, False, False, True]


def test_a_double_beyond_float32_is_invalid(stage):
    said = answer(form="typed", datatype="FP64")
    said.outputs[1].contents.fp64_contents[0] = 1e300
    stage.upstream.says(said)
    stage.infer(stage.proxy(), request())
    assert stage.verdicts.reason_bits[0] & INVALID


def test_an_output_upstream_does_not_have_is_unavailable(stage):
    said = answer()
    said.outputs[1].name = "renamed"
    assert "no output scores" in cause_of(stage, said)


def test_the_model_version_of_the_request_is_checked_against_the_bundle(stage):
    bundle = row_bundle()
    bundle.manifest.model["version"] = "7"
    proxy = stage.proxy(bundle=bundle)
    stage.infer(proxy, request(model_version="7"))
    stage.infer(proxy, request())
    stage.infer(proxy, request(model_version="8"))
    accepts = [e.verdicts.accept.tolist() for e in stage.decisions]
    assert accepts == [[True, False], [True, False], [False, False]]
    assert "'8'" in stage.decisions[2].verdicts.cause


def test_unmapped_models_pass_untouched_and_are_counted(stage):
    proxy = stage.proxy()
    said = stage.upstream.says(answer())
    assert stage.infer(proxy, request(model="other")) == said
    assert stage.decisions == []
    assert [(e.monitor, e.kind, e.protocol) for e in stage.refusals] == [("", "unmapped", "oip")]


def test_requests_that_do_not_parse_get_upstreams_answer_and_are_counted(stage):
    proxy = stage.proxy(annotate=True)
    said = stage.upstream.says(answer())
    assert stage.infer(proxy, b"\x0a\xff") == said
    assert [e.kind for e in stage.refusals] == ["invalid"]
    assert stage.decisions == []


class Failing:
    """A recorder that cannot record."""

    gates = True

    def __init__(self, error: Exception) -> None:
        self.error = error

    def record(self, *_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"), [(AuditUnavailable("disk full"), "audit"), (RuntimeError("bug"), "internal")]
)
def test_a_failing_judge_changes_nothing_in_observe_mode(stage, error, kind):
    said = stage.upstream.says(answer())
    assert stage.infer(stage.proxy(recorder=Failing(error)), request()) == said
    assert [(e.monitor, e.kind) for e in stage.refusals] == [("toy", kind)]


def test_a_failing_listener_changes_nothing(stage):
    def deaf(_event):
        raise RuntimeError("exporter down")

    said = stage.upstream.says(answer())
    stage.refusals = type("Deaf", (), {"append": staticmethod(deaf)})()
    assert stage.infer(stage.proxy(), request(model="other")) == said


def test_the_observation_carries_request_and_model_to_the_record(stage):
    class Recording:
        gates = True

        def record(self, _loaded, observation, _verdicts):
            self.observation = observation
            return 41, True

    recorder = Recording()
    stage.infer(stage.proxy(recorder=recorder), request(model_version="3"))
    assert recorder.observation.request == "r-1"
    assert recorder.observation.model == {"name": "digits", "version": "3"}
    assert recorder.observation.signals["logits"].tolist() == [GOOD, BAD]
    assert stage.verdicts.sequence == 41
