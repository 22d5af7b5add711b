from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.proto.v1 import monitor_pb2 as pb
from tests.service.bundles import BAD, GOOD, group_bundle
from tests.service.conftest import accepted, rows


def test_answers_over_tcp(start, connect, heard):
    server = start()
    answer = connect(server.addresses[0]).Assess(rows([GOOD, BAD], request_id="r1"), timeout=5)
    assert accepted(answer) == [True, False]
    assert list(answer.rows.reasons) == [0, int(Reason.NOVEL)]
    assert list(answer.rows.rule_hits) == [0, 1]
    assert np.frombuffer(answer.rows.scores, "<f4").tolist() == [-5.0, -1.0]
    assert (answer.monitor, answer.request_id, answer.mode) == ("toy", "r1", "observe")
    assert answer.bundle == server.registry.get("toy").engine.loaded.bundle.digest
    assert [(e.protocol, len(e.verdicts)) for e in heard.decisions] == [("grpc", 2)]


def test_answers_over_a_unix_socket_that_only_its_owner_may_use(start, connect, tmp_path):
    path = tmp_path / "demur.sock"
    server = start(listen=[f"unix:{path}", "127.0.0.1:0"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for address in server.addresses:
        assert accepted(connect(address).Assess(rows([GOOD]), timeout=5)) == [True]


def test_the_only_monitor_needs_no_name(start, connect):
    assert connect(start().addresses[0]).Assess(rows([GOOD], monitor=""), timeout=5).monitor == "toy"


def test_groups_in_any_numbering_with_empty_ones_named(start, connect):
    stub = connect(start({"toy": group_bundle()}).addresses[0])
    ids = pb.Tensor(name="group_id", datatype="INT64", shape=[3], raw=np.array([70, -5, 70], "<i8").tobytes())
    answer = stub.Assess(rows([GOOD, BAD, GOOD], group_id=ids, groups=[-5, 9, 70]), timeout=5)
    assert list(answer.group_ids) == [-5, 9, 70]
    assert [bool(b) for b in answer.groups.accept] == [False, False, True]
    assert answer.groups.reasons[1] & Reason.UNAVAILABLE


def test_mode_enforce_tells_what_to_do(start, connect):
    answer = connect(start(monitor={"mode": "enforce"}).addresses[0]).Assess(rows([GOOD, BAD]), timeout=5)
    assert list(answer.rows.actions) == [pb.ACTION_NONE, pb.ACTION_BLOCK]


def test_trace_context_reaches_telemetry(start, connect, heard):
    stub = connect(start().addresses[0])
    stub.Assess(rows([GOOD]), timeout=5, metadata=[("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")])
    assert heard.decisions[0].traceparent.startswith("00-aaaa")


@pytest.mark.parametrize("socket", ["file", "live"])
def test_a_unix_socket_never_replaces_what_is_not_its_own(start, tmp_path, socket):
    from demur.monitor.errors import ConfigurationError

    path = Path(tmp_path / "taken")
    if socket == "file":
        path.write_text("precious")
    else:
        start(listen=[f"unix:{path}"])
    with pytest.raises(ConfigurationError, match="not a socket" if socket == "file" else "another server"):
        start(listen=[f"unix:{path}"])
