"""One upstream model: which monitor judges it, and which of its outputs are which signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.output_adapter import Observed, OutputAdapter
from demur.adapters.servers.oip import tensors
from demur.adapters.servers.oip.plan import Experience, Plan
from demur.adapters.servers.oip.reading import Again, Answered, Asked, UnreadableOutputError
from demur.monitor.config.decoding import Decoding
from demur.monitor.config.proxied import ProxiedModelConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation, observe


class Gather(Protocol):
    """Signals that an answer does not show: the request's own inputs, or what further calls give (adapters/models/views.py)."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals it supplies."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors it reads."""
        ...

    def __call__(
        self, asked: Asked, answered: Answered, again: Again, seconds: float | None
    ) -> Mapping[str, NDArray[Any]]:
        """Each of them as (N, width), from calls of `again` that end within `seconds` all together.

        Raises: UnreadableOutputError, InvalidObservation with the verdict's cause.
        """
        ...


@dataclass(frozen=True, slots=True)
class Contract:
    """Of one bundle: the upstream output of each signal, those outputs that its scores need, each once, and why the map
    cannot serve it.
    """

    loaded: Loaded
    outputs: Mapping[str, str]
    needed: tuple[str, ...]
    conflict: str = ""


@dataclass(frozen=True, eq=False)
class ProxiedModel:
    """`mapped` names the upstream output tensor of signals, before what the bundle says; an `adapter` reads outputs of its
    own instead. `gather` supplies the signals that need more calls. `rejections` and `unfiltered` remember which versions
    rejected extra outputs, and which send every output whatever is asked for; `unremedied` that a remedy was not possible.
    """

    engine: Engine
    mapped: Mapping[str, str]
    limits: LimitsConfig
    config: ProxiedModelConfig
    adapter: OutputAdapter | None = None
    gather: Gather | None = None
    rejections: Experience = field(default_factory=Experience)
    unfiltered: Experience = field(default_factory=Experience)
    unremedied: Experience = field(default_factory=Experience)
    decoding: Decoding = field(default_factory=lambda: Decoding({}))
    _contracts: list[Contract] = field(default_factory=list)  # of the bundle last used

    def plan(self, asked: Asked) -> Plan:
        """Which outputs to ask for. A client that names none gets, and shows the monitor, all of them, unless the
        configuration says which ones upstream answers then.
        """
        default = self.config.default_outputs
        if not asked.outputs and not default:
            return Plan(self)
        named = {output.name: output.unreadable for output in reversed(asked.outputs)} or dict.fromkeys(default, "")
        needed = self.contract(self.engine.loaded).needed
        for name in needed:
            if named.get(name):
                return Plan(self, cause=f"output {name} {named[name]}")
        missing = tuple(name for name in needed if name not in named)
        if not missing or self.unfiltered.of(asked.version):
            return Plan(self)
        if rejected := self.rejections.of(asked.version):
            return Plan(self, cause=rejected)
        return Plan(self, missing if asked.outputs else (*default, *missing), missing)

    def contract(self, loaded: Loaded) -> Contract:
        """Which outputs this bundle is about: as the configuration says, else the bundle, else the signals' own names."""
        known = next(iter(self._contracts), None)
        if known is None or known.loaded is not loaded:
            outputs = {s.name: self.mapped.get(s.name) or s.output or s.name for s in loaded.manifest.signals}
            supplied = self.gather.signals if self.gather is not None else ()
            read = [n for s, n in outputs.items() if s not in loaded.unread and s not in supplied]
            needed = (*(self.adapter.outputs if self.adapter else read), *self._gathered_from(loaded))
            known = Contract(loaded, outputs, tuple(dict.fromkeys(needed)), loaded.conflict(self.decoding))
            self._contracts[:] = [known]
        return known

    def observe(
        self,
        loaded: Loaded,
        asked: Asked,
        answered: Answered | None,
        *,
        cause: str = "",
        again: Again | None = None,
        seconds: float | None = None,
    ) -> Observation:
        """The signals of this answer, or an observation without signals whose cause says why it cannot be assessed."""
        about: dict[str, Any] = {"request": asked.id, "model": {"name": asked.model, "version": asked.version}}
        try:
            readable = _readable(answered, cause or self.contract(loaded).conflict)
            found = self._observed(loaded, readable)
            signals = dict(found.signals)
            if self.gather is not None:
                signals |= self._gathered(loaded, asked, readable, again, seconds)
            return self._observation(loaded, found, signals, about)
        except (UnreadableOutputError, InvalidObservation) as error:
            shapes = chain(asked.shapes(), answered.shapes() if answered else ())
            # INVARIANT: a claimed batch size allocates nothing that the messages do not pay for
            largest = min(self.limits.rows, asked.size + (answered.size if answered else 0))
            return Observation({}, tensors.claimed_rows(shapes, largest), cause=str(error), **about)

    def _observed(self, loaded: Loaded, answered: Answered) -> Observed:
        if self.adapter is not None:
            limit = self.limits.tensor_bytes
            return self.adapter.observe({n: answered.tensor(n).array(limit) for n in self.adapter.outputs})
        contract = self.contract(loaded)
        signals: dict[str, NDArray[Any]] = {}
        supplied = self.gather.signals if self.gather is not None else ()
        for signal, name in contract.outputs.items():
            if name in contract.needed and signal not in supplied:
                signals[signal] = self._rows(answered, name, loaded.widths[signal])
        rows = len(next(iter(signals.values()))) if signals else 0
        return Observed(signals, rows)

    def _rows(self, answered: Answered, name: str, width: int) -> NDArray[Any]:
        found = tensors.rows(answered.tensor(name), width, self.limits.tensor_bytes)
        if len(found) > self.limits.rows:
            raise UnreadableOutputError(f"output {name}: {len(found)} rows exceed the limit rows = {self.limits.rows}")
        return found

    def _gathers(self, loaded: Loaded) -> bool:
        signals = self.gather.signals if self.gather is not None else ()
        return any(s in loaded.widths and s not in loaded.unread for s in signals)

    def _gathered_from(self, loaded: Loaded) -> tuple[str, ...]:
        return self.gather.outputs if self.gather is not None and self._gathers(loaded) else ()

    def _gathered(
        self, loaded: Loaded, asked: Asked, answered: Answered, again: Again | None, seconds: float | None
    ) -> dict[str, NDArray[Any]]:
        """The place where signals come from further calls, within the client's deadline and the monitor's budget."""
        if self.gather is None or not self._gathers(loaded):
            return {}
        if again is None:
            again = _never
        budget = self.engine.conduct.budget_seconds
        limits = [s for s in (seconds, budget) if s is not None]
        return dict(self.gather(asked, answered, again, min(limits) if limits else None))

    def _observation(
        self, loaded: Loaded, found: Observed, signals: dict[str, NDArray[Any]], about: dict[str, Any]
    ) -> Observation:
        rows = max((len(s) for s in signals.values()), default=0)
        if rows > self.limits.rows or found.groups > self.limits.rows:
            raise UnreadableOutputError(
                f"{rows} rows in {found.groups} groups exceed the limit rows = {self.limits.rows}"
            )
        grouping: dict[str, Any] = {}
        if found.group_id is not None or loaded.grouped:
            alone = found.group_id is None
            ids, groups = (np.arange(rows), rows) if alone else (found.group_id, found.groups)
            grouping = {"group_id": ids, "groups": np.arange(groups)}
            if not rows and not loaded.grouped:
                return Observation({}, 0, cause="the answer holds nothing that this monitor judges by rows", **about)
        return observe(loaded.widths, signals, **grouping, **about)


def _never(inputs: Mapping[str, NDArray[Any]], seconds: float | None) -> Answered:  # noqa: ARG001
    raise UnreadableOutputError("this monitor calls the model again, which is not possible for this exchange")


def _readable(answered: Answered | None, cause: str) -> Answered:
    if cause:
        raise UnreadableOutputError(cause)
    if answered is None:
        raise UnreadableOutputError("upstream's answer is not a readable ModelInferResponse")
    return answered
