"""The only door to ONNX Runtime."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import platform
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accelerator import for_accelerator
from demur.monitor.errors import BundleError, ConfigurationError
from demur.monitor.lane import Lane, make_lane, no_lane

CPU = ("CPUExecutionProvider",)


def runtime_conflict() -> str:
    """Why ONNX Runtime cannot be trusted here, or "": the two distributions own the same folder and overwrite each other."""
    both = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            both.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(both) < 2:
        return ""
    return f"{' and '.join(both)} are both installed and overwrite each other's files; uninstall both, then install one"


@functools.cache
def _runtime() -> Any:
    conflict = runtime_conflict()
    if conflict:
        raise ConfigurationError(conflict)
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


MOST_ROWS, PART_ROWS = 512, 256
TABLE_BYTES, TABLE_ROWS = 2**18, 128  # a graph with tables has wide rows between its nodes: 10,000 distances of lof
LANE_WIDTH = 4096  # numbers of a row that are copied in less time than their binding takes
# Products of matrices in 10 bits of mantissa would leave the tolerance of 1e-4.
EXACT: Mapping[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


class Session:
    """One loaded graph. `run` is thread-safe and frees the GIL while the graph runs."""

    def __init__(
        self,
        model: bytes,
        *,
        providers: Sequence[str] = CPU,
        threads: int = 1,
        whole: bool = False,
        weights: Path | None = None,
    ) -> None:
        """`whole`: never cut a batch into parts; for graphs that are no monitors, whose rows may depend on each other.

        `weights`: the folder of a model's external data files; monitors have none.

        Raises: BundleError when the runtime refuses the graph; ConfigurationError when the first provider is not to be had.
        """
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if whole:
            options.log_severity_level = 4  # what fails is raised, and its caller may have tried it on purpose
        if weights is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        if set(providers) & set(EXACT):
            model = for_accelerator(model)
        try:
            self._session = runtime.InferenceSession(model, options, providers=_configured(runtime, providers))
        except ConfigurationError:
            raise
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {runtime.__version__} refuses the graph: {error}. Re-compile it with this version of demur."
            ) from error
        _as_asked(self._session, providers)
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        self._names = list(self.outputs)
        # A group may have rows anywhere in the batch; and an accelerator wants all of its rows at once.
        self._whole = whole or "group_id" in self.inputs or self._session.get_providers()[0] != CPU[0]
        self._call = self._session._sess.run  # noqa: SLF001  InferenceSession.run re-checks names: 4 of 20 µs at N = 1
        self._part = TABLE_ROWS if len(model) > TABLE_BYTES else PART_ROWS
        self._options = runtime.RunOptions()  # made anew for every call without them: 0.4 µs
        self._narrow = not self._whole and self._widest() <= LANE_WIDTH
        self._lanes = threading.local()

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output by name."""
        return dict(zip(self._names, self.run_columns(feed), strict=True))

    def run_columns(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output in the order of `outputs`, without building a dict.

        Many rows go through in parts: rows are independent, so the bits are the same, and what lies between the nodes
        stays in the cache (4,096 rows: ecod 113 to 48 ms, energy 10 to 4 ms) and bounded in memory.
        """
        lane: Lane | None = getattr(self._lanes, "lane", None)
        if lane is not None and (found := lane(feed)) is not None:
            return found
        rows = 0 if self._whole else len(next(iter(feed.values())))  # another's graph may have no inputs, or scalars
        if rows <= MOST_ROWS:
            found = list(self._call(self._names, feed, self._options))
            if rows == 1 and self._narrow and lane is None:
                self._lanes.lane = self._lane(feed, found)
            return found
        parts = [
            self._call(self._names, {n: a[start : start + self._part] for n, a in feed.items()}, self._options)
            for start in range(0, rows, self._part)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _lane(self, feed: Mapping[str, NDArray[Any]], found: list[NDArray[Any]]) -> Lane:
        """INVARIANT: a lane answers what the call by name answered, or is not used: a runtime that copied what it binds would
        give the same verdict for ever.
        """
        outputs = dict(zip(self._names, found, strict=True))
        lane = make_lane(_runtime(), self._session, self._options, feed, outputs)
        again = lane(feed) or []
        return lane if [a.tobytes() for a in again] == [a.tobytes() for a in found] else no_lane

    def _widest(self) -> float:
        """How many numbers a row of all inputs has; inf where that is not static."""
        shapes = [i.shape[1:] for i in self._session.get_inputs()]
        return sum(math.prod(s) if all(isinstance(d, int) for d in s) else math.inf for s in shapes)

    def width(self, name: str) -> int:
        """The last dimension of an input; 0 when it is not static."""
        last = next(i.shape[-1] for i in self._session.get_inputs() if i.name == name)
        return last if isinstance(last, int) else 0

    @property
    def providers(self) -> tuple[str, ...]:
        """What the runtime really uses, in order."""
        return tuple(self._session.get_providers())


def _configured(runtime: Any, providers: Sequence[str]) -> list[Any]:
    """The providers with their options. Raises: ConfigurationError for one that this runtime was built without."""
    known = runtime.get_available_providers()
    absent = [name for name in providers if name not in known]
    if absent:
        raise ConfigurationError(
            f"providers: {', '.join(absent)} is not in this ONNX Runtime, which has {', '.join(known)}; "
            "install the build that has it, or leave it out"
        )
    if set(providers) & set(EXACT) and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # CUDA and cuDNN from their own packages, where they are installed
    return [(name, EXACT[name]) if name in EXACT else name for name in providers]


def _as_asked(session: Any, providers: Sequence[str]) -> None:
    """Raises: ConfigurationError when the first provider asked for could not be loaded: the runtime would use another."""
    used = session.get_providers()
    if used[0] != providers[0]:
        raise ConfigurationError(
            f"providers: {providers[0]} was asked for and cannot be loaded here (no device, driver or libraries), "
            f"ONNX Runtime would use {used[0]}; install what it needs, or name {used[0]} first"
        )


@functools.cache
def environment() -> Mapping[str, str]:
    """What decides the last bits of a score: runtime, provider defaults, CPU feature class, NumPy."""
    return {
        "onnxruntime": str(_runtime().__version__),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu": _cpu_class(),
        "python": platform.python_version(),
    }


@functools.cache
def environment_digest() -> str:
    """SHA-256 of `environment()`, lower-case hex: audit records carry it."""
    return hashlib.sha256(json.dumps(dict(environment()), sort_keys=True).encode()).hexdigest()


def _cpu_class() -> str:
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
        ).split()
    except (OSError, StopIteration):
        return "unknown"
    return (
        "+".join(
            name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve") if name in flags
        )
        or "baseline"
    )
