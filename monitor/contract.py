"""What a bundle demands of an observation, and how usual the observation is."""

from __future__ import annotations

import numpy as np

from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation


def why_not(loaded: Loaded, observation: Observation) -> str:
    """Why these rows cannot be assessed with this bundle, or ""."""
    if observation.cause:
        return observation.cause
    missing = [n for n in observation.missing if n not in loaded.unread]
    if missing:
        return f"missing signal: {', '.join(missing)}"
    if other := _other_model(loaded, observation):
        return other
    if loaded.grouped and observation.grouping is None:
        return "group_id is missing: this policy judges groups"
    return ""


def _other_model(loaded: Loaded, observation: Observation) -> str:
    """What the caller says of its model that is not what the bundle was fitted for, or ""."""
    said, known = observation.model, loaded.manifest.model
    both = [key for key in ("version", "digest") if said.get(key) and known.get(key)]
    for key in both:
        if said[key] != known[key]:
            return f"model {key} {said[key]!r} is not the {known[key]!r} this bundle was fitted for"
    decoded = said.get("decoding", "")
    if decoded and loaded.decoding and decoded != loaded.decoding:
        return (
            f"contract: rows were decoded otherwise than those this bundle was made from (settings {str(decoded)[:16]!r}..., "
            f"expected {loaded.decoding[:16]!r}...); decode with the signal map that its tables were collected with"
        )
    if known.get("required") and not both:
        return "this monitor requires the model's version or digest with each request, as the bundle names it"
    return ""


def out_of_range(loaded: Loaded, observation: Observation) -> int:
    """How many rows have a signal value outside its range over the calibration rows."""
    strange = np.zeros(observation.rows, np.bool_)
    for name, (low, high) in loaded.ranges.items():
        values = observation.signals.get(name)
        if values is not None:
            strange |= (np.fmax.reduce(values, axis=1) > high) | (np.fmin.reduce(values, axis=1) < low)  # past NaN
    return int(np.count_nonzero(strange))
