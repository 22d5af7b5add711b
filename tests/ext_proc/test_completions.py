"""OpenAI traffic: judged whole, as server-sent events, with log-probabilities asked for beside the client."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import demur
from demur.adapters.servers.openai.completion import HOLE, NO_LOGPROBS
from tests.ext_proc.conftest import CHAT, ask, choice, completion
from tests.ext_proc.simulator import STREAMED, Answer
from tests.ext_proc.upstream import events

JSON, SSE = {"content-type": "application/json"}, {"content-type": "text/event-stream; charset=utf-8"}
CALM, WILD = [-0.1] * 6, [-0.1, -3.0, -4.0, -5.0]


def sse(logprobs, *, done=True, **more):
    found = [b"data: " + e + b"\n\n" for e in events(logprobs, **more)]
    return [*found, *([b"data: [DONE]\n\n"] if done else [])]


@pytest.mark.parametrize("path", [CHAT, "/openai/v1/chat/completions", "/chat/completions?x=1"])
def test_a_good_answer_passes_as_it_came(world, path):
    made = world()
    body = completion(choice(*CALM))
    result = made.envoy(body).request(path, ask(logprobs=True))
    assert (result.status, result.body, result.spurious) == (200, body, 0)
    (event,) = made.decisions
    assert (event.monitor, event.protocol, len(event.verdicts)) == ("toy", "ext_proc", 1)
    assert event.verdicts.scores[0, 0] == pytest.approx(0.1)


def test_an_abstention_is_an_error_as_openai_writes_it(world):
    made = world(annotate=True)
    result = made.envoy(completion(choice(*WILD))).request(CHAT, ask(logprobs=True))
    assert result.status == 412
    error = json.loads(result.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith("demur: the answer is withheld: NOVEL: nll")
    assert (error["type"], error["code"]) == ("demur_error", "demur_abstain")
    assert result.details.startswith("demur_ABSTAIN:NOVEL")


def test_the_verdict_is_about_the_whole_stream(world):
    """The running mean was once above the limit, and is far below it at the end."""
    made = world("observe")
    made.envoy(completion(choice(-5.0, *[-0.01] * 50))).request(CHAT, ask(logprobs=True))
    assert made.decisions[0].verdicts.accept.tolist() == [False]


def test_one_bad_choice_of_several_withholds_the_answer(world):
    made = world()
    body = completion(choice(*CALM), choice(*WILD, index=1))
    result = made.envoy(body).request(CHAT, ask(logprobs=True, n=2))
    assert (result.status, len(made.decisions)) == (412, 2)
    assert "choice 1 is withheld" in json.loads(result.body)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (completion(choice()), NO_LOGPROBS),
        (completion(choice(*CALM), choice(index=1)), NO_LOGPROBS),
        (completion(choice(*CALM, finish=None)), "ended before it was complete"),
        (completion(), "no choices"),
        (b"{}", "no list of choices"),
        (b"<html>", "not readable JSON"),
        (completion(choice(float("nan"))), ""),
    ],
)
@pytest.mark.parametrize(
    ("mode", "on_failure", "status"), [("observe", "block", 200), ("enforce", "block", 503), ("enforce", "pass", 200)]
)
def test_answers_that_cannot_be_judged(world, body, cause, mode, on_failure, status):
    made = world(mode, on_failure, annotate=True)
    result = made.envoy(body).request(CHAT, ask(logprobs=True))
    assert result.status == status
    assert result.headers["demur-verdict"] == "ABSTAIN"
    assert made.decisions[-1].verdicts.accept.tolist() == [False]
    assert cause in made.decisions[-1].verdicts.cause


class TestModels:
    def test_another_model_passes_and_is_counted(self, world):
        made = world()
        result = made.envoy(completion(choice())).request(CHAT, ask(model="other"))
        assert (result.status, result.parts[:2], made.decisions) == (200, ["request_headers", "request_body"], [])
        assert [r.kind for r in made.refusals] == ["unmapped"]

    def test_a_star_is_any_model(self, world):
        made = world(completions={"*": {"monitor": "tokens"}})
        assert made.envoy(completion(choice(*WILD))).request(CHAT, ask(model="other", logprobs=True)).status == 412

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 3}'])
    def test_a_request_without_a_model_that_was_answered(self, world, body):
        for mode, status in (("enforce", 503), ("observe", 200)):
            made = world(mode)
            answer = Answer(headers=JSON, body=completion(choice(*WILD)).replace(b'"gpt"', b'"unknown"'))
            assert made.envoy(answer).request(CHAT, body).status == status
            assert [r.kind for r in made.refusals] == ["invalid"]

    def test_the_answers_model_counts_when_the_request_was_not_shown(self, world):
        made = world()
        result = made.envoy(completion(choice(*CALM)), request_body=0).request(CHAT, ask(logprobs=True))
        assert (result.status, len(made.decisions)) == (200, 1)


class TestEvents:
    def test_observed_as_they_pass(self, world):
        made = world("observe")
        for logprobs, accepted in ((CALM, True), (WILD, False)):
            envoy = made.envoy(Answer(headers=SSE, chunks=sse(logprobs)), observability_mode=True)
            result = envoy.request(CHAT, ask(stream=True, logprobs=True))
            assert (result.status, result.body) == (200, b"".join(sse(logprobs)))
            assert made.decisions[-1].verdicts.accept.tolist() == [accepted]
        assert len(made.decisions) == 2

    def test_chunks_cut_anywhere(self, world):
        made = world("observe")
        raw = b"".join(sse(CALM))
        for size in (1, 7, 100):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            made.envoy(Answer(headers=SSE, chunks=chunks), observability_mode=True).request(CHAT, ask(stream=True))
        assert [e.verdicts.accept.tolist() for e in made.decisions] == [[True]] * 3

    def test_a_client_that_went_away_leaves_an_abstention(self, world):
        made = world("observe")
        chunks = sse(CALM, done=False)[:3]
        made.envoy(Answer(headers=SSE, chunks=chunks), observability_mode=True).request(CHAT, ask(stream=True))
        assert "before it was complete" in made.decisions[0].verdicts.cause

    def test_buffered_events_are_withheld(self, world):
        made = world()
        raw = b"".join(sse(WILD))
        assert made.envoy(Answer(headers=SSE, body=raw)).request(CHAT, ask(stream=True)).status == 412
        good = b"".join(sse(CALM))
        assert made.envoy(Answer(headers=SSE, body=good)).request(CHAT, ask(stream=True)).body == good

    def test_memory_is_what_the_tokens_take_and_is_given_back(self, world):
        made = world("observe", body_bytes=4096)
        raw = sse([-0.1] * 500)
        assert sum(map(len, raw)) > 20 * 4096
        made.envoy(Answer(headers=SSE, chunks=raw), observability_mode=True).request(CHAT, ask(stream=True))
        assert made.decisions[0].verdicts.accept.tolist() == [True]
        made.envoy(Answer(headers=SSE, chunks=sse([-0.1] * 2000)), observability_mode=True).request(
            CHAT, ask(stream=True)
        )
        assert "larger than body_bytes" in made.decisions[1].verdicts.cause
        assert made.server.service.memory.held == 0

    def test_a_hole_in_the_log_probabilities(self, world):
        made = world("observe")
        chunks = sse(CALM)
        chunks.insert(3, b'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": null}]}\n\n')
        made.envoy(Answer(headers=SSE, chunks=chunks), observability_mode=True).request(CHAT, ask(stream=True))
        assert made.decisions[0].verdicts.cause == HOLE

    def test_streamed_to_the_client_it_cannot_be_withheld_and_so_is_refused(self, world):
        made = world()
        result = made.envoy(Answer(headers=SSE, chunks=sse(CALM)), response_body=STREAMED).request(
            CHAT, ask(stream=True)
        )
        assert (result.status, result.parts[-1]) == (503, "response_headers")


class TestAskedForBesideTheClient:
    def upstream(self, logprobs):
        def answer(_, body):
            asked = json.loads(body).get("logprobs")
            return Answer(headers=JSON, body=completion(choice(*logprobs if asked else ())))

        return answer

    def made(self, world, **more):
        return world(chat={"request_logprobs": True}, **more)

    @pytest.mark.parametrize(
        "more", [{}, {"logprobs": False}, {"logprobs": None, "temperature": 0.70}, {"stream": False}]
    )
    def test_the_client_gets_what_it_asked_for(self, world, more):
        made = self.made(world)
        request = ask(**more)
        result = made.envoy(self.upstream(CALM)).request(CHAT, request)
        assert (result.status, result.body) == (200, completion(choice()))
        assert result.headers["content-length"] == str(len(result.body))
        sent = json.loads(result.upstream_saw[1])
        assert sent == json.loads(request) | {"logprobs": True}
        assert made.envoy(self.upstream(WILD)).request(CHAT, request).status == 412

    def test_every_other_character_stays(self, world):
        request = b'{ "model":"gpt" ,\n "x": 1e400, "y": 0.10, "logprobs" : false }'
        result = self.made(world).envoy(self.upstream(CALM)).request(CHAT, request)
        assert result.upstream_saw[1] == request.replace(b"false", b"true")

    def test_what_needs_no_change_is_left_alone(self, world):
        result = self.made(world).envoy(self.upstream(CALM)).request(CHAT, ask(logprobs=True))
        assert result.upstream_saw[1] == ask(logprobs=True)
        assert result.status == 200

    @pytest.mark.parametrize("coding", ["", "gzip"])
    def test_a_streamed_answer_is_judged_as_a_whole_and_comes_as_it_was_asked_for(self, world, coding):
        def upstream(_, body):
            asked = json.loads(body)
            assert asked["stream"]
            raw = b"".join(sse(self.said if asked.get("logprobs") else []))
            if asked.get("logprobs") is None:
                raise AssertionError("nobody asked for log-probabilities")
            return Answer(
                headers=SSE | ({"content-encoding": "gzip"} if coding else {}),
                body=gzip.compress(raw) if coding else raw,
            )

        made = self.made(world)
        self.said = CALM
        result = made.envoy(upstream).request(CHAT, ask(stream=True))
        raw = gzip.decompress(result.body) if coding else result.body
        expected = b"".join(sse(CALM))
        for value in CALM:
            token = {"content": [{"token": "t", "logprob": value, "bytes": [116], "top_logprobs": []}]}
            expected = expected.replace(json.dumps(token).encode(), b"null")
        assert (result.status, raw) == (200, expected)
        assert b'logprob"' not in raw
        assert result.headers["content-length"] == str(len(result.body))
        self.said = WILD
        assert made.envoy(upstream).request(CHAT, ask(stream=True)).status == 412
        assert [bool(d.verdicts.accept.all()) for d in made.decisions] == [True, False]
        assert made.server.service.memory.held == 0

    def test_a_stream_that_the_client_sees_at_once_is_left_alone(self, world):
        answer = Answer(headers=SSE, chunks=sse(CALM))
        made = self.made(world, mode="observe")
        result = made.envoy(answer, response_body=STREAMED).request(CHAT, ask(stream=True))
        assert result.upstream_saw[1] == ask(stream=True)
        assert (result.status, result.body) == (200, b"".join(sse(CALM)))

    def test_alternatives_are_asked_for_where_the_monitor_reads_them(self, world):
        golden = demur.Bundle.load(Path(__file__).parents[1] / "golden" / "stream.demur")
        made = self.made(world, streams_of=golden)
        result = made.envoy(self.upstream(CALM)).request(CHAT, ask(top_logprobs=0))
        assert json.loads(result.upstream_saw[1]) == json.loads(ask()) | {"logprobs": True, "top_logprobs": 5}
        assert (result.status, made.decisions[0].verdicts.cause) == (503, "no top_logprobs: ask for top_logprobs: 5")
