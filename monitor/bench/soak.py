"""Memory of the proxy's process over many calls: unary ones, half of them with outputs to add and take out, and streams."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np

from demur.monitor.bench.material import logits, material
from demur.monitor.bench.process import resident_bytes
from demur.monitor.bench.proxy import MODEL, answering, proxying
from demur.monitor.bench.relay import METHOD, OPTIONS, STREAM_METHOD

CLASSES = 10
IN_FLIGHT = 8
A_STREAM = 20  # requests of one stream, after every block of unary ones
BLOCK = 100
REQUESTS = 200_000


def resident_after(requests: int) -> dict[str, Any]:
    """Resident bytes of the proxy's process after a tenth of the calls, when its pools are full, and after all of them.

    `answers` counts the answers that were as expected: those outputs that the request named, or all.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        with (
            answering(_answer(), folder) as target,
            proxying(material(CLASSES).bundle, folder, target) as (process, at),
        ):
            with grpc.insecure_channel(at, OPTIONS) as channel:
                answers = _calls(channel, requests // 10)
                before = resident_bytes(process.pid)
                answers += _calls(channel, requests - requests // 10)
                after = resident_bytes(process.pid)
    return {
        "requests": requests,
        "answers": answers,
        "resident_megabytes": [round(before / 1e6, 1), round(after / 1e6, 1)],
        "grown_bytes": after - before,
    }


def _calls(channel: grpc.Channel, count: int) -> int:
    infer, stream = channel.unary_unary(METHOD), channel.stream_stream(STREAM_METHOD)
    every, some = _request(()), _request(("label",))
    good, waiting = 0, deque[tuple[Any, int]]()
    for number in range(count):
        if number % BLOCK < A_STREAM:
            if number % BLOCK == 0:
                good += sum(len(part) > 0 for part in stream(iter([some] * min(A_STREAM, count - number))))
            continue
        waiting.append((infer.future((every, some)[number % 2]), (2, 1)[number % 2]))
        if len(waiting) >= IN_FLIGHT:
            good += _as_expected(*waiting.popleft())
    return good + sum(_as_expected(*w) for w in waiting)


def _as_expected(call: Any, outputs: int) -> int:
    from demur.proto.oip.inference_pb2 import ModelInferResponse

    return int(len(ModelInferResponse.FromString(call.result()).outputs) == outputs)


def _request(outputs: tuple[str, ...]) -> bytes:
    from demur.proto.oip.inference_pb2 import ModelInferRequest

    message = ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="image", datatype="FP32", shape=(1, 4))
    message.raw_input_contents.append(bytes(16))
    for name in outputs:
        message.outputs.add(name=name)
    return bytes(message.SerializeToString())


def _answer() -> bytes:
    from demur.proto.oip.inference_pb2 import ModelInferResponse

    message = ModelInferResponse(model_name=MODEL, model_version="1")
    for name, values in (("label", np.zeros(1, np.int64)), ("logits", logits(1, CLASSES, 1)[0])):
        message.outputs.add(name=name, datatype="INT64" if name == "label" else "FP32", shape=values.shape)
        message.raw_output_contents.append(values.tobytes())
    return bytes(message.SerializeToString())


if __name__ == "__main__":
    sys.stdout.write(f"{resident_after(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS)}\n")
