# ruff: noqa: T201
"""What somebody's application might be: it asks an inference server for predictions and prints them. It knows no demur.

    python client.py grpc|http HOST:PORT images.npy [rows in a request]

Standard output: one prediction a line, or what the server said instead. Standard error: milliseconds a request.
"""

from __future__ import annotations

import importlib
import sys
import time

import numpy as np
from tritonclient.utils import InferenceServerException

protocol, address, path, *rest = sys.argv[1:]
triton = importlib.import_module(f"tritonclient.{protocol}")
images, rows, times = np.load(path), int(rest[0]) if rest else 4, []
with triton.InferenceServerClient(address) as client:
    for start in range(0, len(images), rows):
        part = np.ascontiguousarray(images[start : start + rows])
        tensor = triton.InferInput("image", list(part.shape), "FP32")
        tensor.set_data_from_numpy(part, **({"binary_data": False} if protocol == "http" else {}))
        flag = {"binary_data": False} if protocol == "http" else {}
        began = time.perf_counter()
        try:
            answer = client.infer("digits", [tensor], outputs=[triton.InferRequestedOutput("predict", **flag)])
            print(*answer.as_numpy("predict").ravel().tolist(), sep="\n", flush=True)
        except InferenceServerException as error:
            print(f"error {error.status()}: {error.message()}", flush=True)
        times.append((time.perf_counter() - began) * 1e3)
print(f"{np.median(times):.2f}", file=sys.stderr)
