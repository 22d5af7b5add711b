"""From a configuration entry to a fitted score."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from demur.detectors.score import Reference, Score, Transform, absent
from demur.detectors.tensor import Signal, missing_of


def build_score(name: str | Mapping[str, Any], hyper: Mapping[str, Any] | None, reference: Reference) -> Score:
    """The named score fitted on the reference. `name` may be a whole entry, {name: hyper}.

    Any score takes `on`, the signal to read in the place of `features`: {knn: {on: layer3}} is the short form of
    {shaped: {transforms: [{select: {signal: layer3}}], score: knn}}. Where the reference's cells may be missing, `impute`
    (`missing` for a score of masks) stands in the place of `select`, and before a score that reads such a signal by its name.

    Raises: ValueError for an unknown score or hyper-parameter (listing the known ones), or from the fit.
    """
    from demur.detectors.scores import SCORES, STREAM_SCORES

    if not isinstance(name, str):
        name, hyper = _entry("score", name)
    hyper, known = hyper or {}, {**SCORES, **STREAM_SCORES}
    if "on" in hyper:
        rest = {k: v for k, v in hyper.items() if k != "on"}
        on = hyper["on"]
        before = [{"select": {"signal": on}}]
        if on in reference.absent:
            before = _filled(known.get(name), reference, on, "features") or [{"impute": {"signal": on}}]
        name, hyper = "shaped", {"transforms": before, "score": {name: rest}}
    elif filled := [t for s in sorted(reference.absent) for t in _filled(known.get(name), reference, s, s)]:
        name, hyper = "shaped", {"transforms": filled, "score": {name: hyper}}
    score: Score = _fit("score", name, known, hyper, reference)
    lacking = sorted(reference.absent & set(score.inputs) - set(absent(score)))
    if lacking:
        raise ValueError(f"score {name!r} reads {', '.join(lacking)}, whose cells may be missing; put impute before it")
    return score


def _filled(kind: type[Any] | None, reference: Reference, signal: Signal, name: Signal) -> list[dict[str, Any]]:
    """The transforms that make of a signal with missing cells what a score reads as `name`: values, their mask, or nothing."""
    reads = inspect.getattr_static(kind, "inputs", ())
    if not isinstance(reads, tuple):
        return []
    made = {output for transform in reference.transforms for output in transform.outputs}
    held = {
        "missing": missing_of(name) in set(reads) - made,
        "impute": name in reads,
    }  # impute may take the cells' place
    return [{how: {"signal": signal, "name": name}} for how, needed in held.items() if needed]


def build_transform(entry: str | Mapping[str, Any], reference: Reference) -> Transform:
    """The transform of an entry, `name` or {name: hyper}, fitted on the reference.

    Raises: ValueError as `build_score`.
    """
    from demur.detectors.transforms import TRANSFORMS

    name, hyper = (entry, {}) if isinstance(entry, str) else _entry("transform", entry)
    transform: Transform = _fit("transform", name, TRANSFORMS, hyper, reference)
    return transform


def accepted(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The hyper-parameters of a score or transform, by name."""
    parameters = inspect.signature(kind.fit).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _entry(what: str, entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if len(entry) != 1:
        raise ValueError(f"{what}: expected one name with its hyper-parameters, got {sorted(entry)}")
    ((name, hyper),) = entry.items()
    if hyper is not None and not isinstance(hyper, Mapping):
        raise ValueError(f"{what} {name!r}: expected hyper-parameters as a mapping, got {hyper!r}")
    return name, hyper or {}


def _fit(what: str, name: str, table: Mapping[str, type[Any]], hyper: Mapping[str, Any], reference: Reference) -> Any:
    if name not in table:
        close = get_close_matches(name, table, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown {what} {name!r}; {hint}known: {', '.join(table)}")
    known = accepted(table[name])
    unknown = sorted(set(hyper) - set(known))
    if unknown:
        raise ValueError(f"{what} {name!r}: unknown hyper-parameters {unknown}; accepted: {', '.join(known) or 'none'}")
    missing = sorted(n for n, p in known.items() if p.default is p.empty and n not in hyper)
    if missing:
        raise ValueError(f"{what} {name!r}: hyper-parameters {missing} must be given")
    return table[name].fit(reference, **hyper)
