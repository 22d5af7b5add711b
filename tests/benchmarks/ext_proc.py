"""What the external processor costs: exchanges through it and through one that only says "continue", in turns.

    python -m tests.benchmarks.ext_proc [--exchanges 400]

Prints milliseconds (p50 of a whole exchange, four messages) and CPU milliseconds of the server for one exchange.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from demur.proto.envoy import external_processor_pb2 as pb

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ROUNDS = 6


def serve_nothing() -> None:
    """A processor that answers "continue" to every message."""

    def process(messages: Any, _: Any) -> Any:
        for message in messages:
            answer = pb.ProcessingResponse()
            getattr(answer, message.WhichOneof("request")).SetInParent()
            yield answer

    server = grpc.server(ThreadPoolExecutor(64), options=(("grpc.max_receive_message_length", 64 << 20),))
    method = grpc.stream_stream_rpc_method_handler(
        process, pb.ProcessingRequest.FromString, pb.ProcessingResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": method})
    server.add_generic_rpc_handlers((handlers,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def serve_demur() -> None:
    """demur's, observing, without audit and telemetry."""
    from demur.adapters.servers.ext_proc import ExtProcServer
    from demur.monitor.config.ext_proc import ExtProcConfig
    from demur.monitor.engine import Engine
    from demur.monitor.loaded import Loaded
    from tests.service.bundles import row_bundle, stream_bundle

    digits = {"monitor": "toy", "signals": {"logits": "scores"}}
    document = {"listen": "127.0.0.1:0", "infer": {"digits": digits}, "completions": {"*": {"monitor": "tokens"}}}
    engines = {"toy": Engine(Loaded.open(row_bundle())), "tokens": Engine(Loaded.open(stream_bundle()))}
    server = ExtProcServer(ExtProcConfig.model_validate(document | {"budget_ms": 10_000}), engines)
    print(server.start().rpartition(":")[2], flush=True)
    time.sleep(3600)


def messages(path: str, request: bytes, answer: bytes, **headers: str) -> list[bytes]:
    """One exchange as Envoy sends it."""
    found = [pb.ProcessingRequest() for _ in range(4)]
    head = {":method": "POST", ":path": path, "content-length": str(len(request)), **headers}
    said = {":status": "200", "content-type": "application/json", "content-length": str(len(answer))}
    found[0].protocol_config.request_body_mode = found[0].protocol_config.response_body_mode = 2
    for message, part, values in ((found[0], "request_headers", head), (found[2], "response_headers", said)):
        for name, value in values.items():
            getattr(message, part).headers.headers.add(key=name, raw_value=value.encode())
    found[1].request_body.body, found[1].request_body.end_of_stream = request, True
    found[3].response_body.body, found[3].response_body.end_of_stream = answer, True
    return [m.SerializeToString() for m in found]


def exchange(stub: Any, raws: list[bytes]) -> None:
    """Each message waits for the answer to the one before."""
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = stub(iter(outbox.get, None))
    for raw in raws:
        outbox.put(raw)
        next(call)
    outbox.put(None)
    for _ in call:
        raise AssertionError("one answer too many")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cases() -> dict[str, list[bytes]]:
    """Small JSON, an image in Triton's binary form, a chat answer of 200 tokens."""
    from tests.ext_proc.conftest import CHAT, GOOD, PATH, ask, choice, completion, infer, scores

    pixels = np.zeros(3 * 224 * 224, "<f4").tobytes()
    image = {
        "name": "image",
        "datatype": "FP32",
        "shape": [1, 3, 224, 224],
        "parameters": {"binary_data_size": len(pixels)},
    }
    text = json.dumps({"inputs": [image]}).encode()
    length = {"inference-header-content-length": str(len(text))}
    return {
        "infer, JSON, N = 1": messages(PATH, infer(), scores(GOOD)),
        "infer, JSON, N = 32": messages(PATH, infer(rows=32), scores(*[GOOD] * 32)),
        "infer, binary 3x224x224": messages(PATH, text + pixels, scores(GOOD), **length),
        "chat, 200 tokens": messages(CHAT, ask(logprobs=True), completion(choice(*[-0.1] * 200))),
        "not judged": messages("/other", b"{}", b"{}")[:1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=400)
    parser.add_argument("--serve", choices=("nothing", "demur"))
    options = parser.parse_args()
    if options.serve:
        (serve_nothing if options.serve == "nothing" else serve_demur)()
        return
    servers = {}
    for name in ("nothing", "demur"):
        command = [sys.executable, "-m", "tests.benchmarks.ext_proc", "--serve", name]
        servers[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ports = {name: int(p.stdout.readline()) for name, p in servers.items() if p.stdout}
        channels = {n: grpc.insecure_channel(f"127.0.0.1:{p}") for n, p in ports.items()}
        stubs = {n: c.stream_stream(PROCESS) for n, c in channels.items()}
        for title, raws in cases().items():
            seconds: dict[str, list[float]] = {n: [] for n in servers}
            spent = dict.fromkeys(servers, 0.0)
            for _ in range(ROUNDS):
                for name, server in servers.items():
                    exchange(stubs[name], raws)
                    before = cpu_seconds(server.pid)
                    for _ in range(options.exchanges // ROUNDS):
                        began = time.perf_counter()
                        exchange(stubs[name], raws)
                        seconds[name].append(time.perf_counter() - began)
                    spent[name] += cpu_seconds(server.pid) - before
            p50 = {n: statistics.median(s) * 1e3 for n, s in seconds.items()}
            cpu = {n: s / len(seconds[n]) * 1e3 for n, s in spent.items()}
            print(
                f"{title:26} p50 {p50['nothing']:6.2f} -> {p50['demur']:6.2f} ms (+{p50['demur'] - p50['nothing']:.2f})   "
                f"CPU {cpu['nothing']:5.2f} -> {cpu['demur']:5.2f} ms ({cpu['demur'] / cpu['nothing']:.2f}x)",
                flush=True,
            )
    finally:
        for server in servers.values():
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()


if __name__ == "__main__":
    main()
