"""Scores on an accelerator against their floor: `make bench-gpu`.

The floor of a call is the larger of two times: the bytes that must move (parameters and inputs once, scores once) over the
measured bandwidth of a copy, and the operations of its matrix products over the measured rate of a float32 product.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from demur.detectors.accelerator import for_accelerator
from demur.detectors.compile import compile_scores, serialize
from demur.detectors.cost import cost_of
from demur.monitor.session import EXACT, environment
from tests.gpu import worlds

BATCHES = (1, 64, 4096, 65536)
DEAR = {
    "nnguide": 4096,
    "knn": 4096,
    "lof": 4096,
    "knn_table": 4096,
    "ecod": 4096,
    "copod": 4096,
    "isolation_forest": 4096,
}
ROUNDS, SECONDS = 5, 0.15


def session(model: bytes, provider: str, threads: int = 0) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers: list[Any] = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    if provider in EXACT:
        providers[0], model = (provider, EXACT[provider]), for_accelerator(model)
    made = ort.InferenceSession(model, options, providers=providers)
    assert made.get_providers()[0] == provider, made.get_providers()
    return made


def seconds(call: Callable[[], object]) -> float:
    """Of one call: the median of a round, the quietest of a few rounds."""
    call()
    began = time.perf_counter()
    call()
    once = time.perf_counter() - began
    repeats = int(np.clip(SECONDS / once, 3, 300))
    best = np.inf
    for _ in range(ROUNDS if once < SECONDS else 1):
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        best = min(best, float(np.median(times)))
    return best


def resident(made: ort.InferenceSession, feed: dict[str, np.ndarray], device: str) -> Callable[[], object]:
    """A call whose inputs and outputs stay in the device's memory, ended when the device has ended."""
    bound = made.io_binding()
    held = {name: ort.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in feed.items()}
    for name, value in held.items():
        bound.bind_ortvalue_input(name, value)
    bound.bind_output("scores", device, 0)

    def call() -> object:
        made.run_with_iobinding(bound)
        bound.synchronize_outputs()
        return held

    return call


def ceilings(provider: str, device: str) -> tuple[float, float]:
    """Bytes a second of a large elementwise pass, read plus written; multiply-adds a second of a float32 product."""
    rows, width = 1 << 18, 1024
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", width])
    passed = model_of([helper.make_node("Neg", ["x"], ["scores"])], [x], [y])
    copy = seconds(resident(session(passed, provider), {"x": np.ones((rows, width), np.float32)}, device))
    side = 8192 if device == "cuda" else 1024
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, [side, side], np.ones(side * side, np.float32).tobytes(), raw=True
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", side]) for n in ("x", "scores"))
    product = model_of([helper.make_node("MatMul", ["x", "w"], ["scores"])], [x], [y], [weight])
    square = np.random.default_rng(0).standard_normal((side, side), np.float32)
    matmul = seconds(resident(session(product, provider), {"x": square}, device))
    return 2 * rows * width * 4 / copy, side**3 / matmul


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def off_device(model: bytes, feed: dict[str, np.ndarray], provider: str) -> int:
    """How many nodes ran on the CPU, copies between the two included."""
    options = ort.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "demur-profile")
    providers: list[Any] = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    made = ort.InferenceSession(model, options, providers=providers)
    made.run(None, feed)
    path = Path(made.end_profiling())
    events = json.loads(path.read_text())
    path.unlink()
    ran = [e["args"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return sum(a.get("provider") != provider or "Memcpy" in a.get("op_name", "") for a in ran)


def measured(name: str, provider: str, device: str, limits: tuple[float, float]) -> list[dict[str, Any]]:
    model = compile_scores({name: worlds.fitted(name)}, worlds.widths(name))
    raw, paid = serialize(model), cost_of(model)
    here, wide, there = (
        session(raw, "CPUExecutionProvider", 1),
        session(raw, "CPUExecutionProvider"),
        session(raw, provider),
    )
    found = []
    strangers = off_device(raw, worlds.sample_rows(name, 64), provider)
    for count in BATCHES:
        if count > DEAR.get(name, max(BATCHES)):
            continue
        feed = worlds.sample_rows(name, count)
        moved = paid.state_bytes + sum(a.nbytes for a in feed.values()) + 4 * count
        floor = {"bytes": moved / limits[0], "operations": count * paid.multiply_adds / limits[1]}
        bound = max(floor, key=floor.__getitem__)
        took = seconds(resident(there, feed, device))
        copied = seconds(lambda f=feed: there.run(None, f))
        row = {
            "score": name,
            "rows": count,
            "device_us": took * 1e6,
            "floor_us": floor[bound] * 1e6,
            "bound": bound,
            "times_floor": took / floor[bound],
            "from_host_us": copied * 1e6,
            "nodes_off_device": strangers,
        }
        if count <= 4096:
            row["cpu_1_thread_us"] = seconds(lambda f=feed: here.run(None, f)) * 1e6
            row["cpu_all_threads_us"] = seconds(lambda f=feed: wide.run(None, f)) * 1e6
        found.append(row)
        print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--provider", default="CUDAExecutionProvider")
    parser.add_argument("--only", nargs="*", default=list(worlds.NAMES))
    parser.add_argument("--seconds", type=float, default=400.0, help="stop adding scores after this long")
    chosen = parser.parse_args()
    device = "cuda" if chosen.provider.startswith("CUDA") else "cpu"
    if hasattr(ort, "preload_dlls") and device == "cuda":
        ort.preload_dlls()
    began = time.perf_counter()
    limits = ceilings(chosen.provider, device)
    print(f"bandwidth {limits[0] / 1e12:.2f} TB/s, float32 products {2 * limits[1] / 1e12:.1f} TFLOP/s", flush=True)
    found: list[dict[str, Any]] = []
    left = []
    for name in chosen.only:
        if time.perf_counter() - began > chosen.seconds:
            left.append(name)
            continue
        found += measured(name, chosen.provider, device, limits)
        said = {"date": datetime.now(UTC).date().isoformat(), "device": _device(), "provider": chosen.provider,
                "environment": dict(environment()), "bytes_per_second": limits[0], "multiply_adds_per_second": limits[1],
                "left_out": left, "measured": found}  # fmt: skip
        chosen.output.parent.mkdir(exist_ok=True, parents=True)
        chosen.output.write_text(json.dumps(said, indent=1) + "\n")


def _device() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


if __name__ == "__main__":
    main()
