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
    model, compared = loaded.manifest.model, 0
    for key in ("version", "digest"):
        said, known = observation.model.get(key, ""), model.get(key, "")
        if said and known and said != known:
            return f"model {key} {said!r} is not the {known!r} this bundle was fitted for"
        compared += bool(said and known)
    decoded, known = observation.model.get("decoding", ""), loaded.decoding
    if decoded and known and decoded != known:
        return (
            f"contract: rows were decoded otherwise than those this bundle was made from (settings {decoded[:16]!r}..., "
            f"expected {known[:16]!r}...); decode with the signal map that its tables were collected with"
        )
    if model.get("required") and not compared:
        return "this monitor requires the model's version or digest with each request, as the bundle names it"
    if loaded.grouped and observation.grouping is None:
        return "group_id is missing: this policy judges groups"
    return ""


def out_of_range(loaded: Loaded, observation: Observation) -> int:
    """How many rows have a signal value outside its range over the calibration rows."""
    strange = np.zeros(observation.rows, np.bool_)
    for name, (low, high) in loaded.ranges.items():
        values = observation.signals.get(name)
        if values is not None:
            strange |= (np.fmax.reduce(values, axis=1) > high) | (np.fmin.reduce(values, axis=1) < low)  # past NaN
    return int(np.count_nonzero(strange))
