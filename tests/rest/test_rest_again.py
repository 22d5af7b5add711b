"""Further calls of the model, as monitors that look at several views of an input make them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.reading import UnreadableOutputError
from demur.adapters.servers.oip.rest.body import body
from demur.adapters.servers.oip.rest.call import Sent, further_calls
from demur.adapters.servers.oip.rest.reply import RefusedError, Reply
from demur.adapters.servers.oip.rest.request import InferRequest
from tests.rest.conftest import LENGTH, Asked, binary_request, inferred, request
from tests.service.bundles import BAD, GOOD

LIMIT = 1 << 20


def further(content: bytes, headers: dict[str, str], asking: tuple[str, ...] = ()):
    """What calls the model again for this request, and the calls that reached it."""
    seen: list[Asked] = []
    found = InferRequest("digits", "", body(content, headers.get(LENGTH)))
    own = ([(k.encode(), v.encode()) for k, v in headers.items()], content)

    def again(target, fields, sent, seconds):
        seen.append(Asked("POST", target.decode(), [(k.decode(), v.decode()) for k, v in fields], sent))
        answer = inferred(seen[-1])
        return Reply(answer.status, [(k.encode(), v.encode()) for k, v in answer.headers.items()], answer.body)

    call = Sent(
        target=b"/t",
        asked=found.asked(),
        plan=Plan(asking=asking),
        own=own,
        headers=own[0],
        content=content,
        request=found,
    )
    return further_calls(call, again, LIMIT), seen


FORMS = {
    "json": lambda **fields: (json.dumps(request(**fields)).encode(), {}),
    "binary": lambda **fields: binary_request(**fields),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asking", [(), ("scores",)])
def test_the_same_request_with_other_inputs(form, asking):
    content, headers = FORMS[form](outputs=["label"] if asking else None, parameters={"x": 1.5})
    again, seen = further(content, headers, asking)
    other = np.array([BAD, BAD, GOOD], np.float32)
    answer = again({"image": other}, 1.0)
    np.testing.assert_array_equal(answer.tensor("scores").array(LIMIT), other)
    (asked,) = seen
    assert asked.json["parameters"] == {"x": 1.5}
    assert asked.json["id"] == "r-1"
    assert [o["name"] for o in asked.json.get("outputs", [])] == (["label", "scores"] if asking else [])


@pytest.mark.parametrize(("sequence", "kept"), [(0, False), ("", False), (7, True), ("a", True)])
def test_a_request_of_a_sequence_is_not_asked_again(sequence, kept):
    again, seen = further(*FORMS["json"](parameters={"sequence_id": sequence, "sequence_start": True}))
    if kept:
        with pytest.raises(UnreadableOutputError, match="keeps its state"):
            again({"image": np.zeros((1, 4), np.float32)}, None)
    else:
        assert again({"image": np.zeros((1, 4), np.float32)}, None).names == ["label", "scores"]
    assert len(seen) == (not kept)


def test_a_call_that_fails_says_so():
    content, headers = FORMS["json"]()
    again, _ = further(content, headers)
    with pytest.raises(UnreadableOutputError, match="status 400"):
        again({"image": np.zeros((1, 3), np.float32)}, None)
    for error in (RefusedError(502, "no answer"), TimeoutError()):

        def failing(*_, error=error):
            raise error

        call = Sent(
            target=b"/t",
            asked=None,
            plan=Plan(),
            own=([], content),
            headers=[],
            content=content,
            request=InferRequest("m", "", body(content, None)),
        )
        with pytest.raises(UnreadableOutputError, match=r"no answer|not in time"):
            further_calls(call, failing, LIMIT)({"image": np.zeros((1, 4), np.float32)}, 0.1)


def test_a_raw_request_is_never_asked_again():
    found = InferRequest("m", "", body(b"\0" * 16, "0"))
    call = Sent(target=b"/t", asked=None, plan=Plan(), own=([], b""), headers=[], content=b"", request=found)
    assert further_calls(call, lambda *_: None, LIMIT) is None
