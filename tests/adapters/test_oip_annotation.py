"""`annotate: on` adds `demur.*` string parameters, and nothing else changes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Conduct
from demur.proto.oip.inference_pb2 import ModelInferResponse
from tests.adapters.conftest import answer, request
from tests.service.bundles import BAD, GOOD

UNKNOWN_FIELDS = b"\xfa\x3e\x05hello"
KEYS = {
    f"demur.{k}"
    for k in ("verdict", "action", "mode", "accept", "reasons", "p_values", "columns", "cause", "monitor", "bundle", "sequence", "audited")
}  # fmt: skip


def parameters(content: bytes) -> dict[str, str]:
    return {k: v.string_param for k, v in ModelInferResponse.FromString(content).parameters.items()}


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_the_answer_is_kept_byte_for_byte_and_only_strings_are_added(stage, form):
    original = answer(form=form)
    original.parameters["upstream"].int64_param = 3
    said = stage.upstream.says(UNKNOWN_FIELDS + original.SerializeToString() + UNKNOWN_FIELDS)
    got = stage.infer(stage.proxy(annotate=True), request())
    assert got.startswith(said)
    message = ModelInferResponse.FromString(got)
    added = set(message.parameters) - {"upstream"}
    assert added == KEYS
    assert {message.parameters[k].WhichOneof("parameter_choice") for k in added} == {"string_param"}
    for key in added:
        del message.parameters[key]
    assert message == ModelInferResponse.FromString(said)


def test_the_parameters_say_what_the_verdicts_say(stage):
    stage.upstream.says(answer([GOOD, BAD, [np.nan, 0, 0, 0]]))
    got = parameters(stage.infer(stage.proxy(annotate=True), request(rows=3)))
    verdicts = stage.verdicts
    assert got["demur.verdict"] == "ABSTAIN"
    assert json.loads(got["demur.accept"]) == [True, False, False]
    kinds = json.loads(got["demur.reasons"])
    assert kinds[:2] == [[], ["NOVEL"]]
    assert "INVALID" in kinds[2]
    p_values = json.loads(got["demur.p_values"])
    assert p_values[2] == [None]
    assert np.allclose(p_values[:2], verdicts.p_values[:2], rtol=1e-5)
    assert json.loads(got["demur.columns"]) == ["weak"]
    assert got["demur.bundle"] == verdicts.policy.bundle
    assert (got["demur.monitor"], got["demur.mode"], got["demur.action"]) == ("toy", "observe", "NONE")
    assert (got["demur.sequence"], got["demur.audited"], got["demur.cause"]) == ("0", "false", "")
    assert " " not in got["demur.accept"] + got["demur.p_values"] + got["demur.reasons"]


def test_accept_needs_every_row(stage):
    stage.upstream.says(answer([GOOD, GOOD]))
    assert parameters(stage.infer(stage.proxy(annotate=True), request()))["demur.verdict"] == "ACCEPT"


def test_the_cause_of_an_unavailable_verdict_is_told(stage):
    said = answer()
    del said.outputs[1], said.raw_output_contents[1]
    stage.upstream.says(said)
    got = parameters(stage.infer(stage.proxy(annotate=True), request(outputs=("label",))))
    assert (
        got["demur.cause"]
        == "upstream's answer has no output scores; check the mapping and default_outputs of this model"
    )
    assert (got["demur.verdict"], got["demur.accept"]) == ("ABSTAIN", "[false,false]")
    assert got["demur.reasons"] == '[["UNAVAILABLE"],["UNAVAILABLE"]]'


def test_an_upstream_cannot_forge_an_acceptance(stage):
    forged = answer([BAD, BAD])
    for key in KEYS:
        forged.parameters[key].string_param = "ACCEPT"
    stage.upstream.says(forged)
    got = parameters(stage.infer(stage.proxy(annotate=True), request()))
    assert got["demur.verdict"] == "ABSTAIN"
    assert "ACCEPT" not in got.values()


def test_an_answer_that_does_not_parse_is_not_annotated(stage):
    said = stage.upstream.says(answer().SerializeToString()[:-3])
    assert stage.infer(stage.proxy(annotate=True), request()) == said


def test_a_failing_judge_is_annotated_as_an_abstention(stage):
    class Failing:
        gates = True

        def record(self, *_):
            raise RuntimeError("bug")

    got = parameters(stage.infer(stage.proxy(annotate=True, recorder=Failing()), request()))
    assert (got["demur.verdict"], got["demur.reasons"]) == ("ABSTAIN", '[["UNAVAILABLE"]]')
    assert "bug" not in got["demur.cause"]


def test_annotations_that_would_break_the_message_limit_shrink_and_then_stay_out(stage):
    said = stage.upstream.says(answer([GOOD] * 100))
    summary = stage.infer(
        stage.proxy(annotate=True, limits=LimitsConfig(message_bytes=len(said) + 1000)), request(rows=1)
    )
    got = parameters(summary)
    assert summary.startswith(said)
    assert (got["demur.verdict"], got["demur.accept"]) == ("ACCEPT", "")
    assert "message limit" in got["demur.cause"]
    tight = stage.proxy(annotate=True, limits=LimitsConfig(message_bytes=len(said) + 10))
    assert stage.infer(tight, request(rows=1)) == said


def test_enforce_with_pass_says_that_nothing_was_blocked(stage):
    said = stage.upstream.says(answer([GOOD, [np.nan, 0, 0, 0]]))
    proxy = stage.proxy(annotate=True, conduct=Conduct(mode="enforce", on_failure="pass"))
    content = stage.infer(proxy, request())
    got = parameters(content)
    assert content.startswith(said)
    assert (got["demur.verdict"], got["demur.mode"], got["demur.accept"]) == ("ABSTAIN", "enforce", "[true,false]")
