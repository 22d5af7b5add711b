"""`collect`: a model over a dataset, to one or more signals tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.assemble import Tables, Written
from demur.adapters.models.collect.calls import Calls, Patience
from demur.adapters.models.collect.dataset import Reading, open_dataset
from demur.adapters.models.collect.model import Access, Model, open_model
from demur.adapters.models.collect.parts import Parts
from demur.adapters.models.collect.pixels import Pixels
from demur.adapters.models.collect.plan import Choice, planned
from demur.adapters.models.collect.signal_reader import MapSource, SignalReader, reader
from demur.adapters.models.collect.split import assigned, shares
from demur.adapters.models.collect.streamed import check_target
from demur.adapters.models.collect.summary import Collected
from demur.adapters.models.viewed_model import ViewedModel, asked_of
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.progress import Tick, silent
from demur.monitor.outputs import check_outputs


def collect(
    model: str | Path,
    dataset: str | Path | Mapping[str, Any],
    output: str | Path | Sequence[str | Path],
    *,
    map: MapSource | None = None,  # noqa: A002  the word of the command line
    split: str | Sequence[float] | None = None,
    inputs: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    pixels: Pixels | None = None,
    batch: int | None = None,
    limit: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    access: Access | None = None,
    patience: Patience | None = None,
    restart: bool = False,
    tick: Tick = silent,
) -> Collected:
    """Run a model over a dataset and write the signals of every input.

    `model`: a path of an ONNX file or a URL (`access` names the model there). `dataset`: a table file or mapping of
    input arrays, a folder of images, a CSV. `output`: one path (.npz, .parquet, a folder of .npy), or as many as `split`
    has shares; groups are never cut. `map`: which outputs are which signals; None: those named like signals. `inputs`:
    column of each model input; `columns`: column of each row column. `batch`: inputs in a call (default: what the model
    says, else 32). `limit` takes the first inputs, of the shuffled order when `shuffle`.

    Work is kept in a folder beside the first output while it lasts; the same call continues it, and the tables are the
    same to the byte. A value that is not finite is written as it is.
    Raises: ConfigurationError, TableError, InvalidObservation, BundleError; Stopped when the model fails midway.
    """
    began, looks = monotonic(), pixels or Pixels()
    targets = [Path(path) for path in ([output] if isinstance(output, str | Path) else output)]
    parts_of = _checked(targets, split, [s for s in (model, dataset, map) if isinstance(s, str | Path)])
    source = open_dataset(dataset, _reading(columns or {}, inputs or {}, looks))
    opened, signals = _opened(model, map, access or Access())
    try:
        plan = planned(opened, signals, source, inputs or {}, Choice(batch, limit, shuffle, seed), looks)
        table_of = assigned(plan.groups, parts_of, seed) if len(targets) > 1 else None
        parts = Parts(targets[0].with_name(f".{targets[0].name}.collect"), plan.manifest, restart=restart)
        resumed, calls = parts.done, Calls(opened, signals, source, plan, patience or Patience())
        written = _written(parts, calls, targets, table_of, tick)
    finally:
        opened.close()
    return Collected(tuple(written), len(plan.order), resumed, monotonic() - began, signals.kinds)


def _written(
    parts: Parts, calls: Calls, targets: Sequence[Path], table_of: NDArray[np.int64] | None, tick: Tick
) -> list[Written]:
    """The tables, when every call was answered; the parts stay otherwise."""
    try:
        calls.run(parts, tick)
        said = calls.model.identity()
        tables = Tables(parts.parts, calls.dataset.known, calls.signals, said.get("origin") or said.get("sha256", ""))
        found = tables.write(targets, calls.plan.order, table_of)
        parts.remove()
    finally:
        parts.close()
    return found


def _checked(
    targets: Sequence[Path], split: str | Sequence[float] | None, sources: Sequence[str | Path]
) -> tuple[float, ...]:
    """The share of each table, known to have a place that is none of the sources. Raises: ConfigurationError, TableError."""
    if not targets:
        raise ConfigurationError("expected a path for the table, got none")
    if len({path.resolve() for path in targets}) < len(targets):
        raise ConfigurationError(f"expected a path of its own for each table, got {', '.join(map(str, targets))}")
    for path in targets:
        check_target(path)
    check_outputs(targets, sources)
    return shares(split, len(targets))


def _reading(columns: Mapping[str, str], inputs: Mapping[str, str], looks: Pixels) -> Reading:
    """How the dataset is read; columns that `inputs` names are inputs, whatever they are called."""
    fed = frozenset(part for name in inputs.values() for part in (name, *name.split(",")))
    return Reading(columns, looks, fed)


def _opened(model: str | Path, source: MapSource | None, access: Access) -> tuple[Model, SignalReader]:
    """The model and the reader of its signals; of an ONNX file only the outputs that are read are computed.

    Raises: ConfigurationError when an output is missing.
    """
    signals = None if source is None else reader(source, (), str(model))
    found = _open(model, access, signals)
    try:
        if signals is None:
            signals = reader(None, found.outputs, str(model))
            if set(signals.outputs) != set(found.outputs):
                found.close()
                found = _open(model, access, signals)
        _check_outputs(found, signals, model)
    except BaseException:
        found.close()
        raise
    return found, signals


def _open(model: str | Path, access: Access, signals: SignalReader | None) -> Model:
    if signals is None:
        return open_model(model, access)
    if signals.views is None:
        return open_model(model, access, signals.outputs)
    return ViewedModel(open_model(model, access, asked_of(signals.views, signals.outputs)), signals.views)


def _check_outputs(model: Model, signals: SignalReader, where: str | Path) -> None:
    missing = [name for name in signals.outputs if model.outputs and name not in model.outputs]
    if missing:
        there = ", ".join(model.outputs)
        raise ConfigurationError(f"{where}: expected an output {missing[0]}, the model has {there}; correct the map")
