"""Everything a caller can get wrong: a clear status or verdict, and the server serves on."""

from __future__ import annotations

from time import perf_counter

import grpc
import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.service.assessor import Arrival
from demur.monitor.service.status import DeadlinePassed
from demur.proto.v1 import monitor_pb2 as pb
from tests.service.bundles import GOOD, group_bundle, row_bundle, stream_bundle
from tests.service.conftest import accepted, refused, rows, tensor

ONE = np.array([GOOD], np.float32)


def _request(**fields):
    signal = {"name": "logits", "datatype": "FP32", "shape": [1, 4], "raw": ONE.tobytes()} | fields
    return pb.AssessRequest(monitor="toy", signals=[pb.Tensor(**signal)])


REFUSED = {
    "wrong name": (_request(name="logit"), "logit: this monitor has no such signal; expected logits"),
    "wrong width": (_request(shape=[1, 3], raw=bytes(12)), r"logits: expected \(N, 4\) float32"),
    "one dimension": (_request(shape=[4]), r"logits: expected \(N, 4\)"),
    "no shape": (_request(shape=[]), "expected a shape"),
    "wrong dtype": (_request(datatype="INT64", shape=[1, 4], raw=bytes(32)), "expected float32"),
    "unknown dtype": (_request(datatype="FLOAT"), "expected a datatype of FP32"),
    "truncated bytes": (_request(raw=ONE.tobytes()[:-1]), "takes 16 bytes of raw contents, got 15"),
    "too many bytes": (_request(raw=ONE.tobytes() * 2), "got 32"),
    "no bytes": (_request(raw=b""), "got 0"),
    "negative size": (_request(shape=[-1, -4]), "expected a shape of 1 to 8 sizes >= 0"),
    "2 GB claim": (_request(shape=[1 << 14, 1 << 15]), "more than this server's limit"),
    "overflowing claim": (_request(shape=[4, 1 << 62]), "more than this server's limit"),
    "endless rows of nothing": (_request(shape=[1 << 62, 0], raw=b""), "rows are more than"),
    "zero rows": (_request(shape=[0, 4], raw=b""), "at least one row"),
    "no signals": (pb.AssessRequest(monitor="toy"), "at least one row"),
    "sent twice": (pb.AssessRequest(monitor="toy", signals=[tensor("logits", ONE)] * 2), "sent twice"),
    "too few numbers": (_request(raw=b"", fp32=[1.0]), "takes 4 numbers, got 1"),
    "fp32 contents of another type": (_request(raw=b"", fp32=GOOD, datatype="FP64"), "send raw contents"),
    "ids of other rows": (rows([GOOD], ids=["a", "b"]), "ids: expected 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_words(start, connect, heard, case):
    request, words = REFUSED[case]
    stub = connect(start().addresses[0])
    error = refused(lambda: stub.Assess(request, timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(error.details())
    assert [(e.monitor, e.kind) for e in heard.refusals] == [("toy", "invalid")]
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_invalid(start, connect, value):
    answer = connect(start().addresses[0]).Assess(rows([GOOD, [9.0, value, 0, 0]]), timeout=5)
    assert accepted(answer) == [True, False]
    assert answer.rows.reasons[1] & Reason.INVALID


@pytest.mark.parametrize("value", [1e20, -1e20, 3.4e38])
def test_huge_values_are_judged(start, connect, value):
    stub = connect(start().addresses[0])
    answer = stub.Assess(rows([[value, 0, 0, 0], [value] * 4]), timeout=5)
    assert accepted(answer) == [value > 0, value > 0]  # the largest logit decides: 0 < 2 refuses


def test_empty_groups_abstain(start, connect):
    stub = connect(start({"toy": group_bundle()}).addresses[0])
    answer = stub.Assess(pb.AssessRequest(monitor="toy", groups=[1, 2]), timeout=5)
    assert list(answer.group_ids) == [1, 2]
    assert all(r & Reason.UNAVAILABLE for r in answer.groups.reasons)
    for request, words in (
        (rows([GOOD], group_id=tensor("g", np.array([3]), "INT64"), groups=[1, 2]), "not among"),
        (rows([GOOD], group_id=tensor("g", np.array([[3]]), "INT64")), "group_id: expected"),
        (rows([GOOD], group_id=tensor("g", np.array([3.0])), groups=[1, 1]), "takes 4 bytes"),
    ):
        assert words in refused(lambda request=request: stub.Assess(request, timeout=5)).details()


def test_no_group_id_for_a_policy_of_groups_is_unavailable(start, connect):
    answer = connect(start({"toy": group_bundle()}).addresses[0]).Assess(rows([GOOD]), timeout=5)
    assert answer.rows.reasons[0] == Reason.UNAVAILABLE
    assert "group_id is missing" in answer.cause


def test_unknown_monitor_names_the_closest(start, connect, heard):
    stub = connect(start({"digits": row_bundle(), "letters": row_bundle()}).addresses[0])
    error = refused(lambda: stub.Assess(rows([GOOD], monitor="digts"), timeout=5))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "did you mean 'digits'?" in error.details()
    assert [(e.monitor, e.kind) for e in heard.refusals] == [("", "unknown")]  # a stranger's name is no label
    assert "name one" in refused(lambda: stub.Assess(rows([GOOD], monitor=""), timeout=5)).details()
    assert accepted(stub.Assess(rows([GOOD], monitor="letters"), timeout=5)) == [True]


def test_another_model_version_is_unavailable(start, connect):
    stub = connect(start({"toy": row_bundle(model={"name": "m", "version": "7"})}).addresses[0])
    answer = stub.Assess(rows([GOOD], model=pb.ModelIdentity(version="8")), timeout=5)
    assert answer.rows.reasons[0] == Reason.UNAVAILABLE
    assert "model version '8' is not the '7'" in answer.cause
    assert accepted(stub.Assess(rows([GOOD], model=pb.ModelIdentity(version="7")), timeout=5)) == [True]


def test_missing_signal_is_unavailable_where_another_came(start, connect):
    stub = connect(start({"toy": group_bundle()}).addresses[0])
    ids = tensor("group_id", np.zeros(0, np.int64), "INT64")
    answer = stub.Assess(pb.AssessRequest(monitor="toy", group_id=ids, groups=[4]), timeout=5)
    assert answer.groups.reasons[0] & Reason.UNAVAILABLE


def test_malformed_bytes_are_an_argument_error_not_an_internal_one(start, connect, heard):
    address = start().addresses[0]
    with grpc.insecure_channel(address) as channel:
        raw = channel.unary_unary("/demur.v1.MonitorService/Assess")
        for garbage in (b"\xff" * 50, b"\x0a\xff", b"\x12\x05ab"):
            error = refused(lambda garbage=garbage: raw(garbage, timeout=5))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "are not a demur.v1.AssessRequest" in error.details()
        assert (
            refused(lambda: channel.unary_unary("/demur.v1.MonitorService/Nope")(b"", timeout=5)).code()
            is grpc.StatusCode.UNIMPLEMENTED
        )
    assert heard.kinds == ["invalid"] * 3
    assert accepted(connect(address).Assess(rows([GOOD]), timeout=5)) == [True]


def test_a_message_past_the_limit_is_refused_by_size(start, connect):
    stub = connect(start(limits={"message_bytes": 4096}).addresses[0])
    assert refused(lambda: stub.Assess(rows([GOOD] * 1000), timeout=5)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]


def test_more_rows_than_allowed(start, connect):
    stub = connect(start(limits={"rows": 3}).addresses[0])
    assert "limit of 3" in refused(lambda: stub.Assess(rows([GOOD] * 4), timeout=5)).details()
    assert accepted(stub.Assess(rows([GOOD] * 3), timeout=5)) == [True] * 3


def test_a_deadline_already_past_scores_nothing(start, connect, heard):
    """Asked of the assessor: over the wire gRPC may round a timeout of 0 up, and the call has time after all."""
    server = start()
    late = Arrival(perf_counter(), perf_counter() - 1e-3)
    with pytest.raises(DeadlinePassed, match="more time"):
        server._servicer._assessor.assess(rows([GOOD]), late)
    assert heard.decisions == []
    assert accepted(connect(server.addresses[0]).Assess(rows([GOOD]), timeout=5)) == [True]


def test_a_spent_budget_is_unavailable(start, connect):
    answer = connect(start(monitor={"budget_ms": 1e-6}).addresses[0]).Assess(rows([GOOD]), timeout=5)
    assert answer.rows.reasons[0] == Reason.UNAVAILABLE
    assert "not in time" in answer.cause


def test_a_monitor_of_streams_does_not_judge_batches(start, connect):
    stub = connect(start({"toy": stream_bundle()}).addresses[0])
    assert "AssessStream" in refused(lambda: stub.Assess(rows([GOOD]), timeout=5)).details()


def test_a_crash_says_nothing_but_an_id(start, connect, heard, monkeypatch, caplog):
    server = start()

    def crash(*_args, **_kwargs):
        raise RuntimeError("secret path /etc/passwd")

    monkeypatch.setattr(server.registry.get("toy").engine, "assess", crash)
    stub = connect(server.addresses[0])
    error = refused(lambda: stub.Assess(rows([GOOD]), timeout=5))
    number = error.details().split()[2].strip(";")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert number in caplog.text
    assert "secret path" in caplog.text
    monkeypatch.undo()
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]
    assert heard.kinds == ["internal"]


def test_labels_without_a_log_are_refused(start, connect):
    stub = connect(start().addresses[0])
    error = refused(lambda: stub.Label(pb.LabelRequest(monitor="toy", sequence=4), timeout=5))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "audit" in error.details()
    for request in (pb.LabelRequest(monitor="toy"), pb.LabelRequest(monitor="toy", sequence=1, kind="rumour")):
        assert refused(lambda r=request: stub.Label(r, timeout=5)).code() is grpc.StatusCode.INVALID_ARGUMENT
