"""What goes wrong ends for the client as it does at the server itself; what demur withholds ends in its own words."""

from __future__ import annotations

import pytest

from demur.monitor.audit.verify import verify_log
from tests.servers.conftest import Demur
from tests.servers.processes import both, program
from tests.servers.test_same_answers import where

pytestmark = pytest.mark.servers

CASES = [
    ("mlserver", "triton_grpc", "digits", "malformed"),
    ("mlserver", "triton_grpc", "absent", "unknown"),
    ("mlserver", "triton_http", "digits", "malformed"),
    ("mlserver", "triton_http", "absent", "unknown"),
    ("mlserver", "mlserver_stream", "digits", "malformed"),
    ("kserve", "triton_http", "digits", "malformed"),
    ("kserve", "triton_http", "absent", "unknown"),
    ("kserve", "kserve_grpc", "digits", "malformed"),
    ("kserve", "kserve_grpc", "absent", "named"),
    ("kserve", "kserve_rest", "digits", "malformed"),
    ("kserve", "kserve_rest", "absent", "named"),
]


@pytest.mark.parametrize(("server", "name", "model", "way"), CASES, ids=["-".join(c) for c in CASES])
def test_errors_are_the_servers_own(pair, digits, server, name, model, way):
    direct, demur = pair(server)
    before = demur.judged()
    places = (where(direct, name), where(demur.place, name))
    said, through = both(name, places, model, str(digits.images), way)
    assert "error" in said
    assert through == said
    assert demur.judged() == before


def test_an_unmapped_model_answers_and_is_not_judged(pair, digits):
    direct, demur = pair("mlserver")
    before = demur.judged()
    for name in ("triton_grpc", "triton_http"):
        said = program(name, where(direct, name), "plain", str(digits.images), "named")
        assert program(name, where(demur.place, name), "plain", str(digits.images), "named") == said
        assert '"predict"' in said
    assert demur.judged() == before
    assert demur.counted("demur_refusals_total", kind="unmapped") >= 6


@pytest.mark.parametrize(("name", "status"), [("triton_grpc", "FAILED_PRECONDITION"), ("triton_http", "412")])
def test_enforcing_withholds_what_is_not_accepted_and_nothing_else(enforcing, mlserver, digits, name, status):
    said = program(name, where(mlserver, name), "digits", str(digits.images), "named").splitlines()
    lines = program(name, where(enforcing.place, name), "digits", str(digits.images), "named").splitlines()
    pairs = list(zip(said, lines, strict=True))
    refused = [new for old, new in pairs if old != new]
    assert all(line.startswith("error") and status in line and "rows blocked" in line for line in refused)
    assert refused  # the last batch holds an unseen digit alone
    assert len(refused) < 3
    assert lines[2] == said[2]  # the first batch: known digits


def test_the_audit_log_holds_every_verdict_of_both_protocols(kserve, digits):
    demur = Demur(digits, kserve, name="audited")
    program("triton_grpc", demur.place.grpc, "digits", str(digits.images), "named")
    program("kserve_rest", demur.place.rest, "digits", str(digits.images), "named-binary")
    assert sum(demur.judged().values()) == 18
    demur.close()
    report = verify_log(demur.audit)
    assert report.ok
    assert report.size >= 6
