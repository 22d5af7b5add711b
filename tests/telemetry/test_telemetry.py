import subprocess
import sys
from pathlib import Path

import pytest

from demur.monitor.event import BundleEvent, RefusalEvent
from demur.monitor.telemetry import NoTelemetry, Telemetry, TelemetryConfig, names
from demur.monitor.telemetry.page import render
from demur.monitor.telemetry.sampling import ROOT, Parent, sample

from .events import BUNDLE, event, single

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_page_is_the_table():
    page = Path(__file__).parents[2] / "docs" / "telemetry.md"
    assert page.read_text() == render(), "run: python -m demur.monitor.telemetry.page > docs/telemetry.md"
    assert all(f"`{metric.prometheus}`" in render() for metric in names.METRICS)


def test_names_are_unique_and_ids_are_no_labels():
    assert len({m.name for m in names.METRICS}) == len({m.prometheus for m in names.METRICS}) == len(names.METRICS)
    labels = {a for m in names.METRICS for a in m.attributes}
    assert labels == {
        "monitor", "unit", "decision", "reason", "action", "protocol", "kind", "column", "stage", "bundle", "version", "outcome", "signal",
    }  # fmt: skip
    assert all(list(m.bounds) == sorted(set(m.bounds)) for m in names.METRICS)


def test_importing_is_light():
    code = (
        "import sys, demur.monitor.telemetry as t; t.Telemetry().close(); "
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('opentelemetry', 'prometheus_client', 'grpc', 'google')]; "
        "assert not heavy, heavy; "
        "p = t.Telemetry(t.TelemetryConfig(prometheus_listen='127.0.0.1:0')); p.close(); "
        "assert 'prometheus_client' in sys.modules and 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nobody_listening_is_a_null_object():
    silent = NoTelemetry()
    silent.on_decision(event())
    silent.on_refusal(RefusalEvent("m", "invalid"))
    silent.on_bundle(BundleEvent("m", BUNDLE, 1, accepted=True))
    silent.checkpoint_to_logs(b"")
    silent.watch("demur.ready", dict)
    silent.close()
    methods = {n for n in vars(Telemetry) if not n.startswith("_")} - {"collect"}
    assert methods == {n for n in vars(NoTelemetry) if not n.startswith("_")}


def test_a_broken_event_is_counted_and_never_raised():
    telemetry = Telemetry()
    for hear in (telemetry.on_decision, telemetry.on_refusal, telemetry.on_bundle):
        hear(None)
    telemetry.on_decision(single())
    found = {f.metric.name: f for f in telemetry.collect()}
    assert {p.labels[0]: p.value for p in found["demur.telemetry.errors"].points}["events"] == 3
    assert [p.value for p in found["demur.rows"].points] == [1]


def test_only_supplied_metrics_can_be_watched():
    with pytest.raises(ValueError, match=r"expected one of demur\.audit\.drops"):
        Telemetry().watch("demur.rows", lambda: 1)


@pytest.mark.parametrize("bad", [{"trace_ratio": 1.5}, {"trace_ratio": float("nan")}, {"metrics_interval_seconds": 0}])
def test_configurations_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="expected"):
        TelemetryConfig(**bad)


@pytest.mark.parametrize(
    ("traceparent", "ratio", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", 0.0, Parent(int(TRACE, 16), int(SPAN, 16))),
        (f"00-{TRACE}-{SPAN}-00", 1.0, None),
        (f"00-{TRACE}-{SPAN}-03", 0.0, Parent(int(TRACE, 16), int(SPAN, 16))),
        (f"01-{TRACE}-{SPAN}-01-more", 0.0, Parent(int(TRACE, 16), int(SPAN, 16))),
        (f"00-{TRACE}-{SPAN}-01-more", 0.0, None),
        (f"00-{'0' * 32}-{SPAN}-01", 0.0, None),
        (f"00-{'0' * 32}-{SPAN}-00", 1.0, ROOT),
        (f"ff-{TRACE}-{SPAN}-01", 1.0, ROOT),
        (f"00-{TRACE.upper()}-{SPAN}-01", 0.0, None),
        ("x" * 100_000, 1.0, ROOT),
        ("", 1.0, ROOT),
        ("", 0.0, None),
    ],
)
def test_sampling_follows_the_caller(traceparent, ratio, expected):
    assert sample(traceparent, ratio) == expected


def test_about_one_request_in_a_hundred():
    assert 60 < sum(sample("", 0.01) is ROOT for _ in range(10_000)) < 145
