"""What a run consists of: which inputs in which order and batches, and what must stay the same for it to be continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur import __version__
from demur.adapters.models.collect.dataset import Dataset, bind
from demur.adapters.models.collect.model import Model
from demur.adapters.models.collect.pixels import Pixels
from demur.adapters.models.collect.signal_reader import SignalReader
from demur.adapters.models.collect.tensor_spec import TensorSpec, one_of
from demur.monitor.errors import ConfigurationError

BATCH = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """Which inputs, how many in a call: `limit` takes the first, of an order shuffled by `seed` when `shuffle`."""

    batch: int | None = None
    limit: int | None = None
    shuffle: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Plan:
    """Inputs of the model, the column that feeds each, positions in the dataset in order, inputs in a call."""

    specs: tuple[TensorSpec, ...]
    binding: Mapping[str, str]
    order: NDArray[np.int64]
    batch: int
    groups: NDArray[Any]
    manifest: Mapping[str, Any]


def planned(
    model: Model, signals: SignalReader, dataset: Dataset, inputs: Mapping[str, str], choice: Choice, pixels: Pixels
) -> Plan:
    """Raises: ConfigurationError when model, dataset and options do not belong together."""
    specs = model.inputs or tuple(TensorSpec(name) for name in inputs)
    if not specs:
        raise ConfigurationError(
            "the server does not say which inputs the model has; name them with --input NAME=COLUMN"
        )
    binding = bind(specs, dataset, inputs)
    if absent := [name for places in signals.inputs.values() for name in places if name not in binding]:
        raise ConfigurationError(f"signal map: no input is named {absent[0]}; the model has {one_of(binding)}")
    order = _order(len(dataset), choice, dataset.where)
    batch = _batch(specs, choice.batch, len(order))
    groups = dataset.known.get("group_id")
    manifest = {
        "demur": __version__,
        "model": dict(model.identity()),
        "map": _digest({**signals.document, "head": {n: a.tolist() for n, a in signals.head.items()}}),
        "dataset": dataset.digest(np.sort(order)),
        "options": {**asdict(choice), "batch": batch, "inputs": binding},
        "pixels": asdict(pixels),
    }
    return Plan(specs, binding, order, batch, order if groups is None else groups[order], manifest)


def _order(rows: int, choice: Choice, where: str) -> NDArray[np.int64]:
    if rows == 0:
        raise ConfigurationError(f"{where}: expected at least one input, got none")
    order = np.random.default_rng(choice.seed).permutation(rows) if choice.shuffle else np.arange(rows)
    return order[: choice.limit].astype(np.int64)


def _batch(specs: Sequence[TensorSpec], asked: int | None, rows: int) -> int:
    fixed = {tensor.batch for tensor in specs if tensor.batch is not None}
    if len(fixed) > 1:
        listed = "; ".join(map(str, specs))
        raise ConfigurationError(f"inputs of unequal batch sizes: {listed}; demur needs one for all")
    if not fixed:
        return min(asked or BATCH, rows)
    size = fixed.pop()
    if asked not in (None, size):
        raise ConfigurationError(f"--batch {asked}: the model takes batches of {size} only; leave --batch out")
    return size


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()
