"""What instrumenting a model gives, and the files it is written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from demur.adapters.models.graph_file import ModelFile, npz
from demur.monitor.bundle.archive import install
from demur.monitor.config.signal_map import SignalMapConfig


@dataclass(frozen=True)
class Found:
    """One signal: its name, its output's name, the tensor it shows, its shape (names for dynamic axes), its dtype, and why this one."""

    signal: str
    output: str
    tensor: str
    shape: tuple[int | str, ...]
    dtype: str
    why: str
    mapped: bool


@dataclass(frozen=True, eq=False)
class Instrumented:
    """A model with more outputs, and what they are.

    `moved`: the largest change of the model's own outputs over the inputs `tried`; 0.0 says equal to the last bit.
    head_weight (C, D), head_bias (C,) float32 or None; `head_error` is the relative error of the head on these inputs.
    `maps`: a detector's feature maps and their strides in pixels. `notes`: what a person should know.
    """

    file: ModelFile
    signals: SignalMapConfig
    found: tuple[Found, ...]
    head_weight: NDArray[np.float32] | None
    head_bias: NDArray[np.float32] | None
    head_error: float
    moved: float
    tried: int
    maps: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def model(self) -> onnx.ModelProto:
        """The instrumented graph."""
        return self.file.model

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write `model.instrumented.onnx`, `model.signals.yaml` and, with a head, `model.head.npz`; gives the paths.

        The latter two lie beside the model and share its name. External weights stay external, and are copied when
        the folder is another one.
        Raises: ConfigurationError, BundleError when something cannot be written.
        """
        model = Path(path)
        stem = model.name.removesuffix(".onnx").removesuffix(".instrumented")
        signals, head = model.with_name(f"{stem}.signals.yaml"), model.with_name(f"{stem}.head.npz")
        self.file.write(model)
        written = [model, signals]
        mapped = self.signals
        if self.head_weight is not None and self.head_bias is not None:
            install(head, npz(head_weight=self.head_weight, head_bias=self.head_bias))
            mapped = mapped.model_copy(update={"head": Path(head.name)})
            written.append(head)
        install(signals, self._document(mapped).encode())
        return tuple(written)

    def _document(self, mapped: SignalMapConfig) -> str:
        head = "".join(f"# {f.signal}: {' x '.join(map(str, f.shape))} {f.dtype}, {f.why}\n" for f in self.found)
        body = yaml.safe_dump(mapped.model_dump(mode="json", exclude_defaults=True) or {"signals": {}}, sort_keys=False)
        maps = f"# detection:\n#   regions: {{maps: {dict(self.maps)}}}\n" if self.maps else ""
        return f"# Written by `demur instrument`.\n{head}{body}{maps}"
