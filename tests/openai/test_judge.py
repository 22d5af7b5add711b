"""Completions before a monitor that reads the likeliest alternatives too: the verdict is that of the single steps."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

import demur
from demur.adapters.servers.openai.completion import Completion
from demur.adapters.servers.openai.judge import Answer, CompletionJudge, completion_models
from demur.monitor.config.ext_proc import CompletionModelConfig
from demur.monitor.engine import Conduct, Engine
from demur.monitor.errors import ConfigurationError
from demur.monitor.loaded import Loaded

GOLDEN = Path(__file__).parents[1] / "golden"
MOST = 5


def loaded():
    return Loaded.open(demur.Bundle.load(GOLDEN / "stream.demur"))


def judge(engine, **config):
    settings = CompletionModelConfig(monitor="tokens", **config)
    return CompletionJudge(completion_models({"gpt": settings}, {"tokens": engine}), lambda _: None)


def tokens(seed, count, sharp):
    """Log-probabilities of the 7 likeliest of 50 tokens, the sampled one somewhere among them."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        raw = sorted((chance.gauss(0, sharp) for _ in range(50)), reverse=True)
        whole = math.log(sum(map(math.exp, raw)))
        top = [v - whole for v in raw[:7]]
        found.append((chance.choice(top), chance.sample(top, 7)))
    return found


def document(found):
    content = [
        {"token": "t", "logprob": own, "bytes": None, "top_logprobs": [{"token": "u", "logprob": v} for v in top]}
        for own, top in found
    ]
    return json.dumps(
        {
            "model": "gpt",
            "choices": [
                {"index": 0, "message": {"content": "x"}, "logprobs": {"content": content}, "finish_reason": "stop"}
            ],
        }
    ).encode()


@pytest.mark.parametrize(("seed", "count", "sharp"), [(1, 1, 6), (2, 12, 6), (3, 40, 0.2), (4, 25, 2)])
def test_the_verdict_is_that_of_single_steps(seed, count, sharp):
    found, engine = tokens(seed, count, sharp), Engine(loaded())
    with demur.Monitor(Engine(loaded())).open_stream() as stream:
        for own, top in found:
            best = sorted(top, reverse=True)[:MOST]
            last = stream.step(
                token_logprob=np.array([[own]], np.float32),
                topk_logprobs=np.array([best], np.float32),
                topk_mask=np.ones((1, MOST), np.float32),
            )
    model = judge(engine).model("gpt")
    assert model.most == MOST
    answer = Completion(model.most)
    answer.take(document(found))
    (verdicts,), held = judge(engine).judge(model, Answer(model="gpt", completion=answer))
    assert held is None
    np.testing.assert_array_equal(verdicts.scores, last.scores)
    np.testing.assert_array_equal(verdicts.p_values, last.p_values)
    assert (verdicts.accept.tolist(), list(verdicts.reasons)) == (last.accept.tolist(), list(last.reasons))


def test_alternatives_that_were_not_asked_for():
    """Without any the client is told what to ask for; a token without is INVALID, never an accept."""
    engine = Engine(loaded(), conduct=Conduct("enforce", "block"))
    answer = Completion(MOST)
    answer.take(document([(-0.1, [])] * 3))
    (verdicts,), held = judge(engine).judge(judge(engine).model("gpt"), Answer(model="gpt", completion=answer))
    assert (verdicts.accept.tolist(), held is None) == ([False], False)
    assert verdicts.cause == "no top_logprobs: ask for top_logprobs: 5"
    answer = Completion(MOST)
    answer.take(document([*tokens(1, 2, 2), (-0.1, [])]))
    (verdicts,), held = judge(engine).judge(judge(engine).model("gpt"), Answer(model="gpt", completion=answer))
    assert (verdicts.accept.tolist(), held is None) == ([False], False)
    assert "INVALID" in verdicts.reasons[0][0]


def test_a_bundle_swapped_for_a_wider_one_is_a_missing_signal():
    engine = Engine(loaded())
    answer = Completion(MOST - 2)
    answer.take(document(tokens(1, 2, 2)))
    (verdicts,), _ = judge(engine).judge(judge(engine).model("gpt"), Answer(model="gpt", completion=answer))
    assert "missing signal: topk_logprobs, topk_mask" in verdicts.cause


def test_models_by_name_and_by_star():
    engine = Engine(loaded())
    settings = {"gpt": CompletionModelConfig(monitor="tokens"), "*": CompletionModelConfig(monitor="tokens")}
    both = CompletionJudge(completion_models(settings, {"tokens": engine}), lambda _: None)
    assert both.model("gpt") is not both.model("other")
    assert judge(engine).model("other") is None
    with pytest.raises(ConfigurationError, match="no monitor 'tokens' is served here"):
        completion_models(settings, {})
