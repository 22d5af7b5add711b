"""Differential: any infer body, valid or not, ends through the proxy as it ends at the server itself."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rest.conftest import LENGTH, Stage

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBER = st.floats(-(2.0**100), 2.0**100, width=32)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OUTPUT = st.sampled_from(["label", "scores"]).flatmap(
    lambda name: st.sampled_from(
        [{}, {"parameters": {"binary_data": True}}, {"parameters": {"binary_data": False}}, {"x": 1}]
    ).map(lambda more: {"name": name, **more})
)
WAYS = st.lists(OUTPUT, max_size=2, unique_by=lambda o: o["name"])


@st.composite
def bodies(draw) -> tuple[bytes, dict[str, str]]:
    """A valid body in either form, in any order of keys, with unknown keys, spaces and escapes, and its headers."""
    values = np.array(draw(st.lists(st.lists(NUMBER, min_size=4, max_size=4), min_size=0, max_size=5)), "<f4").reshape(
        -1, 4
    )
    binary, raw = draw(st.booleans()), b""
    tensor = {
        "name": "image",
        "shape": list(values.shape),
        "datatype": "FP32",
        **draw(st.dictionaries(st.just("zz"), PLAIN, max_size=1)),
    }
    if binary:
        raw = values.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        data = values.astype(np.float64)
        tensor["data"] = (data if draw(st.booleans()) else data.ravel()).tolist()
    document = {"inputs": [tensor], "id": draw(st.text(max_size=5)), "more": draw(PLAIN)}
    if draw(st.booleans()):
        document["outputs"] = draw(WAYS)
    if draw(st.booleans()):
        document["parameters"] = {"binary_data_output": draw(st.booleans())}
    keys = draw(st.permutations(list(document)))
    spaced = draw(st.sampled_from([None, 1, "\t"]))
    text = json.dumps({k: document[k] for k in keys}, ensure_ascii=draw(st.booleans()), indent=spaced)
    head = text.encode("utf-8", "surrogatepass")
    written = {"X-Indent": draw(st.sampled_from("012"))}
    return head + raw, written | ({LENGTH: str(len(head))} if binary or draw(st.booleans()) else {})


@st.composite
def broken(draw) -> tuple[bytes, dict[str, str]]:
    """A body that was cut, changed, or is just bytes."""
    content, headers = draw(bodies())
    how = draw(st.sampled_from(["cut", "changed", "bytes", "length"]))
    if how == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif how == "changed":
        at = draw(st.integers(0, len(content) - 1))
        content = content[:at] + draw(st.binary(max_size=3)) + content[at + 1 :]
    elif how == "bytes":
        content = draw(st.binary(max_size=40))
    else:
        headers = {
            LENGTH: draw(
                st.sampled_from(["0", "-1", "1", "x", "99999999999999999999", "²", str(len(content) + 1)]).filter(
                    str.isascii
                )
            )
        }
    return content, headers


def test_valid_bodies_come_back_as_from_the_server(stage: Stage):
    proxy = stage.proxy()

    @FUZZ
    @given(bodies())
    def check(case):
        content, headers = case
        judged = len(stage.decisions)
        first, second = stage.both(proxy, content=content, headers=headers)
        assert second.status_code == first.status_code
        assert second.content == first.content
        assert second.headers.raw == first.headers.raw
        assert len(stage.decisions) - judged == (first.status_code == 200)
        if first.status_code == 200:
            verdicts = stage.decisions[-1].verdicts
            rows = json.loads(content[: int(headers.get(LENGTH, len(content)))])["inputs"][0]["shape"][0]
            assert verdicts.cause == "" or rows == 0 or not math.isfinite(float(rows))

    check()


def test_malformed_bodies_end_as_at_the_server_or_in_a_clear_400(stage: Stage):
    proxy = stage.proxy()

    @FUZZ
    @given(broken())
    def check(case):
        content, headers = case
        first, second = stage.both(proxy, content=content, headers=headers)
        if second.status_code == first.status_code:
            assert second.content == first.content
        else:
            assert second.status_code in (400, 413)
            assert second.json()["error"].startswith("demur: ")

    check()
