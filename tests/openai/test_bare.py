"""Answers without their log-probabilities: `logprobs` null, every other character as it came."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.adapters.servers.oip.rest.document import MalformedError
from demur.adapters.servers.openai import bare

TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"logprobs": 3', '\\"logprobs":', "data: x\n\n"]
)
NUMBERS = st.floats(-30, 0) | st.just(float("nan"))
LOGPROBS = st.none() | st.fixed_dictionaries(
    {
        "content": st.lists(
            st.fixed_dictionaries({"token": TEXT, "logprob": NUMBERS, "top_logprobs": st.just([])}), max_size=3
        )
    }
)
CHOICES = st.lists(st.fixed_dictionaries({"index": st.integers(0, 3), "delta": TEXT, "logprobs": LOGPROBS}), max_size=3)
STYLES = st.sampled_from([(",", ":"), (", ", ": ")])


def without(document: dict) -> dict:
    return document | {"choices": [c | {"logprobs": None} for c in document["choices"]]}


@given(CHOICES, TEXT, STYLES, st.booleans())
def test_a_whole_answer(choices, model, style, plain):
    document = {"model": model, "choices": choices, "usage": {"total_tokens": 3}}
    text = json.dumps(document, separators=style, ensure_ascii=plain)
    assert bare.whole(text) == json.dumps(without(document), separators=style, ensure_ascii=plain)


@given(
    st.lists(st.tuples(CHOICES, TEXT), max_size=3),
    STYLES,
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_events(chunks, style, plain, end, space):
    documents = [{"model": model, "choices": choices} for choices, model in chunks]

    def sse(found):
        lines = ["data:" + " " * space + json.dumps(d, separators=style, ensure_ascii=plain) + end + end for d in found]
        return f": a comment{end}" + "".join(lines) + f"data: [DONE]{end}{end}"

    assert bare.events(sse(documents)) == sse(map(without, documents))


@pytest.mark.parametrize(
    "line",
    [
        'data: {"logprobs": ',
        'data: {"logprobs": }',
        'data: {"logprobs": 1, "logprobs": 2}',
        "data:",
        "event: x",
        'id: {"logprobs": 1}',
        'data: ["logprobs"]',
    ],
)
def test_what_is_no_chunk_stays(line):
    assert bare.events(f"{line}\n\n") == f"{line}\n\n"


def test_a_whole_answer_that_is_none():
    with pytest.raises(MalformedError):
        bare.whole("[]")
