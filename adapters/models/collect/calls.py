"""Calling a model batch by batch: the next batch is prepared meanwhile, calls that may succeed later are repeated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.dataset import Dataset
from demur.adapters.models.collect.model import Model, Transient
from demur.adapters.models.collect.parts import Parts
from demur.adapters.models.collect.plan import Plan
from demur.adapters.models.collect.signal_reader import SignalReader
from demur.adapters.models.output_adapter import Observed
from demur.monitor.errors import DemurError
from demur.monitor.fit.progress import Tick

INPUT, GROUP = "_input", "_group"  # the dataset's input that a row is, or that it is one of many rows of
STAGE = "collecting"
Feed = dict[str, NDArray[Any]]


class Stopped(DemurError):
    """The model failed midway; what was collected is kept."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is repeated that failed for a passing reason, after pauses of 0.5, 1, 2, ... seconds, at most 10."""

    retries: int = 5
    first_seconds: float = 0.5
    longest_seconds: float = 10.0

    def pauses(self) -> Iterator[float]:
        yield from (min(self.first_seconds * 2**i, self.longest_seconds) for i in range(self.retries))


@dataclass(frozen=True)
class Calls:
    """A model, what its inputs are fed from, and what is read from its outputs."""

    model: Model
    signals: SignalReader
    dataset: Dataset
    plan: Plan
    patience: Patience

    def run(self, parts: Parts, tick: Tick) -> None:
        """Every input of the plan that `parts` does not have yet. Raises: Stopped, with what is kept and how to go on."""
        inputs = len(self.plan.order)
        tick(STAGE, parts.done, inputs)
        try:
            for rows, feed in self._feeds(parts.done):
                parts.append(self._columns(rows, self._answer(feed, len(rows))), len(rows))
                tick(STAGE, parts.done, inputs)
        except DemurError as error:
            raise self._stopped(error, parts, inputs) from error
        finally:
            parts.flush()

    def _feeds(self, done: int) -> Iterator[tuple[NDArray[np.int64], Feed]]:
        """Batches from input `done` on, each prepared while the model works on the one before."""
        order, size = self.plan.order, self.plan.batch
        batches = [order[start : start + size] for start in range(done, len(order), size)]
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(self._feed, batches[0])] if batches else []
            for number, rows in enumerate(batches):
                feed = coming.pop().result()
                if number + 1 < len(batches):
                    coming.append(pool.submit(self._feed, batches[number + 1]))
                yield rows, feed

    def _feed(self, rows: NDArray[np.int64]) -> Feed:
        return {
            tensor.name: self.dataset.read(self.plan.binding[tensor.name], rows, tensor) for tensor in self.plan.specs
        }

    def _answer(self, feed: Feed, rows: int) -> Observed:
        """What a batch shows; a model of fixed batches gets the last one filled up with its last input."""
        fixed = any(tensor.batch is not None for tensor in self.plan.specs)
        short = self.plan.batch - rows if fixed else 0
        if short:
            feed = {name: np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) for name, array in feed.items()}
        observed = self.signals.observe(feed, self._patiently(feed), rows + short)
        return _first(observed, rows) if short else observed

    def _patiently(self, feed: Feed) -> dict[str, NDArray[Any]]:
        for pause in self.patience.pauses():
            try:
                return self.model.run(feed, self.signals.outputs)
            except Transient:
                sleep(pause)
        return self.model.run(feed, self.signals.outputs)

    def _columns(self, rows: NDArray[np.int64], observed: Observed) -> dict[str, NDArray[Any]]:
        if observed.group_id is None:
            return {**observed.signals, INPUT: rows}
        return {**observed.signals, GROUP: rows[observed.group_id]}

    def _stopped(self, error: DemurError, parts: Parts, inputs: int) -> DemurError:
        if parts.done == 0:
            return error
        tried = f" after {self.patience.retries + 1} tries" if isinstance(error, Transient) else ""
        return Stopped(
            f"stopped at input {parts.done:,} of {inputs:,}{tried}: {error}\n"
            f"{parts.done:,} inputs are kept in {parts.folder}; give the same command again to go on from there"
        )


def _first(observed: Observed, inputs: int) -> Observed:
    """What was observed of the first inputs."""
    if observed.group_id is None:
        return Observed({name: array[:inputs] for name, array in observed.signals.items()}, inputs)
    kept = observed.group_id < inputs
    return Observed({name: a[kept] for name, a in observed.signals.items()}, inputs, observed.group_id[kept])
