"""What each mode of the filter and of the monitor does with an answer."""

from __future__ import annotations

import json

from tests.ext_proc.conftest import BAD, GOOD, PATH, infer, scores


def test_an_accepted_answer_passes_as_it_came(world):
    made = world("enforce")
    body = scores(GOOD)
    result = made.envoy(body, message_timeout=5).request(PATH, infer())
    assert (result.status, result.body, result.spurious) == (200, body, 0)
    assert result.parts == ["request_headers", "request_body", "response_headers", "response_body"]
    (event,) = made.decisions
    assert event.protocol == "ext_proc"
    assert event.verdicts.accept.tolist() == [True]


def test_an_abstention_is_an_error_in_enforce(world):
    made = world("enforce")
    result = made.envoy(scores(GOOD, BAD), message_timeout=5).request(PATH, infer(rows=2))
    assert (result.status, result.spurious) == (412, 0)
    said = json.loads(result.body)
    assert "1 of 2 rows blocked; row 1: NOVEL" in said["error"]
    assert said["demur"]["reasons"] == "NOVEL"
    assert result.headers["demur-verdict"] == "ABSTAIN"
    assert result.details.startswith("demur_ABSTAIN:NOVEL:sequence=")
