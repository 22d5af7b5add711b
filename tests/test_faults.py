"""The fault matrix: mode x on_failure x fault x protocol. A fault sets a reason; the operator's choice sets the action; nothing sets ACCEPT."""

from __future__ import annotations

import itertools
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

import demur
from demur.adapters.servers.oip import OipProxy, wire
from demur.adapters.servers.oip.part import part as stream_part
from demur.detectors.reason import Reason
from demur.monitor.config.document import parse
from demur.monitor.config.server import ServerConfig
from demur.monitor.errors import AuditUnavailable
from demur.monitor.service.server import Server
from demur.monitor.verdicts import Action
from demur.proto.oip import inference_pb2 as oip

FAULTS = ("missing_signal", "nan", "crash", "budget", "version", "audit_block", "audit_count")
MODES, CHOICES, PROTOCOLS = ("observe", "enforce"), ("block", "pass"), ("python", "grpc", "oip", "oip-stream")
CELLS = list(itertools.product(MODES, CHOICES, FAULTS, PROTOCOLS))


class Log:
    """An audit log whose disk is gone, under one of the operator's choices."""

    def __init__(self, *, block: bool) -> None:
        self.block = self.gates = block
        self.asked = 0

    def record(self, loaded, observation, verdicts):
        self.asked += 1
        if self.block:
            raise AuditUnavailable("audit log: no space left on device; free the disk")
        return 0, False


@contextmanager
def served(bundle, tmp_path, mode, choice, fault):
    """A real server whose one monitor has the fault; yields it and its engine."""
    path = tmp_path / "toy.demur"
    bundle.save(path)
    monitor = {"name": "toy", "bundle": str(path), "mode": mode, "on_failure": choice}
    if fault == "budget":
        monitor["budget_ms"] = 1e-6
    recorder = Log(block=fault == "audit_block") if fault.startswith("audit") else None
    config = parse(ServerConfig, {"listen": ["127.0.0.1:0"], "monitors": [monitor]}, "test")
    with Server(config, recorder_for=lambda _: recorder) as server:
        engine = next(iter(server.registry)).working()
        if fault == "crash":

            def broken(feed):
                raise RuntimeError("the graph crashed")

            engine.loaded.session.run_columns = broken
        yield server, engine


def faulty(signals, fault):
    part = {n: a[:2].copy() for n, a in signals.items()}
    if fault == "missing_signal":
        del part["features"]
    if fault == "nan":
        part["features"][:, 0] = np.nan
    return part


def expected(mode, choice, fault):
    """(reason that must stand, whether the caller is told to block)."""
    if fault == "audit_count":
        return None, False
    kind = Reason.INVALID if fault == "nan" else Reason.UNAVAILABLE
    return kind, mode == "enforce" and choice == "block"


def check_verdicts(verdicts, mode, choice, fault, *, normal):
    kind, blocks = expected(mode, choice, fault)
    if kind is None:
        np.testing.assert_array_equal(verdicts.accept, normal.accept)
        assert not verdicts.audited
        return
    assert not verdicts.accept.any()
    assert (verdicts.reason_bits & kind != 0).all()
    assert set(verdicts.actions.tolist()) == {int(Action.BLOCK if blocks else Action.NONE)}


def in_process(server, engine, part, version):
    monitor = demur.Monitor(engine)
    return monitor.assess(model={"version": version}, **part)


def over_grpc(server, part, version, choice):
    with demur.Client(server.addresses[0], retries=0, timeout_seconds=10, on_failure=choice) as client:
        return client.assess(monitor="toy", model={"version": version}, **part)


@contextmanager
def upstream(part, version):
    message = oip.ModelInferResponse(model_name="m", model_version=version, id="1")
    for name, array in part.items():
        message.outputs.add(name=name, datatype="FP32", shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    raw = message.SerializeToString()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method.endswith("ModelStreamInfer"):
                return grpc.stream_stream_rpc_method_handler(
                    lambda requests, _context: (wrapped(raw) for _ in requests)
                )
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: raw)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, raw
    finally:
        server.stop(0)


def wrapped(raw):
    """Triton's ModelStreamInferResponse with this answer."""
    return wire.delimited(2, raw)


def over_oip(engine, part, version, *, stream=False):
    """(the answer's bytes, what upstream sent) or a status."""
    with upstream(part, version) as (port, raw):
        mapping = {"m": {"monitor": "toy", "signals": {"logits": "logits", "features": "features"}}}
        document = {
            "listen": ["127.0.0.1:0"],
            "monitors": [{"name": "toy", "bundle": "x"}],
            "proxy": {"listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{port}", "models": mapping},
        }
        proxy = OipProxy(parse(ServerConfig, document, "test").proxy, {"toy": engine})
        proxy.start()
        try:
            with grpc.insecure_channel(proxy.address) as channel:
                request = oip.ModelInferRequest(model_name="m", model_version=version).SerializeToString()
                if stream:
                    talk = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
                    return next(talk(iter([request]), timeout=10)), wrapped(raw)
                call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                return call(request, timeout=10), raw
        finally:
            proxy.stop()


@pytest.mark.parametrize(("mode", "choice", "fault", "protocol"), CELLS, ids=lambda v: v)
def test_every_cell(bundle, signals, tmp_path, mode, choice, fault, protocol):
    normal = demur.Monitor.of(bundle).assess(**faulty(signals, "none"))
    version = "8" if fault == "version" else "7"
    part = faulty(signals, fault)
    kind, blocks = expected(mode, choice, fault)
    with served(bundle, tmp_path, mode, choice, fault) as (server, engine):
        if protocol == "python" and fault == "audit_block":
            with pytest.raises(AuditUnavailable, match="no space left"):
                in_process(server, engine, part, version)
        elif protocol == "python":
            check_verdicts(in_process(server, engine, part, version), mode, choice, fault, normal=normal)
        elif protocol == "grpc":
            unheard = fault == "audit_block"  # a monitor that never answered counts as enforcing
            told = "enforce" if unheard else mode
            check_verdicts(over_grpc(server, part, version, choice), told, choice, fault, normal=normal)
        elif protocol == "oip-stream":
            check_part(*over_oip(engine, part, version, stream=True), mode, kind, normal, fault, blocks=blocks)
        elif (mode == "enforce" and fault == "audit_block") or blocks:
            with pytest.raises(grpc.RpcError) as caught:
                over_oip(engine, part, version)
            assert caught.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE)
            told = dict(caught.value.trailing_metadata())
            assert told["demur-verdict"] == "ABSTAIN"
            assert kind.name in told["demur-reasons"]
        elif mode == "enforce" and fault == "audit_count" and not normal.accept.all():
            with pytest.raises(grpc.RpcError):
                over_oip(engine, part, version)
        else:
            answer, raw = over_oip(engine, part, version)
            assert answer == raw


def check_part(got, sent, mode, kind, normal, fault, *, blocks):
    """A blocked answer of a stream is an error within the stream; any other is what upstream sent."""
    withheld = blocks or (
        mode == "enforce" and (fault == "audit_block" or (fault == "audit_count" and not normal.accept.all()))
    )
    if not withheld:
        assert got == sent
        return
    found = stream_part(got)
    assert found.error.startswith("demur: ")
    assert found.answer is None
    assert found.head.parameters["demur.verdict"].string_param == "ABSTAIN"
    if fault != "audit_count":
        assert kind.name in found.head.parameters["demur.reasons"].string_param


@pytest.mark.parametrize("choice", CHOICES)
def test_a_server_that_is_gone(signals, bundle, tmp_path, choice):
    with served(bundle, tmp_path, "enforce", choice, "none") as (server, _):
        client = demur.Client(server.addresses[0], retries=0, timeout_seconds=2, on_failure=choice)
        assert client.assess(monitor="toy", **faulty(signals, "none")).policy.bundle == bundle.digest
    verdicts = client.assess(monitor="toy", **faulty(signals, "none"))
    assert not verdicts.accept.any()
    assert (verdicts.reason_bits == Reason.UNAVAILABLE).all()
    assert set(verdicts.actions.tolist()) == {int(Action.BLOCK if choice == "block" else Action.NONE)}
    assert sum(client.failures.values()) == 1
    client.close()
