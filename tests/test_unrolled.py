"""Many steps of a stream in one run: the bits are those of stepping, or it is not used."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.detectors.compile import serialize
from demur.detectors.policy import Column
from demur.detectors.scores import STREAM_SCORES
from demur.detectors.scores.stream import EntropyInterval, MeanNLL
from demur.detectors.stream import compile_stream, state_size
from demur.monitor.engine import Engine
from demur.monitor.loaded import Loaded
from demur.monitor.observation import observe
from demur.monitor.sequence import LOOK_EVERY, STRIDE, assess_sequence
from demur.monitor.session import Session
from demur.monitor.unrolled import unrolled
from tests.service.bundles import stream_bundle

LOADED = Loaded.open(stream_bundle())
WIDTHS = {"token_logprob": 1, "topk_logprobs": 5, "topk_mask": 5}


SCORES = {
    "mean_nll": MeanNLL(),
    "entropy_interval": EntropyInterval("lower", 100),
    "entropy_interval, upper": EntropyInterval("upper", 100),
}


def test_every_score_of_streams_is_here():
    assert {type(s) for s in SCORES.values()} == set(STREAM_SCORES.values())


def graph_of(name: str) -> tuple[bytes, int, dict[str, int]]:
    score = SCORES[name]
    columns = [Column(name, name, unit="stream", calibration=(np.linspace(0, 3, 31, dtype=np.float32),))]
    widths = {s: WIDTHS[s] for s in score.inputs}
    return serialize(compile_stream({name: score}, columns, [], widths)), state_size({name: score}, columns), widths


def stepped(session: Session, size: int, signals: dict[str, np.ndarray]) -> np.ndarray:
    state = np.zeros((1, size), np.float32)
    for i in range(len(next(iter(signals.values())))):
        state = session.run({"state": state} | {n: a[i : i + 1] for n, a in signals.items()})["next_state"]
    return state


VALUE = st.floats(-9, 1, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, 1e-40, 0.0, -0.0])


@pytest.mark.parametrize("name", sorted(SCORES))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_score_has_the_state_of_its_single_steps(name, data):
    graph, size, widths = graph_of(name)
    session = Session(graph)
    whole = unrolled(graph, session, widths, size)
    assert whole is not None
    length = data.draw(st.integers(1, 30))
    signals = {
        n: np.array(data.draw(st.lists(VALUE, min_size=length * w, max_size=length * w)), np.float32).reshape(length, w)
        for n, w in widths.items()
    }
    state = np.zeros((1, size), np.float32)
    parts = [slice(0, length // 2), slice(length // 2, length)]  # from a state on that is not the first
    for part in parts[length // 2 == 0 :]:
        state = whole.state_after(state, {n: a[part] for n, a in signals.items()})
    np.testing.assert_array_equal(state.view(np.uint32), stepped(session, size, signals).view(np.uint32))


@pytest.mark.parametrize("length", [1, LOOK_EVERY, LOOK_EVERY + 1, STRIDE, STRIDE + 1, 2 * STRIDE + 2])
def test_verdicts_are_the_same_with_and_without(length):
    values = np.random.default_rng(length).uniform(-4, 0, (length, 1)).astype(np.float32)
    single = Loaded.open(stream_bundle())
    single.__dict__["unrolled"] = None
    seen = observe(LOADED.widths, {"token_logprob": values})
    one, other = assess_sequence(Engine(LOADED), seen), assess_sequence(Engine(single), seen)
    for name in ("accept", "reason_bits", "rule_hits", "scores", "p_values"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_other_bits_are_not_used(caplog):
    """A graph whose state is not what stepping gives."""
    graph, size, widths = graph_of("mean_nll")
    model = onnx.load_from_string(graph)
    first = next(n for n in model.graph.node if n.op_type == "Neg")
    first.op_type = "Identity"
    assert unrolled(model.SerializeToString(), Session(graph), widths, size) is None
    assert "step by step" in caplog.text


def test_a_graph_without_a_walk_is_stepped(caplog):
    graph, size, widths = graph_of("mean_nll")
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = "const.1.0" if name == "token_logprob" else name
    assert unrolled(model.SerializeToString(), Session(graph), widths, size) is None
    assert "cannot be unrolled" in caplog.text


def test_operators_that_are_not_by_row_stay_in_the_walk():
    """The step number of each row alone, by Shape: over all rows at once it would be another number."""
    graph, size, widths = graph_of("mean_nll")
    model = onnx.load_from_string(graph)
    neg = next(n for n in model.graph.node if n.op_type == "Neg")
    made = [
        onnx.helper.make_node("Shape", [neg.output[0]], ["t.shape"], end=1),
        onnx.helper.make_node("Cast", ["t.shape"], ["t.rows"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [neg.output[0], "t.rows"], ["t.scaled"]),
    ]
    for node in model.graph.node:
        if node is not neg:
            for place, name in enumerate(node.input):
                node.input[place] = "t.scaled" if name == neg.output[0] else name
    at = list(model.graph.node).index(neg) + 1
    nodes = [*model.graph.node[:at], *made, *model.graph.node[at:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    changed = model.SerializeToString()
    session = Session(changed)
    whole = unrolled(changed, session, widths, size)
    assert whole is not None
    signals = {"token_logprob": np.array([[-1.0], [-3.0], [-2.0]], np.float32)}
    np.testing.assert_array_equal(
        whole.state_after(np.zeros((1, size), np.float32), signals), stepped(session, size, signals)
    )
