"""`enforce` replaces a blocked answer by a status that says why, and nothing turns a broken judge into an acceptance."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from demur.monitor.engine import Conduct
from demur.monitor.errors import AuditUnavailable
from tests.adapters.conftest import answer, request
from tests.service.bundles import BAD, GOOD

BLOCK, PASS = Conduct(mode="enforce", on_failure="block"), Conduct(mode="enforce", on_failure="pass")


class Failing:
    gates = True

    def __init__(self, error: Exception) -> None:
        self.error = error

    def record(self, *_):
        raise self.error


def test_accepted_answers_pass_byte_for_byte(stage):
    said = stage.upstream.says(answer([GOOD, GOOD]))
    assert stage.infer(stage.proxy(conduct=BLOCK), request()) == said


@pytest.mark.parametrize("conduct", [BLOCK, PASS])
def test_an_abstention_withholds_the_answer_and_names_row_rule_and_record(stage, conduct):
    class Recorded:
        gates = True

        def record(self, *_):
            return 17, True

    def script(_method, _message, context):
        context.set_trailing_metadata((("x-prediction", "3"),))
        return answer([GOOD, BAD]).SerializeToString()

    stage.upstream.script = script
    error = stage.refused(stage.proxy(conduct=conduct, recorder=Recorded()), request())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details().startswith("demur: 1 of 2 rows blocked; row 1: NOVEL: weak p = ")
    trailing = dict(error.trailing_metadata())
    assert trailing["demur-reasons"] == "NOVEL"
    assert (trailing["demur-verdict"], trailing["demur-action"], trailing["demur-sequence"]) == (
        "ABSTAIN",
        "BLOCK",
        "17",
    )
    assert trailing["demur-bundle"] == stage.verdicts.policy.bundle
    assert "x-prediction" not in trailing


def test_on_failure_decides_about_what_could_not_be_judged(stage):
    broken = answer([GOOD, [np.nan, 0, 0, 0]])
    said = stage.upstream.says(broken)
    assert stage.infer(stage.proxy(conduct=PASS), request()) == said
    assert stage.verdicts.accept.tolist() == [True, False]
    error = stage.refused(stage.proxy(conduct=BLOCK), request())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "INVALID" in dict(error.trailing_metadata())["demur-reasons"].split(",")


def test_an_output_that_does_not_come_is_blocked_with_its_cause(stage):
    said = answer()
    del said.outputs[1], said.raw_output_contents[1]
    stage.upstream.says(said)
    error = stage.refused(stage.proxy(conduct=BLOCK), request(outputs=("label",)))
    trailing = dict(error.trailing_metadata())
    assert trailing["demur-reasons"] == "UNAVAILABLE"
    assert (
        trailing["demur-cause"]
        == "upstream's answer has no output scores; check the mapping and default_outputs of this model"
    )


def test_hostile_output_names_cannot_break_the_status(stage):
    said = answer()
    said.outputs[1].datatype = "\r\nüx" * 5000
    stage.upstream.says(said)
    error = stage.refused(stage.proxy(conduct=BLOCK), request())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    cause = dict(error.trailing_metadata())["demur-cause"]
    assert len(cause) <= 1024
    assert cause.isprintable()


def test_an_answer_that_does_not_parse_is_withheld(stage):
    stage.upstream.says(answer().SerializeToString()[:-3])
    assert stage.refused(stage.proxy(conduct=BLOCK), request()).code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_request_that_does_not_parse_is_no_way_around_the_monitor(stage):
    stage.upstream.says(answer([GOOD]))
    error = stage.refused(stage.proxy(conduct=PASS), b"\x0a\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [e.kind for e in stage.refusals] == ["invalid"]


def test_upstreams_own_refusal_comes_first(stage):
    stage.upstream.script = lambda _m, _r, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "upstream says no")
    error = stage.refused(stage.proxy(conduct=BLOCK), b"\x0a\xff")
    assert error.details() == "upstream says no"


@pytest.mark.parametrize("conduct", [BLOCK, PASS])
def test_an_audit_log_that_must_not_be_skipped_withholds_the_answer(stage, conduct):
    stage.upstream.says(answer([GOOD, GOOD]))
    error = stage.refused(stage.proxy(conduct=conduct, recorder=Failing(AuditUnavailable("disk full"))), request())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "audit" in error.details()
    assert [e.kind for e in stage.refusals] == ["audit"]


def test_a_bug_in_the_judge_follows_on_failure_and_leaks_nothing(stage):
    said = stage.upstream.says(answer([GOOD, GOOD]))
    assert stage.infer(stage.proxy(conduct=PASS, recorder=Failing(RuntimeError("secret"))), request()) == said
    error = stage.refused(stage.proxy(conduct=BLOCK, recorder=Failing(RuntimeError("secret"))), request())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "secret" not in str(error)


def test_a_spent_budget_is_unavailable(stage):
    said = stage.upstream.says(answer([GOOD, GOOD]))
    observing = stage.proxy(conduct=Conduct(budget_seconds=1e-9))
    assert stage.infer(observing, request()) == said
    assert "not in time" in stage.verdicts.cause
    error = stage.refused(stage.proxy(conduct=Conduct("enforce", "block", 1e-9)), request())
    assert "not in time" in dict(error.trailing_metadata())["demur-cause"]
