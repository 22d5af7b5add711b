"""Token streams: one promise per stream, batched steps, bounded state."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import demur
from demur.detectors.reason import Reason
from demur.monitor.engine import Conduct
from demur.monitor.errors import InvalidObservation, Overloaded
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.table import SignalsTable
from demur.monitor.observation import observe
from demur.monitor.streams import StreamPool

POLICY = {
    "monitor": "tokens",
    "signals": {"token_logprob": 1},
    "scores": ["mean_nll"],
    "rules": [{"unfamiliar": {"when": "mean_nll", "unit": "stream", "promise": {"refuse_good_at_most": 0.1}}}],
}


def tokens(streams, steps, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    logprob = -rng.gamma(2.0, 0.5 * scale, (streams, steps)).astype(np.float32)
    return {"token_logprob": logprob.reshape(-1, 1), "group_id": np.repeat(np.arange(streams), steps)}


@pytest.fixture(scope="module")
def monitor():
    return demur.Monitor.of(demur.fit(POLICY, reference=tokens(50, 20, 1), calibration=tokens(400, 20, 2)))


def run(monitor, rows):
    with monitor.open_stream() as stream:
        return [stream.step(token_logprob=row.reshape(1, 1)) for row in rows]


def test_the_promise_is_about_whole_streams(monitor):
    statement = monitor.bundle.manifest.rules[0].statement
    assert "n = 400 streams" in statement
    ever = [
        any(not v.accept[0] for v in run(monitor, -np.random.default_rng(s).gamma(2, 0.5, 20).astype(np.float32)))
        for s in range(300)
    ]
    assert np.mean(ever) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300) + 0.05  # the calibration draw's own error on top


def test_unlikely_tokens_are_refused_and_stay_refused(monitor):
    verdicts = run(monitor, np.array([-1, -1, -50, -1, -1], np.float32))
    assert [bool(v.accept[0]) for v in verdicts] == [verdicts[0].accept[0], verdicts[1].accept[0], False, False, False]
    assert verdicts[2].kinds(0) == Reason.NOVEL
    assert "unfamiliar" in verdicts[4].reasons[0][0]


def test_the_running_score_is_the_mean(monitor):
    rows = -np.abs(np.random.default_rng(3).normal(size=12)).astype(np.float32)
    scores = [v.scores[0, 0] for v in run(monitor, rows)]
    np.testing.assert_allclose(scores, np.cumsum(-rows.astype(float)) / np.arange(1, 13), rtol=1e-5)


def test_a_broken_step_does_not_move_the_state_and_latches(monitor):
    verdicts = run(monitor, np.array([-1.0, np.nan, -1.0], np.float32))
    assert verdicts[1].kinds(0) & Reason.INVALID
    assert verdicts[2].kinds(0) & Reason.UNAVAILABLE
    assert verdicts[2].scores[0, 0] == pytest.approx(1.0)
    assert not verdicts[2].accept[0]


def test_concurrent_streams_are_scored_together_and_apart(monitor):
    pool = StreamPool(monitor.engine)
    rows = [-np.random.default_rng(s).gamma(2, 0.5, 30).astype(np.float32) for s in range(24)]
    alone = [[v.scores[0, 0] for v in run(monitor, r)] for r in rows]
    batches = []
    session = monitor.engine.loaded.session
    original, found = session.run_columns, [[] for _ in rows]

    def counted(feed):
        batches.append(len(feed["state"]))
        return original(feed)

    session.run_columns = counted
    try:
        streams = [pool.open() for _ in rows]
        for t in range(30):
            futures = [
                s.step(observe({"token_logprob": 1}, {"token_logprob": r[t].reshape(1, 1)}))
                for s, r in zip(streams, rows, strict=True)
            ]
            for place, future in zip(found, futures, strict=True):
                place.append(future.result(5).scores[0, 0])
    finally:
        session.run_columns = original
        pool.close()
    np.testing.assert_array_equal(found, alone)
    assert max(batches) > 1
    assert sum(batches) == 24 * 30


def test_steps_of_one_stream_keep_their_order(monitor):
    pool = StreamPool(monitor.engine)
    stream = pool.open()
    rows = -np.arange(1, 65, dtype=np.float32)
    futures = [stream.step(observe({"token_logprob": 1}, {"token_logprob": r.reshape(1, 1)})) for r in rows]
    means = [f.result(5).scores[0, 0] for f in futures]
    np.testing.assert_allclose(means, np.cumsum(-rows) / np.arange(1, 65), rtol=1e-5)
    pool.close()


def test_streams_are_bounded_and_expire(monitor):
    pool = StreamPool(monitor.engine, capacity=2, idle_seconds=0.05)
    first = pool.open()
    pool.open()
    with pytest.raises(Overloaded, match=r"limits.streams"):
        pool.open()
    until = time.monotonic() + 5
    while pool.live and time.monotonic() < until:
        time.sleep(0.02)
    assert pool.live == 0
    with pytest.raises(InvalidObservation, match="idle"):
        first.step(observe({"token_logprob": 1}, {"token_logprob": np.zeros((1, 1), np.float32)}))
    pool.open()
    pool.close()


def test_a_missing_signal_or_a_spent_budget_makes_the_stream_incomplete(monitor):
    pool = StreamPool(monitor.engine)
    stream = pool.open()
    missing = stream.step(observe({"token_logprob": 1, "other": 1}, {"other": np.zeros((1, 1), np.float32)})).result(5)
    assert missing.kinds(0) == Reason.UNAVAILABLE
    assert "missing signal" in missing.reasons[0][0]
    after = stream.step(observe({"token_logprob": 1}, {"token_logprob": np.full((1, 1), -1, np.float32)})).result(5)
    assert after.kinds(0) & Reason.UNAVAILABLE
    late = stream.step(
        observe({"token_logprob": 1}, {"token_logprob": np.full((1, 1), -1, np.float32)}), deadline=0.0
    ).result(5)
    assert "not in time" in late.reasons[0][0]
    pool.close()


def test_a_stream_keeps_the_bundle_it_began_with(monitor):
    other = demur.calibrate(monitor.bundle, config={**POLICY, "version": 2})
    engine = demur.Monitor.of(monitor.bundle, conduct=Conduct()).engine
    pool = StreamPool(engine)
    stream = pool.open()
    engine.activate(demur.Monitor.of(other).engine.loaded)
    step = observe({"token_logprob": 1}, {"token_logprob": np.full((1, 1), -1, np.float32)})
    assert stream.step(step).result(5).policy.version == 1
    assert pool.open().step(step).result(5).policy.version == 2
    pool.close()


def test_the_worker_survives_a_failing_graph(monitor):
    pool = StreamPool(monitor.engine)
    session = monitor.engine.loaded.session
    original = session.run_columns

    def broken(feed):
        raise RuntimeError("no")

    step = observe({"token_logprob": 1}, {"token_logprob": np.full((1, 1), -1, np.float32)})
    stream = pool.open()
    session.run_columns = broken
    try:
        assert stream.step(step).result(5).kinds(0) == Reason.UNAVAILABLE
    finally:
        session.run_columns = original
    after = stream.step(step).result(5)
    assert after.kinds(0) & Reason.UNAVAILABLE
    assert not after.accept[0]
    assert "earlier step" in after.reasons[0][0]
    assert pool.open().step(step).result(5).accept[0]
    assert threading.active_count() < 50
    pool.close()


def test_a_step_judged_too_late_is_not_accepted(monitor):
    engine = demur.Monitor.of(monitor.bundle, conduct=Conduct(budget_seconds=0.05)).engine
    pool = StreamPool(engine)
    original = engine.loaded.session.run_columns

    def slow(feed):
        time.sleep(0.06)
        return original(feed)

    step = observe({"token_logprob": 1}, {"token_logprob": np.full((1, 1), -1, np.float32)})
    engine.loaded.session.run_columns = slow
    late = pool.open().step(step).result(5)
    assert late.kinds(0) == Reason.UNAVAILABLE
    assert not late.accept[0]
    assert "not in time" in late.reasons[0][0]
    pool.close()


def test_streams_need_to_be_told_apart(monitor):
    rows = tokens(50, 20, 1)
    alone = {"token_logprob": tokens(50, 20, 2)["token_logprob"]}
    with pytest.raises(InvalidObservation, match="group_id"):
        demur.fit(POLICY, reference=rows, calibration=alone)
    with pytest.raises(InvalidObservation, match="group_id"):
        assess_table(monitor, SignalsTable.from_columns(alone, {"token_logprob": 1}))


def test_a_table_of_streams_is_judged_stream_by_stream(monitor):
    rows = tokens(6, 9, 4)
    order = np.random.default_rng(0).permutation(54)
    order = order[np.argsort(order % 9, kind="stable")]  # interleaved, but each stream's steps in their order
    mixed = {n: a[order] for n, a in rows.items()}
    found = assess_table(monitor, SignalsTable.from_columns(mixed, {"token_logprob": 1}))
    for stream in range(6):
        alone = run(monitor, mixed["token_logprob"][mixed["group_id"] == stream].ravel())
        np.testing.assert_array_equal(found.scores[mixed["group_id"] == stream, 0], [v.scores[0, 0] for v in alone])


def test_a_closed_monitor_opens_streams_again(monitor):
    own = demur.Monitor.of(monitor.bundle)
    session = own.open_stream()
    own.close()
    with pytest.raises(InvalidObservation, match="ended"):
        session.step(token_logprob=np.zeros((1, 1), np.float32))
    with own.open_stream() as fresh:
        assert len(fresh.step(token_logprob=np.full((1, 1), -1, np.float32))) == 1
    own.close()
