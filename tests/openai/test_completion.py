"""Completions as token streams: which tokens, and why an answer cannot be judged."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.adapters.servers.openai.completion import CUT, HOLE, NO_LOGPROBS, Completion
from demur.adapters.servers.openai.tokens import FLOOR, Tokens, UnreadableAnswerError

WIDTHS = {"token_logprob": 1, "topk_logprobs": 3, "topk_mask": 3}


def token(logprob, *top):
    return {
        "token": "t",
        "logprob": logprob,
        "bytes": [116],
        "top_logprobs": [{"token": "u", "logprob": v} for v in top],
    }


def chat(*choices, **more):
    return json.dumps({"object": "chat.completion", "model": "m", "choices": list(choices), **more}).encode()


def said(*tokens, content="yes", finish="stop", index=0, **message):
    logprobs = {"content": list(tokens)} if tokens else None
    return {"index": index, "message": {"content": content, **message}, "logprobs": logprobs, "finish_reason": finish}


def taken(raw, most=3):
    found = Completion(most)
    found.take(raw)
    return found


def streamed(*chunks, done=True):
    found = Completion(3)
    for chunk in chunks:
        found.event(
            json.dumps({"object": "chat.completion.chunk", "model": "m", "choices": [chunk] if chunk else []}).encode()
        )
    if done:
        found.event(b"[DONE]")
    return found


def part(*tokens, finish=None, index=0, **delta):
    logprobs = {"content": list(tokens)} if tokens else None
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def test_the_signals_of_an_answer():
    found = taken(chat(said(token(-0.5, -0.5, -1.5), token(-2.0, -0.2, -9999.0, -3.0, -1.0, -5.0))))
    assert (found.cause, found.model) == ("", "m")
    (tokens,) = found.choices
    signals = tokens.signals(WIDTHS)
    np.testing.assert_array_equal(signals["token_logprob"], np.float32([[-0.5], [-2.0]]))
    np.testing.assert_array_equal(signals["topk_logprobs"], np.float32([[-0.5, -1.5, 0.0], [-0.2, -1.0, -3.0]]))
    np.testing.assert_array_equal(signals["topk_mask"], np.float32([[1, 1, 0], [1, 1, 1]]))
    assert all(a.dtype == np.float32 for a in signals.values())
    assert set(tokens.signals({"token_logprob": 1})) == {"token_logprob"}


def test_minus_9999_is_very_unlikely_and_not_a_measurement():
    found = taken(chat(said(token(-9999.0, -9999.0, -0.1))))
    signals = found.choices[0].signals(WIDTHS)
    assert signals["token_logprob"].tolist() == [[np.float32(FLOOR)]]
    assert pytest.approx(math.log(2.0**-126)) == FLOOR
    assert signals["topk_mask"].tolist() == [[1, 0, 0]]


def test_several_choices_are_streams_of_their_own_in_the_order_of_their_index():
    found = taken(chat(said(token(-2.0), index=1), said(token(-1.0), token(-1.5), index=0)))
    assert [len(t) for t in found.choices] == [2, 1]
    assert found.cause == ""


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (chat(said()), NO_LOGPROBS),
        (chat(said(content="")), NO_LOGPROBS),
        (chat(said(token(-1.0)), said(index=1)), NO_LOGPROBS),
        (chat(said(token(-1.0), finish=None)), CUT),
        (chat(), "no choices"),
        (chat(said(token(-1.0)), said(token(-1.0))), "same index"),
        (chat(said(token(None))), "expected a number"),
        (chat(said(token("-1"))), "expected a number"),
        (chat(said(token(True))), "expected a number"),
        (
            chat({"index": 0, "message": {"content": "x"}, "logprobs": [], "finish_reason": "stop"}),
            "logprobs as a JSON object",
        ),
        (
            chat({"index": 0, "message": {"content": "x"}, "logprobs": {"content": "x"}, "finish_reason": "stop"}),
            "content as a list",
        ),
        (chat({"index": 10**6, "message": {}, "logprobs": None}), "index of a choice"),
        (chat({"index": -1, "message": {}, "logprobs": None}), "index of a choice"),
        (chat("x"), "not a JSON object"),
        (b'{"choices": 3}', "no list of choices"),
        (b'{"error": {"message": "x"}}', "is an error"),
        (b"[1]", "not a JSON object"),
        (b"{", "not readable JSON"),
        (b"", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b"[" + b"[]," * (1 << 20) + b"[]]", "not readable JSON"),
        (chat(said(token(-0.1)))[:-1] + b',"choices":[]}', "not readable JSON"),  # readers disagree which one counts
        (chat(said(token(-0.1))).replace(b'"logprob":', b'"logprob":0,"logprob":', 1), "not readable JSON"),
        (b'{"choices": [{"logprobs": {"content": [{"logprob": 1' + b"0" * 400 + b"}]}}]}", "larger than any float"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_why_an_answer_cannot_be_judged(raw, cause):
    assert cause in taken(raw).cause


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e39", "-1e39"])
def test_strange_numbers_reach_the_monitor_as_what_they_are(text):
    raw = chat(said(token(-77.25))).replace(b"-77.25", text.encode())
    found = taken(raw)
    (value,) = found.choices[0].signals(WIDTHS)["token_logprob"].ravel()
    assert found.cause == ""
    assert value == np.float32(FLOOR) if text.startswith("-") else not np.isfinite(value)


def test_a_refusal_has_tokens_too():
    message = {
        "index": 0,
        "message": {"content": None, "refusal": "no"},
        "logprobs": {"content": None, "refusal": [token(-1.0)]},
    }
    found = taken(chat(message | {"finish_reason": "stop"}))
    assert (found.cause, len(found.choices[0])) == ("", 1)


def test_text_completions():
    choice = {"index": 0, "text": "ab", "finish_reason": "length"}
    logprobs = {"token_logprobs": [-1.0, -2.0], "top_logprobs": [{"a": -1.0, "b": -3.0}, None]}
    found = taken(chat(choice | {"logprobs": logprobs}))
    signals = found.choices[0].signals(WIDTHS)
    assert signals["topk_mask"].sum(axis=1).tolist() == [2, 0]
    assert (
        "top_logprobs for 1"
        in taken(chat(choice | {"logprobs": {"token_logprobs": [-1.0], "top_logprobs": [{}, {}]}})).cause
    )
    assert taken(chat(choice | {"logprobs": None})).cause == NO_LOGPROBS
    assert "expected a number" in taken(chat(choice | {"logprobs": {"token_logprobs": [None]}})).cause


class TestStreams:
    def test_tokens_gather_over_chunks(self):
        found = streamed(
            part(role="assistant", content=""), part(token(-1.0), token(-2.0), content="ab"), part(token(-3.0), content="c"),
            part(finish="stop"), None,
        )  # fmt: skip
        assert (found.cause, len(found.choices[0])) == ("", 3)

    def test_reasoning_is_passed_over(self):
        for name in ("reasoning", "reasoning_content"):
            found = streamed(
                part(**{name: "hm"}), part(token(-9.0), **{name: "hm"}), part(token(-1.0), content="a", finish="stop")
            )
            assert (found.cause, len(found.choices[0])) == ("", 1), name

    def test_a_hole_is_said(self):
        assert streamed(part(token(-1.0), content="a"), part(content="b"), part(finish="stop")).cause == HOLE
        assert (
            streamed(part(token(-1.0), content="a"), part(tool_calls=[{"index": 0}]), part(finish="stop")).cause == HOLE
        )
        assert streamed(part(content="b"), part(finish="stop")).cause == NO_LOGPROBS

    def test_the_end_is_done_or_every_finish_reason(self):
        token_ = part(token(-1.0), content="a")
        assert streamed(token_, done=False).cause == CUT
        assert streamed(token_, done=True).cause == "", "proxies drop finish_reason"
        assert streamed(token_, part(finish="stop"), done=False).cause == ""
        assert streamed(token_, part(token(-1.0), index=1, content="b"), part(finish="stop"), done=False).cause == CUT

    def test_what_comes_after_the_end_is_noticed(self):
        found = streamed(part(token(-1.0), content="a", finish="stop"))
        found.event(b"{}")
        assert "after [DONE]" in found.cause

    def test_an_error_in_the_stream(self):
        found = streamed(part(token(-1.0), content="a", finish="stop"), done=False)
        found.event(b'{"error": {"message": "out of memory"}}')
        assert "is an error" in found.cause


LEAF = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4)
KEY = st.sampled_from(
    "choices index message delta logprobs content logprob top_logprobs finish_reason text token_logprobs".split()
)
INNER = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(KEY, LEAF, max_size=5)
MIDDLE = INNER | st.lists(INNER, max_size=3) | st.dictionaries(KEY, INNER, max_size=5)
JSON = MIDDLE | st.lists(MIDDLE, max_size=3) | st.dictionaries(KEY, MIDDLE, max_size=5)


@given(JSON, st.booleans())
def test_no_document_breaks_the_reader_and_none_without_tokens_is_judged(document, event):
    found = Completion(2)
    raw = json.dumps(document).encode()
    found.event(raw) if event else found.take(raw)
    assert found.cause or all(len(t) for t in found.choices)
    assert found.cause or found.choices


def test_a_token_that_is_refused_adds_nothing():
    tokens = Tokens(2)
    with pytest.raises(UnreadableAnswerError):
        tokens.add(-1.0, [None])
    assert (len(tokens), tokens.size) == (0, 0)
