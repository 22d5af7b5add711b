"""What each mode of the filter and of the monitor does with an answer."""

from __future__ import annotations

import json
import time

import pytest

from tests.ext_proc.conftest import BAD, CHAT, GOOD, PATH, ask, filtering, infer, scores
from tests.ext_proc.simulator import BUFFERED, NONE, PARTIAL, STREAMED, Answer

JSON = {"content-type": "application/json"}
WHOLE = ["request_headers", "request_body", "response_headers", "response_body"]


def judged(made):
    return [(e.verdicts.accept.tolist(), e.verdicts.cause) for e in made.decisions]


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_an_accepted_answer_passes_as_it_came(world, mode):
    made = world(mode)
    body = scores(GOOD)
    result = made.envoy(body).request(PATH, infer())
    assert (result.status, result.body, result.spurious, result.parts) == (200, body, 0, WHOLE)
    assert result.upstream_saw[1] == infer()
    (event,) = made.decisions
    assert (event.protocol, event.verdicts.accept.tolist()) == ("ext_proc", [True])


def test_an_abstention_passes_in_observe(world):
    made = world("observe")
    body = scores(BAD)
    result = made.envoy(Answer(headers=JSON, body=body)).request(PATH, infer())
    assert (result.status, result.body, result.headers) == (200, body, JSON | {"content-length": str(len(body))})
    assert judged(made) == [([False], "")]


def test_an_abstention_is_an_error_in_enforce(world):
    made = world("enforce")
    result = made.envoy(scores(GOOD, BAD)).request(PATH, infer(rows=2))
    assert (result.status, result.spurious) == (412, 0)
    said = json.loads(result.body)
    assert "1 of 2 rows blocked; row 1: NOVEL" in said["error"]
    assert said["demur"]["reasons"] == "NOVEL"
    assert result.headers["demur-verdict"] == "ABSTAIN"
    assert result.headers["content-type"] == "application/json"
    assert result.details == "demur_ABSTAIN:NOVEL:sequence=0"


def test_the_details_and_headers_carry_the_decisions_sequence(world):
    class Log:
        gates = True

        def record(self, *_):
            return 41, True

    made = world("enforce", recorder=Log(), blocked_status=422)
    result = made.envoy(scores(BAD)).request(PATH, infer())
    assert (result.status, result.details) == (422, "demur_ABSTAIN:NOVEL:sequence=41")
    assert result.headers["demur-sequence"] == "41"


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_annotations_are_headers_that_upstream_cannot_forge(world, mode):
    made = world(mode, annotate=True)
    forged = JSON | {"demur-verdict": "FORGED", "demur-group_accept": "FORGED", "x-own": "kept"}
    result = made.envoy(Answer(headers=forged, body=scores(GOOD))).request(PATH, infer())
    assert result.status == 200
    assert {n: v for n, v in result.headers.items() if n.startswith("demur-")} == {
        "demur-verdict": "ACCEPT",
        "demur-action": "NONE",
        "demur-mode": mode,
        "demur-reasons": "",
        "demur-cause": "",
        "demur-monitor": "toy",
        "demur-bundle": made.engine.loaded.policy.bundle,
        "demur-sequence": "0",
        "demur-audited": "false",
    }
    assert result.headers["x-own"] == "kept"


def test_an_annotated_abstention_in_observe(world):
    result = world("observe", annotate=True).envoy(scores(BAD)).request(PATH, infer())
    assert (result.status, result.headers["demur-verdict"], result.headers["demur-reasons"]) == (
        200,
        "ABSTAIN",
        "NOVEL",
    )


def test_forged_headers_of_an_error_of_upstreams_are_taken_out_too(world):
    made = world(annotate=True)
    result = made.envoy(Answer(500, {"demur-verdict": "ACCEPT"}, b"{}")).request(PATH, infer())
    assert (result.status, "demur-verdict" in result.headers, made.decisions) == (500, False, [])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("GET", "/v2/models/digits"),
        ("POST", "/v2/repository/index"),
        ("POST", "/"),
        ("POST", "/v2/models/d/infer"),
    ],
)
def test_what_is_not_judged_passes_and_frees_its_stream(world, method, path):
    made = world()
    result = made.envoy(b"anything").request(path, b"{}", method=method)
    assert (result.status, result.body, result.failed) == (200, b"anything", "")
    assert result.parts[0] == "request_headers"
    assert made.decisions == []
    assert [r.kind for r in made.refusals] == (["unmapped"] if path.endswith("/d/infer") else [])


@pytest.mark.parametrize(
    "path",
    ["/v2/models/digits/infer?x=1", "//v2/models/digits//infer/", "/v2/models/x/../digits/infer", "/v2/models/%64igits/infe%72",
     "/v2/models/digits/versions/3/infer", "/prefix/v2/models/digits/infer", "/v2/models/digits/./infer#x"],
)  # fmt: skip
def test_other_spellings_of_a_judged_path_are_judged(world, path):
    assert world().envoy(scores(BAD)).request(path, infer()).status == 412


@pytest.mark.parametrize(
    "path", ["/v2/models/digits/generate", "/v2/models/digits/generate_stream", "/v1/models/digits:predict"]
)
def test_answers_of_the_same_model_in_other_forms_are_abstentions(world, path):
    made = world()
    result = made.envoy(scores(GOOD)).request(path, infer())
    assert (result.status, result.headers["demur-reasons"]) == (503, "UNAVAILABLE")
    assert "use infer" in made.decisions[0].verdicts.cause


def test_errors_of_upstream_pass(world):
    made = world()
    result = made.envoy(Answer(400, JSON, b'{"error": "bad shape"}')).request(PATH, infer())
    assert (result.status, result.body, made.decisions) == (400, b'{"error": "bad shape"}', [])


def test_a_request_without_a_body_and_its_error_pass(world):
    made = world()
    result = made.envoy(Answer(400, JSON, b"{}")).request(PATH)
    assert (result.status, result.body, made.decisions) == (400, b"{}", [])


def test_a_good_status_without_a_body_is_no_answer(world):
    made = world()
    result = made.envoy(Answer(200, JSON)).request(PATH, infer())
    assert (result.status, result.headers["demur-reasons"]) == (503, "UNAVAILABLE")


class TestObservability:
    def test_it_judges_and_says_nothing(self, world):
        made = world("enforce")
        body = scores(BAD)
        chunks = [body[:20], body[20:50], body[50:]]
        envoy = made.envoy(Answer(headers=JSON, chunks=chunks), observability_mode=True)
        result = envoy.request(PATH, infer(), chunks=[infer()[:9], infer()[9:]])
        assert (result.status, result.body, result.spurious) == (200, body, 0)
        (event,) = made.decisions
        assert event.verdicts.accept.tolist() == [False]
        assert event.verdicts.actions.tolist() == [0], "nobody was there to act"

    def test_an_answer_that_never_ends_is_judged_when_the_stream_does(self, world):
        made = world("observe")
        answer = Answer(headers=JSON, chunks=[scores(GOOD)], trailers={"x": "y"})
        made.envoy(answer, observability_mode=True, trailers=True).request(PATH, infer())
        assert judged(made) == [([True], "")]

    def test_a_broken_off_answer_is_an_abstention(self, world):
        made = world("observe")
        made.envoy(Answer(headers=JSON, chunks=[scores(GOOD)[:30]]), observability_mode=True).request(PATH, infer())
        assert made.decisions[0].verdicts.reasons[0][0].startswith("UNAVAILABLE: upstream's answer cannot be read")

    def test_nothing_is_asked_for_and_what_is_missing_is_said(self, world):
        made = world("observe")
        result = made.envoy(filtering(GOOD), observability_mode=True).request(PATH, infer(outputs=["label"]))
        assert result.upstream_saw[1] == infer(outputs=["label"])
        assert "cannot be changed here" in made.decisions[0].verdicts.cause


class TestBufferedPartial:
    def test_a_whole_body_is_judged(self, world):
        made = world()
        result = made.envoy(scores(GOOD), request_body=PARTIAL, response_body=PARTIAL).request(PATH, infer())
        assert (result.status, judged(made)) == (200, [([True], "")])

    @pytest.mark.parametrize(
        ("mode", "on_failure", "status"),
        [("observe", "block", 200), ("enforce", "block", 503), ("enforce", "pass", 200)],
    )
    def test_a_truncated_answer_says_so(self, world, mode, on_failure, status):
        made = world(mode, on_failure)
        result = made.envoy(scores(GOOD), response_body=PARTIAL, partial_bytes=40).request(PATH, infer())
        assert (result.status, judged(made)) == (status, [([False], "body truncated")])
        assert result.body == scores(GOOD) or status == 503

    def test_a_truncated_request_says_so(self, world):
        made = world()
        envoy = made.envoy(scores(GOOD), request_body=PARTIAL, response_body=BUFFERED, partial_bytes=20)
        assert envoy.request(PATH, infer()).status == 503
        assert judged(made) == [([False], "the request cannot be read: body truncated")]


class TestStreamedAndNone:
    def test_a_streamed_answer_is_refused_before_it_begins_in_enforce(self, world):
        made = world()
        answer = Answer(headers=JSON, chunks=[scores(GOOD)])
        result = made.envoy(answer, response_body=STREAMED).request(PATH, infer())
        assert (result.status, result.parts[-1]) == (503, "response_headers")
        assert "BUFFERED" in made.decisions[0].verdicts.cause

    def test_it_is_judged_at_its_end_in_observe(self, world):
        made = world("observe")
        body = scores(BAD)
        result = made.envoy(Answer(headers=JSON, chunks=[body[:9], body[9:]]), response_body=STREAMED).request(
            PATH, infer()
        )
        assert (result.status, result.body, judged(made)) == (200, body, [([False], "")])

    @pytest.mark.parametrize(("mode", "status"), [("observe", 200), ("enforce", 503)])
    def test_bodies_that_are_not_sent(self, world, mode, status):
        made = world(mode)
        result = made.envoy(scores(GOOD), request_body=NONE, response_body=NONE).request(PATH, infer())
        assert result.status == status
        assert "sends no bodies" in made.decisions[0].verdicts.cause

    def test_an_old_envoy_that_sends_no_bodies_is_recorded(self, world):
        made = world()
        envoy = made.envoy(scores(GOOD), request_body=NONE, response_body=NONE, says_modes=False)
        assert envoy.request(PATH, infer()).status == 200, "it never asked"
        deadline = time.monotonic() + 5
        while not made.decisions and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "without the body" in made.decisions[0].verdicts.cause

    def test_an_old_envoy_that_buffers_is_served(self, world):
        made = world()
        assert made.envoy(scores(GOOD), says_modes=False).request(PATH, infer()).status == 200
        assert made.envoy(scores(BAD), says_modes=False).request(PATH, infer()).status == 412


class TestModeOverride:
    def test_bodies_are_asked_for_only_where_they_are_judged(self, world):
        made = world(mode_override=True)
        options = {"request_body": NONE, "response_body": NONE, "response_headers": False, "allow_mode_override": True}
        judged_ = made.envoy(scores(BAD), **options).request(PATH, infer())
        assert (judged_.status, judged_.parts) == (412, WHOLE)
        other = made.envoy(b"x", **options).request("/metrics", b"{}")
        assert (other.status, other.parts) == (200, ["request_headers"])

    def test_an_envoy_that_does_not_allow_it_is_noticed(self, world):
        made = world(mode_override=True)
        result = made.envoy(scores(GOOD), request_body=NONE, response_body=NONE).request(PATH, infer())
        assert result.status == 503
        assert "allow_mode_override" in made.decisions[0].verdicts.cause


def test_trailers_of_both_sides(world):
    made = world()
    answer = Answer(headers=JSON, body=scores(GOOD), trailers={"x-cost": "1"})
    result = made.envoy(answer, trailers=True).request(PATH, infer())
    assert (result.status, result.parts[-1], result.spurious) == (200, "response_trailers", 0)
    assert (
        made.envoy(Answer(headers=JSON, body=scores(BAD), trailers={"x": "1"}), trailers=True)
        .request(PATH, infer())
        .status
        == 412
    )


def test_paths_of_completions_pass_when_none_is_configured(world):
    assert world(completions={}).envoy(b"{}").request(CHAT, b"{}").status == 200


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/other/generate", CHAT])
def test_models_without_a_monitor_may_be_refused(world, path):
    body = ask(model="other") if path == CHAT else infer()
    for config, status in (({}, 200), ({"unmapped": "block"}, 503)):
        made = world("observe", **config)
        result = made.envoy(scores(GOOD)).request(path, body)
        assert (result.status, made.decisions, [r.kind for r in made.refusals]) == (status, [], ["unmapped"])
        if status == 503:
            assert b"no monitor is mapped to model 'other'" in result.body
            assert result.upstream_saw is None, "the model need not work for nothing"
        assert made.envoy(scores(GOOD), observability_mode=True).request(path, body).status == 200
    assert world("observe", unmapped="block").envoy(b"x").request("/other", b"x").status == 200
