import threading
from dataclasses import replace

import numpy as np
import pytest

from demur.monitor.event import BundleEvent, RefusalEvent
from demur.monitor.telemetry import names
from demur.monitor.telemetry.accumulators import Accumulators
from demur.monitor.telemetry.shares import RollingShare

from .events import BUNDLE, MIXED, event, policy, repeated, single, verdicts


def points(counts: Accumulators, metric: names.Metric) -> dict:
    found = [f for f in counts.collect() if f.metric is metric]
    return {p.labels: p.value for f in found for p in f.points}


def buckets(counts: Accumulators, metric: names.Metric) -> dict:
    found = [b for f in counts.collect() if f.metric is metric for b in f.buckets]
    assert len({b.labels for b in found}) == len(found)
    return {b.labels: b for b in found}


def filled(metric: names.Metric, bins) -> dict:
    edges = [*metric.bounds, float("inf")]
    return {edges[i]: n for i, n in enumerate(bins.counts) if n}


@pytest.mark.parametrize("times", [1, 40], ids=["one by one", "vectorised"])
def test_exact_counts(times):
    counts = Accumulators()
    counts.on_decision(event(repeated(MIXED, times)))
    assert points(counts, names.VERDICTS) == {
        ("digits", "row", "accept", "none"): times,
        ("digits", "row", "abstain", "novel"): 2 * times,
        ("digits", "row", "abstain", "invalid"): times,
        ("digits", "row", "abstain", "unavailable"): times,
    }
    assert points(counts, names.REASONS) == {
        ("digits", "row", "novel"): 3 * times,
        ("digits", "row", "ambiguous"): times,
        ("digits", "row", "invalid"): times,
        ("digits", "row", "unavailable"): times,
    }
    assert points(counts, names.ACTIONS) == {
        ("digits", "row", "none"): 2 * times,
        ("digits", "row", "block"): 3 * times,
    }
    assert points(counts, names.ROWS) == {("digits",): 5 * times}
    assert points(counts, names.MARGINAL) == {("digits", "row"): times}
    assert points(counts, names.OUT_OF_RANGE) == {("digits",): 2}
    assert points(counts, names.REQUESTS) == {("digits", "grpc"): 1}


@pytest.mark.parametrize("times", [1, 40], ids=["one by one", "vectorised"])
def test_not_finite_is_counted_apart_and_never_binned(times):
    counts = Accumulators()
    counts.on_decision(event(repeated(MIXED, times)))
    assert points(counts, names.NON_FINITE) == {
        ("digits", "row", "energy"): 2 * times,
        ("digits", "row", "knn"): 2 * times,
    }
    scores, p = buckets(counts, names.SCORES), buckets(counts, names.P_VALUES)
    energy = ("digits", "row", "energy")
    assert filled(names.SCORES, scores[energy]) == {-2.0: times, 5.0: 2 * times}
    assert filled(names.P_VALUES, p[energy]) == {0.5: times, 0.05: times, 0.001: times}
    assert p[energy].total == pytest.approx(times * 0.551, rel=1e-6)
    assert p[energy].count == scores[energy].count == 3 * times


def test_the_two_ways_of_binning_agree():
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 40, (400, 2)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[:60, 0] = np.resize(np.array([*names.SCORE_BOUNDS, np.inf, -np.inf, 3.4e38, -0.0]), 60)
    p = rng.random((400, 2)).astype(np.float32)
    p[:16, 1], p[17, 0] = names.P_BOUNDS, np.nan
    bits, hits = rng.integers(0, 256, 400), rng.integers(0, 4, 400)
    whole, slowly = Accumulators(), Accumulators()
    view = policy()
    whole.on_decision(event(verdicts(bits, hits, scores, p, view)))
    for i in range(400):
        part = verdicts(bits[i : i + 1], hits[i : i + 1], scores[i : i + 1], p[i : i + 1], view)
        slowly.on_decision(event(part))
    for metric in (names.SCORES, names.P_VALUES):
        a, b = buckets(whole, metric), buckets(slowly, metric)
        assert {k: v.counts for k, v in a.items()} == {k: v.counts for k, v in b.items()}
        assert {k: v.total for k, v in a.items()} == pytest.approx({k: v.total for k, v in b.items()})
    for metric in (names.VERDICTS, names.REASONS, names.NON_FINITE, names.MARGINAL, names.REFUSED_SHARE):
        assert points(whole, metric) == points(slowly, metric)


def test_durations_by_stage():
    counts = Accumulators()
    counts.on_decision(event())
    counts.on_decision(event(seconds=25.0))
    assert filled(names.DURATION, buckets(counts, names.DURATION)["digits",]) == {0.005: 1, float("inf"): 1}
    stages = buckets(counts, names.STAGE_DURATION)
    assert {k[1] for k in stages} == {"decode", "score", "audit", "other"}
    assert stages["digits", "audit"].total == pytest.approx(0.04)


def test_groups_and_streams_have_their_own_unit():
    view = replace(policy("group"), group_columns=("image",))
    groups = verdicts([1, 0], [1, 0], [[3.0], [1.0]], [[0.01], [0.9]], replace(view, columns=("image",)))
    counts = Accumulators()
    counts.on_decision(event(verdicts([0], [0], [[1.0, 1.0]], [[0.5, 0.5]], view, groups=groups)))
    counts.on_decision(event(verdicts([0], [0], [[1.0, 1.0]], [[0.5, 0.5]], policy("stream", monitor="llm"))))
    assert points(counts, names.VERDICTS) == {
        ("digits", "row", "accept", "none"): 1,
        ("digits", "group", "accept", "none"): 1,
        ("digits", "group", "abstain", "novel"): 1,
        ("llm", "stream", "accept", "none"): 1,
    }
    assert ("digits", "group", "image") in buckets(counts, names.P_VALUES)


def test_names_are_bounded():
    counts = Accumulators(monitor_limit=4)
    for i in range(50):
        counts.on_decision(single(policy(monitor=f"m{i}", columns=tuple(f"c{i}-{j}" for j in range(2)))))
        counts.on_decision(single(policy(monitor="m0", columns=(f"d{i}", f"e{i}"))))
        counts.on_refusal(RefusalEvent(f"guess{i}", "unknown"))
        counts.on_refusal(RefusalEvent(f"m{i}", f"kind{i}", f"protocol{i}"))
    assert set(points(counts, names.ROWS)) == {("m0",), ("m1",), ("m2",), ("m3",), ("other",)}
    assert sum(points(counts, names.ROWS).values()) == 100
    refusals = points(counts, names.REFUSALS)
    assert refusals["other", "unknown", "grpc"] == 50
    assert sum(refusals.values()) == 100
    assert len(refusals) <= 6
    columns = [k for k in buckets(counts, names.SCORES) if k[0] == "m0"]
    assert len(columns) == 65
    assert ("m0", "row", "other") in columns


def test_refused_share_against_the_promise():
    counts = Accumulators()
    counts.on_decision(event())
    # judged: accepted, NOVEL, NOVEL+AMBIGUOUS; the broken row's hit does not count
    assert points(counts, names.REFUSED_SHARE) == {("digits", "row"): pytest.approx(2 / 3)}
    assert points(counts, names.REFUSED_PROMISED) == {("digits", "row"): 0.05}


def test_rolling_share_forgets():
    share = RollingShare()
    assert share.read(1000.0, 0, 0) is None
    assert share.read(1001.0, 5, 10) == 0.5
    for t in range(1010, 3000, 10):
        share.read(float(t), 5, 10)
    assert share.read(3000.0, 5, 10) is None
    assert share.read(3005.0, 6, 14) == 0.25
    assert len(share._marks) < 70


def test_bundle_info_follows_activation():
    counts = Accumulators()
    counts.on_bundle(BundleEvent("digits", BUNDLE, 3, accepted=True))
    counts.on_bundle(BundleEvent("digits", "cd" * 32, 4, accepted=True))
    counts.on_bundle(BundleEvent("digits", "ef" * 32, 2, accepted=False, cause="older"))
    assert points(counts, names.BUNDLE_INFO) == {("digits", "cdcdcdcdcdcd", "4"): 1}
    assert points(counts, names.BUNDLE_CHANGES) == {("digits", "activated"): 2, ("digits", "refused"): 1}


def test_threads_lose_nothing():
    counts, view = Accumulators(), policy()
    batch = event(repeated(verdicts([0, 1], [0, 1], [[1.0, 1.0], [3.0, 1.0]], [[0.5, 0.5], [0.01, 0.5]], view), 30))

    def work():
        for _ in range(150):
            counts.on_decision(single(view))
            counts.on_decision(batch)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        list(counts.collect())
    for thread in threads:
        thread.join()
    assert points(counts, names.ROWS) == {("digits",): 6 * 150 * 61}
    assert sum(points(counts, names.VERDICTS).values()) == 6 * 150 * 61
    assert buckets(counts, names.P_VALUES)["digits", "row", "energy"].count == 6 * 150 * 61
    assert buckets(counts, names.DURATION)["digits",].count == 6 * 300
