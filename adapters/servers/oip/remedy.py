"""What a client gets instead of refused rows: replaced outputs, or another model's answer. The verdict stays what it is."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.servers.oip.annotation import action
from demur.adapters.servers.oip.proxied_model import ProxiedModel
from demur.adapters.servers.oip.reading import Answered, Hands, UnreadableOutputError
from demur.monitor.errors import DemurError
from demur.monitor.observation import Observation
from demur.monitor.verdicts import Action, Verdicts

LOG = logging.getLogger("demur.oip")
Arrays = dict[str, NDArray[Any]]


def tried(
    model: ProxiedModel, answered: Answered | None, hands: Hands, observation: Observation, verdicts: Verdicts
) -> Action:
    """What was done about rows to be blocked: REPLACE, ROUTE, or BLOCK when the configured remedy is not possible here; why
    not becomes part of the verdicts' cause.
    """
    try:
        return _given(model, answered, hands, refused(observation, verdicts))
    except (UnreadableOutputError, DemurError) as error:
        why = f"on_abstain: {model.config.on_abstain} was not possible: {error}"
        verdicts.cause = f"{verdicts.cause}; {why}" if verdicts.cause else why
        if not model.unremedied.of(""):
            LOG.warning("monitor %s: %s; likewise ones are not logged for a minute", verdicts.policy.monitor, why)
            model.unremedied.learn("", why)
        return Action.BLOCK


def _given(model: ProxiedModel, answered: Answered | None, hands: Hands, rows: NDArray[np.bool_]) -> Action:
    """REPLACE, or ROUTE. Raises: UnreadableOutputError, DemurError with why neither is possible."""
    other = model.config.fallback
    if model.config.on_abstain == "fallback" and other is not None:
        if hands.ask(other.model, other.version):
            return Action.ROUTE
        raise UnreadableOutputError(f"the model {other.model} gave no answer that can be sent")
    if answered is None or not rows.any():
        raise UnreadableOutputError("the answer has no rows that could be replaced")
    arrays = replaced(model, answered, rows)
    if not arrays:
        named = ", ".join(model.config.replace) or "none"
        raise UnreadableOutputError(f"`replace` names {named}, the answer has {', '.join(answered.names) or 'none'}")
    if not hands.put(arrays):
        raise UnreadableOutputError(f"no place in the answer that the client gets for {', '.join(arrays)}")
    return Action.REPLACE


def nothing(_: Observation, __: Verdicts) -> Action:
    """What is done about rows to be blocked where nobody can act on a verdict."""
    return Action.NONE


def done(verdicts: Verdicts) -> Action:
    """REPLACE or ROUTE when a remedy was given, else NONE."""
    found = action(verdicts)
    return found if found in (Action.REPLACE, Action.ROUTE) else Action.NONE


def refused(observation: Observation, verdicts: Verdicts) -> NDArray[np.bool_]:
    """(N,) the rows to be blocked, and every row of a group to be blocked."""
    rows = np.zeros(len(verdicts), np.bool_) if verdicts.actions is None else verdicts.actions == Action.BLOCK
    groups = verdicts.groups
    if groups is not None and groups.actions is not None and observation.grouping is not None:
        rows = rows | (groups.actions == Action.BLOCK)[observation.grouping.index]
    return rows


def replaced(model: ProxiedModel, answered: Answered, rows: NDArray[np.bool_]) -> Arrays:
    """The outputs in which refused rows no longer count: filled with the configured values, or emptied by the decoder.

    Raises: UnreadableOutputError when an output is not there, or not of one row for each verdict; DemurError.
    """
    limit = model.limits.tensor_bytes
    arrays: Arrays = {}
    if model.adapter is not None:
        tensors = readable(answered, limit)
        changed = model.adapter.without(tensors, rows)
        arrays |= {n: a for n, a in changed.items() if n in tensors and a is not tensors[n]}
    for name, value in model.config.replace.items():
        if name in answered.names:  # a client that did not ask for it does not get it
            arrays[name] = filled(answered.tensor(name).array(limit), rows, value, name)
    return arrays


def readable(answered: Answered, largest_bytes: int) -> Arrays:
    """Every output that can be read: a decoder may edit others than those it decodes."""
    found: Arrays = {}
    for name in answered.names:
        with contextlib.suppress(UnreadableOutputError):
            found[name] = answered.tensor(name).array(largest_bytes)
    return found


def filled(array: NDArray[Any], rows: NDArray[np.bool_], value: Any, name: str) -> NDArray[Any]:
    """A copy whose refused rows are `value`. Raises: UnreadableOutputError when rows or values do not fit."""
    if not rows.all() and (not array.ndim or len(array) != len(rows)):
        raise UnreadableOutputError(
            f"output {name}: expected one row for each of {len(rows)} verdicts, got {array.shape}"
        )
    found = array.copy()
    content = filling(found.dtype, value, name)
    if rows.all():
        found[...] = content
    else:
        found[rows] = content
    return found


def filling(dtype: np.dtype[Any], value: Any, name: str) -> Any:
    """A configured value as one of this dtype. Raises: UnreadableOutputError when it is none."""
    if dtype.hasobject:
        return value.encode() if isinstance(value, str) else str(value).encode()
    if dtype.kind == "f":
        fits = isinstance(value, float | int) and abs(value) <= float(np.finfo(dtype).max)
    else:
        fits = isinstance(value, float | int) and _whole(dtype, value)
    if not fits:
        raise UnreadableOutputError(f"output {name}: {value!r} is no {dtype}")
    return dtype.type(value)


def _whole(dtype: np.dtype[Any], value: float) -> bool:
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return value == value // 1 and low <= value <= high
