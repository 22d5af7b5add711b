"""A stream judged at once has the verdict of its last step."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import demur
from demur.detectors.reason import Reason
from demur.monitor.engine import Conduct, Engine
from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation, observe
from demur.monitor.sequence import assess_sequence
from demur.monitor.verdicts import Action
from tests.service.bundles import row_bundle, stream_bundle

LOADED = Loaded.open(stream_bundle())


def observation(values):
    return observe(LOADED.widths, {"token_logprob": np.array(values, np.float32).reshape(-1, 1)})


VALUE = st.floats(-6, 0, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.5])


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUE, min_size=1, max_size=40))
def test_it_equals_the_last_of_single_steps(values):
    monitor = demur.Monitor(Engine(LOADED))
    with monitor.open_stream() as stream:
        steps = [stream.step(token_logprob=np.array([[v]], np.float32)) for v in values]
    monitor.close()
    found = assess_sequence(Engine(LOADED), observation(values))
    for name in ("accept", "reason_bits", "rule_hits", "scores", "p_values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(steps[-1], name))
    assert list(found.reasons) == list(steps[-1].reasons)


def test_one_record_and_one_event_for_the_whole_stream():
    events, records = [], []

    class Log:
        gates = True

        def record(self, loaded, seen, verdicts):
            records.append((seen.request, len(verdicts)))
            return 7, True

    engine = Engine(LOADED, conduct=Conduct("enforce"), recorder=Log(), listeners=[events.append])
    found = assess_sequence(engine, observation([-3.0] * 5))
    assert (found.sequence, len(events), records) == (7, 1, [("", 1)])
    assert found.actions.tolist() == [Action.BLOCK]


def test_too_late_no_steps_a_cause_and_a_broken_graph():
    engine = Engine(LOADED)
    late = assess_sequence(engine, observation([-1.0]), deadline=perf_counter() - 1)
    assert "not in time" in late.cause
    nothing = assess_sequence(engine, Observation({"token_logprob": np.zeros((0, 1), np.float32)}, 0))
    said = assess_sequence(engine, Observation({}, 1, cause="because"))
    missing = assess_sequence(engine, Observation({}, 1, missing=("token_logprob",)))
    for found, cause in ((nothing, "no steps"), (said, "because"), (missing, "missing signal")):
        assert found.accept.tolist() == [False]
        assert found.reason_bits.tolist() == [Reason.UNAVAILABLE]
        assert cause in found.cause
    broken = Loaded.open(stream_bundle())
    broken.session.run_columns = None
    assert "graph failed" in assess_sequence(Engine(broken), observation([-1.0])).cause


def test_a_budget_ends_a_long_stream():
    engine = Engine(LOADED, conduct=Conduct(budget_seconds=1e-4))
    found = assess_sequence(engine, observation([-1.0] * 20_000))
    assert "not in time" in found.cause


def test_a_monitor_of_rows_is_refused():
    with pytest.raises(InvalidObservation, match="judges rows"):
        assess_sequence(Engine(Loaded.open(row_bundle())), observation([-1.0]))
