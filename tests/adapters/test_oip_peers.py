"""Beside the public protocol's own client: `make test-peers` runs this where tritonclient is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

PEERS = ("tritonclient.grpc", "demur.adapters.servers.oip")


@pytest.mark.peers
@pytest.mark.parametrize("order", [PEERS, PEERS[::-1]], ids=["theirs first", "ours first"])
def test_both_load_in_one_process_in_either_order(order):
    program = "; ".join(f"import {name}" for name in order) + "; print('both')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "both", done.stderr


@pytest.mark.peers
def test_tritonclient_gets_the_same_answer_through_the_proxy():
    """A process of its own: tritonclient's stubs and ours must not have met before."""
    program = """
import numpy as np, grpc
from concurrent import futures
from pathlib import Path
import tritonclient.grpc as triton
import demur
from demur.adapters.servers.oip import OipProxy
from demur.monitor.config.server import ProxyConfig
from demur.monitor.monitor import Monitor
from demur.proto.oip import inference_pb2 as oip

logits = np.arange(8, dtype=np.float32).reshape(2, 4)
answer = oip.ModelInferResponse(model_name="m", model_version="1", id="x")
answer.outputs.add(name="logits", datatype="FP32", shape=[2, 4])
answer.raw_output_contents.append(logits.tobytes())

class Upstream(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda _r, _c: answer.SerializeToString())

server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Upstream(),))
port = server.add_insecure_port("127.0.0.1:0"); server.start()
engine = Monitor.load("tests/golden/sliced.demur").engine
models = {"m": {"monitor": "s", "signals": {"logits": "logits"}}}
proxy = OipProxy(ProxyConfig(listen="127.0.0.1:0", upstream=f"127.0.0.1:{port}", annotate=True, models=models), {"s": engine})
proxy.start()
found = []
for address in (f"127.0.0.1:{port}", proxy.address):
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("image", [2, 3], "FP32"); tensor.set_data_from_numpy(np.zeros((2, 3), np.float32))
        found.append(client.infer("m", [tensor]))
np.testing.assert_array_equal(found[0].as_numpy("logits"), found[1].as_numpy("logits"))
assert set(found[1].get_response().parameters) and all(k.startswith("demur.") for k in found[1].get_response().parameters)
proxy.stop(); server.stop(0)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr
