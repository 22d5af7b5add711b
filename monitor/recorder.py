"""From verdicts, labels and bundle changes to records of the audit log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from demur.detectors.reason import Reason
from demur.monitor.audit import AuditLog, Record
from demur.monitor.audit.block import VerdictBlock, digest
from demur.monitor.bundle.succession import LastServed
from demur.monitor.config.server import MonitorAuditConfig
from demur.monitor.errors import InvalidObservation
from demur.monitor.event import BundleEvent, DecisionEvent, RefusalEvent
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.session import environment_digest
from demur.monitor.verdicts import BROKEN, Action, Verdicts

if TYPE_CHECKING:
    from demur.monitor.service.labels import Label

ACTIVATED = re.compile(r"version (\d{1,200})(?: of (.*))? activated", re.DOTALL)
KINDS = tuple((kind, int(kind), str(kind.name)) for kind in Reason)


class AuditRecorder:
    """Writes one leaf and one verdict block for each answered request, under one monitor's audit choices."""

    def __init__(self, log: AuditLog, config: MonitorAuditConfig) -> None:
        self._log, self._config = log, config
        self._environment = environment_digest()

    @property
    def gates(self) -> bool:
        """Whether the operator wants no answer before, or without, its record."""
        return self._config.ack == "after_sync" or self._config.on_failure == "block"

    def record(self, loaded: Loaded, observation: Observation, verdicts: Verdicts) -> tuple[int, bool]:
        """The record's number and whether it is on its way into the log. Raises: AuditUnavailable when told to block."""
        block = _block(verdicts).encode()
        model = observation.model
        record = Record(
            kind="stream" if loaded.manifest.kind == "stream" else "verdict",
            monitor=verdicts.policy.monitor,
            bundle=verdicts.policy.bundle,
            request=observation.request,
            model_name=model.get("name", ""),
            model_version=model.get("version", ""),
            model_digest=model.get("digest", ""),
            rows=len(verdicts),
            accepted=int(np.count_nonzero(verdicts.accept)),
            reasons=_counts(verdicts),
            action=_actions(verdicts),
            mode=verdicts.mode,
            cause=verdicts.cause if verdicts.reason_bits.any() and _told(loaded, verdicts) else "",
            environment=self._environment,
            block=digest(block),
        )
        pending = self._log.append(record, block, on_failure=self._config.on_failure, ack=self._config.ack)
        return max(pending.sequence, 0), pending.audited


class AuditTrail:
    """What else the log hears: bundle changes, refused requests, labels."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def on_decision(self, event: DecisionEvent) -> None:
        """Verdicts are recorded before they are answered, by AuditRecorder."""

    def on_refusal(self, event: RefusalEvent) -> None:
        """Counted: a drop record says how many, so that a flood of bad requests is not a flood of records."""
        self._log.count_drop(event.monitor, f"refused: {event.kind}")

    def on_bundle(self, event: BundleEvent) -> None:
        """One record for each bundle taken or refused."""
        said = event.built_for and f" of {event.built_for}"
        note = f"version {event.version}{said} activated" if event.accepted else "refused"
        self._log.append(
            Record(kind="bundle", monitor=event.monitor, bundle=event.bundle, cause=event.cause, note=note)
        )

    def last_served(self) -> dict[str, LastServed]:
        """What the log says was activated last under each name, before it was opened."""
        return last_served(self._log.bundles)

    def label(self, label: Label) -> int:
        """A label or review of an earlier verdict, durable when this returns.

        Raises: InvalidObservation for a record that is not in the log, AuditUnavailable when it cannot be written.
        """
        if label.sequence >= self._log.next:
            raise InvalidObservation(
                f"sequence: the log has no record {label.sequence} yet; it ends at {self._log.next - 1}"
            )
        said = {"label": label.label, "correct": label.correct, "reviewer": label.reviewer, "note": label.note}
        note = json.dumps({k: v for k, v in said.items() if v not in ("", None)}, ensure_ascii=False)
        kind: Literal["label", "review"] = "review" if label.kind == "review" else "label"
        record = Record(kind=kind, monitor=label.monitor, target=f"{label.sequence}/{label.row}", note=note)
        return self._log.append(record, on_failure="block", ack="after_sync").sequence


def last_served(bundles: Iterable[Record]) -> dict[str, LastServed]:
    """What these records, oldest first, say was activated last under each name."""
    found = ((record.monitor, ACTIVATED.fullmatch(record.note)) for record in bundles)
    return {name: LastServed(name, int(said[1]), said[2] or "") for name, said in found if said is not None}


def _block(verdicts: Verdicts) -> VerdictBlock:
    groups = None if verdicts.groups is None else _block(verdicts.groups)
    return VerdictBlock(
        verdicts.columns, verdicts.scores, verdicts.p_values, verdicts.reason_bits, verdicts.accept, groups
    )


def _counts(verdicts: Verdicts) -> dict[str, int]:
    """How many units have each reason kind; groups count under `group:KIND`."""
    bits, found = verdicts.reason_bits, {}
    if bits.any():
        found = {name: n for _, bit, name in KINDS if (n := int(np.count_nonzero(bits & bit)))}
    if verdicts.groups is not None:
        found |= {f"group:{name}": n for name, n in _counts(verdicts.groups).items()}
    return found


def _actions(verdicts: Verdicts) -> str:
    """The gravest action of the batch."""
    if verdicts.actions is None or not verdicts.actions.any():
        return "none"
    return Action(int(verdicts.actions.max())).name.lower()


def _told(loaded: Loaded, verdicts: Verdicts) -> bool:
    """Whether the cause is about these verdicts; a stream's stands ready for steps that could not be assessed."""
    return loaded.manifest.kind == "rows" or bool((verdicts.reason_bits & BROKEN).any())
